# Shared by the steps of tests/systemd: the .rpm, as a service in the machine and in a tree that has not booted.
# Sourced, not run. Uses what tests/systemd defines.
# shellcheck shell=bash disable=SC2154,SC2034 # what the sourcing script sets and uses

# The .rpm as a service. rpm of Debian keeps its database elsewhere than where every distribution of rpm has it.
rpm_in_machine() { in_machine rpm --dbpath /var/lib/rpm "$@" </dev/null >"$work/rpm.log" 2>&1; }
older_rpm() { echo "/root/packages-older/picket-agent-0.0.9-1.x86_64.rpm"; }

rpm_it() {
  local begin=$SECONDS took pid state=/usr/share/picket-agent/state-version known
  ip -n "$far" link set far0 up
  cp "$work"/packages-older/picket-agent-*.rpm "$tree/root/packages-older/" && cp "$work"/packages/picket-agent-*.rpm "$tree/root/packages/"
  in_machine rpm --dbpath /var/lib/rpm --initdb
  in_machine env PICKET_JOIN="$(new_join)" rpm --dbpath /var/lib/rpm -i --nodeps "$(older_rpm)" </dev/null >"$work/rpm.log" 2>&1 || fail "rpm -i: $(cat "$work/rpm.log")"
  wait_for "the agent of the .rpm" 20 is_protected
  wait_for "its connection" 60 is_connected
  identity=$(agent_json status | python3 -c 'import json,sys; print(json.load(sys.stdin)["agent"])')
  rpm_in_machine -V --nodeps picket-agent || fail "rpm -V: $(cat "$work/rpm.log")"
  shown "the .rpm installed by rpm with PICKET_JOIN in the booted machine: protecting, enrolled and connected; rpm -V has nothing to say"
  in_machine sed -i 's/^# Picket agent:/# Ours. Picket agent:/' /etc/picket/agent.toml
  rpm_in_machine -U --nodeps "/root/packages/picket-agent-$version-1.x86_64.rpm" || fail "rpm -U: $(cat "$work/rpm.log")"
  wait_for "the new version" 20 is_protected
  bounded "from the old agent's end to the new one's readiness" 1000 gap_took
  wait_for "the record of the upgrade" 30 record "The agent was upgraded from 0.0.9 to $version"
  expect "the configuration is kept" in_machine grep -q '^# Ours' /etc/picket/agent.toml
  same_identity || fail "another identity"
  expect "the ledger holds" in_machine agent verify
  wait_for "the connection of the new version" 60 is_connected
  shown "  upgraded by rpm: the ledger says so, configuration and identity kept; $took ms from the old agent's end to the new one's readiness"
  resume_it
  known=$(in_machine cat "$state")
  pid=$(main_pid)
  in_machine sh -c "echo 9 > $state"
  if rpm_in_machine -U --nodeps --oldpackage "$(older_rpm)"; then fail "a downgrade below the state's format went on"; fi
  expect "rpm says why" grep -q "refused, and nothing was changed: the state in /var/lib/picket has format 9, and this version knows $known" "$work/rpm.log"
  in_machine sh -c "echo $known > $state"
  [ "$(main_pid)" = "$pid" ] && is_protected && [ "$(in_machine agent --version)" = "agent $version" ] || fail "the refused downgrade touched the agent that runs"
  shown "  a downgrade to a version that does not know the state's format: refused by %pre, and the agent ran on untouched"
  rpm_in_machine -U --nodeps --oldpackage "$(older_rpm)" || fail "downgrade: $(cat "$work/rpm.log")"
  wait_for "the older version" 20 is_protected
  [ "$(in_machine agent --version)" = "agent 0.0.9" ] || fail "another version than the older: $(in_machine agent --version)"
  same_identity || fail "another identity"
  expect "the ledger holds" in_machine agent verify
  shown "  downgraded by rpm where the format is known: identity and ledger kept"
  isolate_by_bpf_it
  rpm_remove_it
  shown "  all of the .rpm took $((SECONDS - begin)) s"
}

# A transaction that ended between %pre and %post, which exchanges the agent and its timer.
resume_it() {
  if in_machine systemctl is-active --quiet picket-agent-resume.timer; then fail "the timer of %pre is there after %post"; fi
  rpm -q --qf '%{PREIN}' -p "$work"/packages/picket-agent-*.rpm >"$tree/root/pre"
  expect "%pre" in_machine sh /root/pre 2
  in_machine systemctl stop picket-agent
  expect "a timer is set" in_machine systemctl is-active --quiet picket-agent-resume.timer
  in_machine systemctl start picket-agent-resume.service
  wait_for "the agent to be back after a transaction that ended half way" 30 is_protected
  in_machine sh -c 'systemctl stop picket-agent-resume.timer; rm /root/pre'
  shown "  a transaction that ends before %post: the agent comes back by a timer, which %post takes away"
}

# By programs at control groups, which nothing of a firewall shows.
isolate_by_bpf_it() {
  in_machine sh -c 'printf "\n[response]\nrung = \"cgroup-bpf\"\n" >>/etc/picket/agent.toml && systemctl restart picket-agent'
  wait_for "the agent with another rung" 20 is_protected
  wait_for "its connection" 60 is_connected
  expect "a stranger connects" connects
  isolation=$(order isolate --lease 20m)
  wait_for "the isolation to be confirmed" 60 outcome "$isolation" confirmed
  if connects; then fail "a stranger connects to the isolated machine"; fi
  group_programs | grep -q . || fail "no BPF program is at a control group: $(in_machine agent commands)"
  [ -z "$(in_machine nft list ruleset)" ] || fail "it was isolated by tables"
}

