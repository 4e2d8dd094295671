useradd --system --no-create-home --home-dir /var/spool/postfix postfix 2>/dev/null || :
groupadd --system postdrop 2>/dev/null || :
echo 'alice:{PLAIN}secret' >/srv/users
mkdir -p /var/spool/postfix/private /var/lib/postfix
chown postfix /var/lib/postfix /var/spool/postfix/private
cat >/srv/dovecot.conf <<'CONF'
protocols =
ssl = no
disable_plaintext_auth = no
base_dir = /run/dovecot
log_path = /var/log/dovecot.log
auth_mechanisms = plain login
auth_failure_delay = 0
passdb {
  driver = passwd-file
  args = /srv/users
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=/tmp
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service auth {
  unix_listener /var/spool/postfix/private/auth {
    mode = 0666
  }
}
CONF
cat >/etc/postfix/main.cf <<'CONF'
compatibility_level = 3.6
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.example
mydestination =
alias_maps =
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = private/auth
smtpd_tls_security_level = none
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_error_sleep_time = 0
smtpd_peername_lookup = no
CONF
cat >/etc/postfix/master.cf <<'CONF'
127.0.0.1:PORT inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
defer unix - - n - 0 bounce
bounce unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
pickup unix n - n 60 1 pickup
postlog unix-dgram n - n - 1 postlogd
CONF
dovecot -F -c /srv/dovecot.conf &
exec postfix start-fg
