# Starts a program that is unpacked and not installed: a mount and process namespace whose root is this machine's with the
# program's files above it, where nothing that happens reaches this machine, and a real rsyslogd. All of it ends with this process.
#
#   unshare --mount --pid --fork --kill-child --propagation private sh -e unpacked.sh PROGRAM DIRECTORY
#
# PROGRAM is the directory with its files. DIRECTORY is /srv there and has start, a script that ends by becoming the program; what
# is written to /var/log comes to DIRECTORY/log, all of syslog to DIRECTORY/log/syslog.
program=$1 directory=$2 root=$2/overlay/root
mkdir -p "$directory/overlay" "$directory/log"
mount -t tmpfs -o mode=755 picket "$directory/overlay"
mkdir "$directory/overlay/upper" "$directory/overlay/work" "$root"
cp -a "$program/." "$directory/overlay/upper"
mount -t overlay -o "lowerdir=/,upperdir=$directory/overlay/upper,workdir=$directory/overlay/work" picket "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 picket "$root/dev"
for node in null zero full random urandom tty; do
  touch "$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/net"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 picket "$root/run"
mount -t tmpfs -o mode=1777 picket "$root/tmp"
mount --bind "$directory/log" "$root/var/log"
mount --bind "$directory" "$root/srv"
cd "$root"
pivot_root . mnt
umount -l /mnt
cat >/run/rsyslog.conf <<'CONF'
module(load="imuxsock" SysSock.RateLimit.Interval="0")
$RepeatedMsgReduction off
*.* action(type="omfile" file="/var/log/syslog")
CONF
rsyslogd -n -f /run/rsyslog.conf -i /run/rsyslogd.pid &
until [ -S /dev/log ]; do sleep 0.02; done
useradd --create-home --shell /bin/bash alice
echo alice:secret | chpasswd
sh -e /srv/start &
wait $!
