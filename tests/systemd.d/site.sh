# Shared by the steps of tests/systemd: the vendor's side across the wire, and a stranger beside it.
# Sourced, not run. Uses $work, $programs and $far.
# shellcheck shell=bash disable=SC2154,SC2034 # what the sourcing script sets and uses

collector_pid='' ping_pid='' join=''

at_far() { ip netns exec "$far" "$@"; }
collector() { "$programs/collector" "$@" --data-dir "$work/collector"; }
soc() { at_far "$programs/soc" --config "$work/soc.toml" "$@"; }

# start_site: a collector, an operator with a key, and a trust root that lets one signature isolate one host.
start_site() {
  far=picket-far-$$
  ip netns add "$far"
  ip -n "$far" link set lo up
  # The wire comes and goes with the machine; the address is there all the time.
  ip -n "$far" addr add 10.77.0.3/32 dev lo
  "$programs/collector" init --data-dir "$work/collector" --address 10.77.0.3:8443 >/dev/null
  start_collector
  collector operator add test --role admin --soc-config "$work/soc.toml" >/dev/null
  soc keygen --name alice --out "$work/alice.key" >/dev/null
  soc trust new --tenant acme --key "$work/alice.key.pub" --action isolate --hosts 1=1 --root-threshold 1 -o "$work/root.json" >/dev/null
  soc sign "$work/root.json" --key "$work/alice.key" --yes >/dev/null
  collector trust install "$work/root.json" >/dev/null
  join=$(new_join)
}

start_collector() {
  # Not by a function: its process number is to be the collector's own.
  ip netns exec "$far" "$programs/collector" run --data-dir "$work/collector" >"$work/collector.log" 2>&1 &
  collector_pid=$!
  wait_for "the collector" 20 grep -q '^listening on' "$work/collector.log"
}
stop_collector() {
  kill "$collector_pid"
  wait "$collector_pid" || :
  collector_pid=''
}

new_join() { collector token --tenant acme | grep -o 'picket1\.[A-Za-z0-9_-]*'; }

# found NEEDLE: a finding at the collector that names it.
found() { soc findings --limit 500 --json | grep -F -- "$1" >/dev/null; }

# order ACTION OPTION…: written for the present identity, signed and sent; prints the command's id.
order() {
  local file=$work/order.json
  rm -f "$file"
  soc command new "$@" --host "$identity" --reason test --ticket T-1 -o "$file" >/dev/null
  soc sign "$file" --key "$work/alice.key" --yes >/dev/null
  soc send "$file" --json | grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4
}

# outcome COMMAND OUTCOME
outcome() { soc receipts --command "$1" --json | tr -d ' ' | grep "\"outcome\":\"$2\"" >/dev/null; }

# A stranger: another address on the same wire.
reachable() { at_far ping -q -c 3 -i 0.2 -W 1 -I 10.77.0.9 "$MACHINE_ADDRESS"; }
# Where programs at control groups isolate, the kernel itself answers a ping: they see what has a socket.
connects() { at_far timeout 2 bash -c "exec 3<>/dev/tcp/$MACHINE_ADDRESS/22"; }
unreachable() { ! at_far ping -q -c 2 -i 0.2 -W 1 -I 10.77.0.9 "$MACHINE_ADDRESS"; }

# watch_wire: from now on the stranger asks twenty times a second, across reboots.
watch_wire() {
  : >"$work/pings"
  # shellcheck disable=SC2016 # for the inner shell
  ip netns exec "$far" bash -c 'while :; do ping -n -c 1 -W 0.2 -I 10.77.0.9 "$1" 2>&1 | grep -o "bytes from\|transmitted" >> "$2"; done' watch "$MACHINE_ADDRESS" "$work/pings" >/dev/null 2>&1 &
  ping_pid=$!
}
answers_on_wire() {
  kill "$ping_pid" 2>/dev/null || :
  wait "$ping_pid" 2>/dev/null || :
  ping_pid=''
  grep -c 'bytes from' "$work/pings" || :
}
asked_on_wire() { grep -c transmitted "$work/pings" || :; }

# ssh_to USER [COMMAND…]: by the stranger's key.
ssh_to() {
  local user=$1
  shift
  if [ ! -e "$work/ssh" ]; then
    ssh-keygen -q -t ed25519 -N '' -f "$work/ssh"
    in_machine sh -c 'mkdir -p -m 700 /root/.ssh; cat > /root/.ssh/authorized_keys' <"$work/ssh.pub"
  fi
  at_far ssh -q -i "$work/ssh" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=10 "$user@$MACHINE_ADDRESS" "$@" </dev/null
}

# shellcheck disable=SC2329 # called by the trap
clean_up() {
  local code=$?
  trap '' INT TERM
  [ -z "$ping_pid" ] || kill "$ping_pid" 2>/dev/null || :
  [ -z "$machine_pid" ] || end_machine
  [ -z "$collector_pid" ] || { kill "$collector_pid" 2>/dev/null && wait "$collector_pid" 2>/dev/null; } || :
  [ -z "$far" ] || ip netns del "$far" 2>/dev/null || :
  [ "$code" -eq 0 ] || cp "$work/console.log" /var/tmp/picket-systemd-console.log 2>/dev/null || :
  # What was a process of the machine a moment ago may hold it still.
  if mountpoint -q "$work/tree"; then umount "$work/tree" 2>/dev/null || umount --lazy "$work/tree" || :; fi
  rm -rf --one-file-system "$work"
  exit "$code"
}
