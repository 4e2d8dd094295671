getent passwd Debian-exim >/dev/null || useradd --system --no-create-home Debian-exim
mkdir -p /var/log/exim4 /var/spool/exim4
chown Debian-exim /var/log/exim4 /var/spool/exim4
cat >/etc/exim4/exim4.conf <<'CONF'
primary_hostname = mail.example
daemon_smtp_ports = PORT
local_interfaces = 127.0.0.1
log_file_path = /var/log/exim4/%slog
spool_directory = /var/spool/exim4
tls_advertise_hosts =
host_lookup =
rfc1413_query_timeout = 0s
acl_smtp_rcpt = accept
begin routers
none:
  driver = redirect
  data = :blackhole:
begin authenticators
plain_server:
  driver = plaintext
  public_name = PLAIN
  server_condition = ${if and{{eq{$auth2}{alice}}{eq{$auth3}{secret}}}}
  server_set_id = $auth2
  server_prompts = :
login_server:
  driver = plaintext
  public_name = LOGIN
  server_prompts = "Username:: : Password::"
  server_condition = ${if and{{eq{$auth1}{alice}}{eq{$auth2}{secret}}}}
  server_set_id = $auth1
CONF
chmod 640 /etc/exim4/exim4.conf
chown root:Debian-exim /etc/exim4/exim4.conf
exec exim4 -bdf -q30m
