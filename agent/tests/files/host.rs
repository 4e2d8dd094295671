//! The places of a host that matter, private to a mount namespace: a copy of this machine's, in which real tools may do
//! harm.

use std::fs;

use crate::filesystems::run;
use crate::lab::Lab;

/// Places of this namespace alone: copies of this machine's, with a secret in `shadow` that must get out nowhere.
pub fn private_places(lab: &Lab) {
    let places = lab.directory.path().join("places");
    fs::create_dir(&places).unwrap();
    let script = format!(
        "cd {} && mkdir boot spool srv root && cp -a /etc etc && cp -a /var/spool/. spool/
         mkdir -p spool/cron/crontabs spool/cron/atjobs srv/www/uploads root/.ssh etc/cron.d etc/sudoers.d etc/apt/trusted.gpg.d
         mkdir -p etc/modprobe.d etc/modules-load.d etc/udev/rules.d etc/update-motd.d etc/xdg/autostart etc/yum.repos.d
         mkdir -p etc/profile.d etc/ld.so.conf.d etc/init.d etc/systemd/system etc/rsyslog.d etc/audit/rules.d etc/sysctl.d
         mkdir -p etc/cron.hourly etc/cron.daily etc/cron.weekly etc/cron.monthly etc/selinux etc/ssh/sshd_config.d
         rm -f etc/anacrontab etc/resolv.conf etc/hosts etc/ssh/ssh_host_*
         echo 'nameserver 192.0.2.53' > etc/resolv.conf; echo '127.0.0.1 localhost' > etc/hosts
         printf 'Port 22\\nPermitRootLogin no\\n' > etc/ssh/sshd_config
         echo 'SELINUX=enforcing' > etc/selinux/config; printf '#!/usr/sbin/nft -f\\n' > etc/nftables.conf
         printf 'root:$y$j9T$Geheim$Geheimnis:19000:0:99999:7:::\\n' > etc/shadow; printf 'root:*::\\n' > etc/gshadow
         printf 'root:x:0:0:root:/root:/bin/bash\\nbin:x:2:2:bin:/bin:/usr/sbin/nologin\\n' > etc/passwd
         printf 'root:x:0:\\nsudo:x:27:\\nbin:x:2:\\ncrontab:x:101:\\n' > etc/group
         for each in etc boot srv root; do mount --bind $each /$each; done; mount --bind spool /var/spool",
        places.display()
    );
    run("sh", &["-ec", &script]);
}
