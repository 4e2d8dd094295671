dropbearkey -t ed25519 -f /srv/key >/dev/null
exec dropbear -F -p 127.0.0.1:PORT -r /srv/key
