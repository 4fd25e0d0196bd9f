#!/usr/bin/env bash
# fsyncs for each acknowledged produce request: fsyncs.sh BINARY PERF_DIR [RECORDS] [CLIENTS]
set -euo pipefail
binary=$1 perf=$2 records=${3:-100000} clients=${4:-1}
for partitions in 1 64 1000; do
  data=$(mktemp -d) port=$((20000 + RANDOM % 9000))
  "$binary" broker --data $data --listen 127.0.0.1:$port >/dev/null 2>&1 & broker=$!
  timeout 30 bash -c "until (: </dev/tcp/127.0.0.1/$port) 2>/dev/null; do sleep 0.05; done"
  "$binary" topics -b 127.0.0.1:$port create t --partitions $partitions >/dev/null
  (cd $perf; ./peer.sh tool producer-perf --bootstrap-server 127.0.0.1:$port --topic t --num-records 20000 --record-size 1024 --throughput -1 --command-property acks=all >/dev/null)
  strace -f -c -e trace=fdatasync,fsync -o $data.strace -p $broker 2>/dev/null & tracer=$!
  timeout 30 bash -c "until grep -q 'TracerPid:.*[1-9]' /proc/$broker/status; do sleep 0.05; done"
  for c in $(seq $clients); do (cd $perf; ./peer.sh tool producer-perf --bootstrap-server 127.0.0.1:$port --topic t --num-records $((records/clients)) --record-size 1024 --throughput -1 --print-metrics --command-property acks=all linger.ms=0) >$data.perf.$c & pids[$c]=$!; done
  for c in $(seq $clients); do wait ${pids[$c]}; done
  kill -INT $tracer; wait $tracer || true
  kill $broker; wait $broker || true
  calls=$(awk '/sync/ {n += $4} END {print n}' $data.strace)
  requests=$(cat $data.perf.* | awk -F: '/producer-metrics:request-total/ {n += $NF} END {print n}')
  batches=$(cat $data.perf.* | awk -F: '/batch-size-avg/ {print $NF; exit}')
  queued=$(cat $data.perf.* | awk -F: '/records-per-request-avg/ {print $NF; exit}')
  echo "partitions $partitions clients $clients records $records requests $requests fsyncs $calls  per request $(python3 -c "print(round($calls/$requests,3))") records/request $queued"
  rm -rf $data $data.*
done
