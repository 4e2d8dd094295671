# Shared by the steps of tests/systemd: a machine with a real systemd, in namespaces on a tree of Debian 12, and a wire to it.
# Sourced, not run. Uses $work; sets $tree and $machine_pid.
# shellcheck shell=bash disable=SC2154 # what the sourcing script sets

# What is in the tree; the tree is kept as an archive under the digest of this list.
readonly TREE_PACKAGES=systemd,systemd-sysv,dbus,udev,libpam-systemd,procps,iproute2,nftables,openssh-server,openssh-client,iputils-ping,bpftool,adduser,ca-certificates,apparmor,rsyslog,python3,python3-apt,rpm
readonly TREE_CACHE=/var/cache/picket-tests
readonly MACHINE_ADDRESS=10.77.0.2
tree='' machine_pid='' outer_pid='' near='' far='' cgroup=''

# unpack_tree: a fresh tree, from the archive where there is one.
unpack_tree() {
  local archive begin=$SECONDS
  archive=$TREE_CACHE/debian12-$(printf '%s' "$TREE_PACKAGES" | sha256sum | cut -c 1-16).tar
  if [ ! -e "$archive" ]; then
    local made
    made=$(mktemp -d /var/tmp/picket-tree.XXXXXX)
    debootstrap --variant=minbase --include="$TREE_PACKAGES" bookworm "$made" >"$work/debootstrap.log" 2>&1 || {
      tail -n 5 "$work/debootstrap.log" >&2
      rm -rf "$made"
      return 1
    }
    rm -f "$made"/var/cache/apt/archives/*.deb
    mkdir -p "$TREE_CACHE" && tar -C "$made" -cf "$archive.$$" . && mv "$archive.$$" "$archive" && rm -rf "$made"
  fi
  # On a file system of its own, as a machine has one: else all that others do on this one wakes the agent.
  tree=$work/tree
  truncate -s 8G "$work/disk" && mkfs.ext4 -q "$work/disk"
  mkdir "$tree" && mount -o loop "$work/disk" "$tree" && rmdir "$tree/lost+found"
  tar -C "$tree" -xpf "$archive"
  # The root of a directory of mktemp's is closed to every service that does not run as root.
  chmod 755 "$tree"
  echo customer >"$tree/etc/hostname"
  printf '127.0.0.1 localhost customer\n10.77.0.3 collector\n' >"$tree/etc/hosts"
  printf '[Match]\nName=eth0\n[Network]\nAddress=%s/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n' "$MACHINE_ADDRESS" >"$tree/etc/systemd/network/eth0.network"
  chroot "$tree" systemctl enable systemd-networkd >/dev/null 2>&1
  # Nothing waits for the outside, and no terminal is there.
  chroot "$tree" systemctl mask systemd-networkd-wait-online.service getty@tty1.service console-getty.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer >/dev/null 2>&1
  shown "a tree of Debian 12 ($((SECONDS - begin)) s)"
}

# What becomes the machine's first process. The boot's id is its own, as after a real reboot; the kernel's is this machine's.
# shellcheck disable=SC2016 # for the inner shell
readonly FIRST_PROCESS='
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
cp "$2" run-boot-id
mount --bind run-boot-id proc/sys/kernel/random/boot_id
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf || :
mount -t tracefs tracefs sys/kernel/tracing || :
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
pivot_root . mnt
umount -l /mnt
exec env -i container=picket PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=journal
'

# start_machine: boots; returns when systemd says that all has started.
start_machine() {
  near=picket-near-$$ far=${far:-picket-far-$$} cgroup=/sys/fs/cgroup/unified/picket-$$
  [ -d /sys/fs/cgroup/unified ] || cgroup=/sys/fs/cgroup/picket-$$
  ip netns add "$near"
  ip link add near0 netns "$near" type veth peer name far0 netns "$far"
  ip -n "$near" link set near0 name eth0
  ip -n "$near" link set lo up
  ip -n "$far" addr add 10.77.0.9/24 dev far0
  ip -n "$far" link set far0 up
  mkdir -p "$cgroup"
  cat /proc/sys/kernel/random/uuid >"$work/boot-id"
  (
    echo "$BASHPID" >"$cgroup/cgroup.procs"
    exec nsenter --net="/run/netns/$near" unshare --fork --pid --mount --uts --ipc --cgroup --kill-child \
      bash -c "$FIRST_PROCESS" first "$tree" "$work/boot-id"
  ) >>"$work/console.log" 2>&1 &
  outer_pid=$!
  wait_for "the first process" 10 first_process
  machine_pid=$(first_process)
  wait_for "the machine to have booted" 60 has_booted
}

first_process() { pgrep -P "$outer_pid"; }
has_booted() { in_machine systemctl is-system-running | grep -q 'running\|degraded'; }

# in_machine COMMAND…: as root there, from outside every session.
in_machine() {
  nsenter -t "$machine_pid" -a --wdns=/ env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
}
in_machine_for_customer() { in_machine env DEBIAN_FRONTEND=noninteractive "$@" </dev/null; }

# stop_machine: in good order, as its administrator would; nothing of its kernel's state outlives it.
stop_machine() {
  in_machine systemctl poweroff >/dev/null 2>&1 || :
  wait_for "the machine to have stopped" 60 has_stopped
  end_machine
}
has_stopped() { ! kill -0 "$outer_pid"; }

end_machine() {
  [ -z "$outer_pid" ] || { kill -9 "$outer_pid" 2>/dev/null && wait "$outer_pid" 2>/dev/null; } || :
  outer_pid='' machine_pid=''
  [ -z "$near" ] || ip netns del "$near" 2>/dev/null || :
  near=''
  [ -z "$cgroup" ] || find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || :
}

restart_machine() {
  stop_machine
  start_machine
}
