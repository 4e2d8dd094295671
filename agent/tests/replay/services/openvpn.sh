mknod /dev/net/tun c 10 200
ip link set lo up
mkdir -p /srv/keys /var/log/openvpn
cd /srv/keys
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=server -keyout server.key -out server.csr 2>/dev/null
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out server.crt 2>/dev/null
cat >/srv/verify <<'SH'
#!/bin/sh
[ "$(cat "$1")" = "$(printf 'alice\nsecret')" ]
SH
chmod 755 /srv/verify
cat >/srv/conf <<'CONF'
local 127.0.0.1
port 1194
proto udp4
dev tun
topology subnet
server 10.99.0.0 255.255.255.0
ca /srv/keys/ca.crt
cert /srv/keys/server.crt
key /srv/keys/server.key
dh none
verify-client-cert none
username-as-common-name
script-security 2
auth-user-pass-verify /srv/verify via-file
verb 3
CONF
exec openvpn --config /srv/conf --log-append /var/log/openvpn/openvpn.log
