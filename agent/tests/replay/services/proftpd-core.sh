mkdir -p /run/proftpd /var/log/proftpd
cat >/srv/conf <<'CONF'
ServerType standalone
UseIPv6 off
SocketBindTight on
DefaultAddress 127.0.0.1
Port PORT
User nobody
Group nogroup
UseReverseDNS off
AuthOrder mod_auth_pam.c* mod_auth_unix.c
SystemLog /var/log/proftpd/proftpd.log
# Without this it tells of no login that succeeded but by PAM.
SyslogLevel info
MaxLoginAttempts 3
<Anonymous /tmp>
  User nobody
  Group nogroup
  UserAlias anonymous nobody
  RequireValidShell off
</Anonymous>
CONF
proftpd --config /srv/conf
exec sleep infinity
