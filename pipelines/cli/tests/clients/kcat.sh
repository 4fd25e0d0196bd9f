#!/usr/bin/env bash
# kcat (librdkafka): list, produce, consume, by group and in transactions' shadow.
set -uo pipefail
bad=0
topic=kcat-$$
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
check() { if [ "$2" = "$3" ]; then echo "ok      kcat $1"; else bad=1; echo "FAILED  kcat $1: got '$2', expected '$3'"; fi; }

seq 1 1000 | timeout 30 kcat -b "$BOOTSTRAP" -P -t "$topic" -X topic.request.required.acks=-1
check produces_with_auto_created_topic $? 0
timeout 30 kcat -b "$BOOTSTRAP" -C -t "$topic" -e -q -o beginning >"$work/all" 2>/dev/null
check consumes_all "$(sort -n "$work/all" | md5sum)" "$(seq 1 1000 | md5sum)"
timeout 30 kcat -b "$BOOTSTRAP" -L -t "$topic" >"$work/list"
check lists_the_topic "$(grep -c "topic \"$topic\"" "$work/list")" 1
check lists_the_broker "$(grep -cE '^  broker [0-9]+ at' "$work/list")" 1
for codec in gzip snappy lz4 zstd; do
  seq 1 200 | timeout 30 kcat -b "$BOOTSTRAP" -P -t "$topic-$codec" -z $codec
  check "reads_back_$codec" "$(timeout 30 kcat -b "$BOOTSTRAP" -C -t "$topic-$codec" -e -q -o beginning 2>/dev/null | sort -n | md5sum)" "$(seq 1 200 | md5sum)"
done
check queries_offsets "$(timeout 30 kcat -b "$BOOTSTRAP" -Q -t "$topic-gzip:0:-1" | grep -oE '[0-9]+$' | head -1 | grep -cE '^[0-9]+$')" 1
check consumes_in_a_group "$(timeout 60 kcat -b "$BOOTSTRAP" -G "group-$$" -e -q -X auto.offset.reset=earliest "$topic" 2>/dev/null | wc -l)" 1000
exit $bad
