# Sourced: starts `millstream broker` on a free port in a folder of its own and sets BOOTSTRAP; stops it at exit.
start_broker() {
  [ -n "${BOOTSTRAP:-}" ] && return
  local binary=${MILLSTREAM:-$root/target/debug/millstream}
  broker_dir=$(mktemp -d)
  "$binary" broker --data "$broker_dir/data" --listen 127.0.0.1:0 --set group.initial.rebalance.delay.ms=0 \
    --set num.partitions=2 "$@" >"$broker_dir/log" 2>&1 &
  broker_pid=$!
  trap 'kill $broker_pid 2>/dev/null; wait $broker_pid 2>/dev/null; rm -rf "$broker_dir"' EXIT
  for _ in $(seq 200); do
    BOOTSTRAP=$(grep -oE -m1 '127\.0\.0\.1:[1-9][0-9]*' "$broker_dir/log") && break
    kill -0 $broker_pid 2>/dev/null || break
    read -r -t 0.05 <> <(:) || true
  done
  export BOOTSTRAP
  [ -n "$BOOTSTRAP" ] || { echo "FAILED  the broker did not start:"; cat "$broker_dir/log"; exit 1; }
}