rpm_remove_it() {
  rpm_in_machine -e picket-agent || fail "rpm -e: $(cat "$work/rpm.log")"
  expect "the isolation has ended" connects
  [ -z "$(group_programs)" ] || fail "BPF programs are left: $(group_programs)"
  expect "the last record was delivered" in_machine grep -q '"delivered":true' /var/lib/picket/core/removed.json
  [ -z "$(in_machine nft list ruleset)" ] || fail "tables are left"
  expect "rpm says what is kept" grep -q 'identity and ledger stay in /var/lib/picket' "$work/rpm.log"
  [ "$(in_machine find /etc/picket -type f | sort | paste -s)" = $'/etc/picket/agent.toml\t/etc/picket/policy.toml' ] || fail "left in /etc/picket: $(in_machine find /etc/picket)"
  expect "the configuration is kept" in_machine grep -q '^# Ours' /etc/picket/agent.toml
  expect "purge" in_machine sh /var/lib/picket/purge
  snapshot "$work/after-rpm"
  expect "the machine is as it was" diff -u "$work/before" "$work/after-rpm"
  shown "  removed by rpm while BPF programs isolated it: they are gone, the last record was delivered, configuration, identity and ledger are kept; /var/lib/picket/purge: the machine is as it was before"
}

# As the .rpm once was: the host's own files are its %config.
rpm_with_config() {
  local once="$work/rpm-once"
  mkdir -p "$once/files"
  cp "$CHECKOUT/packaging/etc/picket/agent.toml" "$CHECKOUT/packaging/policy.toml" "$once/files/"
  cat >"$once/spec" <<S
Name: picket-agent
Version: 0.0.1
Release: 1
Summary: As it once was
License: none
%description
%install
install -D -m 644 -t %{buildroot}/etc/picket $once/files/agent.toml $once/files/policy.toml
%files
%config(noreplace) /etc/picket/*
S
  rpmbuild --quiet -bb --target x86_64-linux --define "_topdir $once" --define '_build_id_links none' "$once/spec" >"$work/rpmbuild.log" 2>&1 || fail "rpmbuild: $(cat "$work/rpmbuild.log")"
}

# What its owner wrote stays his through the package that owned it, through removal and installation; on RHEL 7 the unit is bounded, too.
rpm_keeps_it() {
  local unit=$tree/etc/systemd/system/picket-agent.service.d/before-231.conf
  rpm --root "$tree" --nodeps -i "$work"/rpm-once/RPMS/x86_64/*.rpm && echo '# Ours' >>"$tree/etc/picket/policy.toml" &&
    rpm --root "$tree" --nodeps -U "$work"/packages-older/picket-agent-*.rpm && grep -q '^# Ours' "$tree/etc/picket/policy.toml" &&
    [ -e "$tree/etc/picket/agent.toml" ] && [ -z "$(find "$tree/etc/picket" -name '*.rpm*')" ] && [ ! -e "$unit" ] &&
    rpm --root "$tree" -e picket-agent && install -m 755 "$work/systemctl" "$tree/usr/sbin/systemctl" &&
    rpm --root "$tree" --nodeps -i "$work"/packages-older/picket-agent-*.rpm && grep -q '^# Ours' "$tree/etc/picket/policy.toml" && grep -q '^MemoryLimit=' "$unit"
}

# Installed, upgraded, verified, removed.
rpm_of_collector() {
  rpm --root "$tree" --nodeps -i "$work"/packages-older/picket-collector-*.rpm && rpm --root "$tree" --nodeps -U "$work"/packages/picket-collector-*.rpm &&
    rpm --root "$tree" -V --nodeps picket-collector && chroot "$tree" collector --version && chroot "$tree" soc --version && rpm --root "$tree" -e picket-collector
}

# The same where no systemd runs, as when an image is made.
rpm_in_tree_it() {
  stop_machine
  rpm --root "$tree" --initdb
  tree_files ! -path './var/lib/rpm*' -printf '%M %U:%G %P %l\n' | sort >"$work/rpm-before"
  mount -t proc proc "$tree/proc"
  rpm_with_config
  printf '#!/bin/sh\n[ "$1" = --version ] && echo "systemd 219" || exec /usr/bin/systemctl "$@"\n' >"$work/systemctl"
  local code=0
  {
    rpm_keeps_it && rm "$tree/usr/sbin/systemctl" &&
      rpm --root "$tree" --nodeps -U "$work/packages"/picket-agent-*.rpm &&
      rpm --root "$tree" -V --nodeps picket-agent && test -e "$tree/usr/share/zsh/site-functions/_agent" && chroot "$tree" agent --version &&
      rpm --root "$tree" -e picket-agent && rpm_of_collector
  } >"$work/rpm.log" 2>&1 || code=$?
  umount "$tree/proc"
  [ "$code" -eq 0 ] || fail "rpm: $(cat "$work/rpm.log")"
  expect "it is noted that the package made the account" test -e "$tree/var/lib/picket/account-made"
  expect "purge" chroot "$tree" sh /var/lib/picket/purge
  # What it has received is the vendor's, and nobody's to remove but his.
  expect "the collector's directory is its account's alone" chroot "$tree" sh -c '[ "$(stat -c %U:%a /var/lib/picket-collector)" = picket-collector:700 ] && rm -r /var/lib/picket-collector && userdel picket-collector'
  tree_files ! -path './var/lib/rpm*' -printf '%M %U:%G %P %l\n' | sort >"$work/rpm-after"
  expect "the tree is as before" diff "$work/rpm-before" "$work/rpm-after"
  shown "the .rpm in a tree that has not booted: installed over one that owned the configuration, removed, installed again and upgraded, with"
  shown "  the owner's policy all the while; verified, removed and purged: nothing is left; the same with the collector's, which leaves its directory"
}
