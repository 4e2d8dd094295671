mkdir -p /srv/nginx/private /var/log/nginx
echo hello >/srv/nginx/index.html
cp /srv/nginx/index.html /srv/nginx/private
echo 'alice:{PLAIN}secret' >/srv/nginx.users
cat >/srv/nginx.conf <<'CONF'
daemon off;
user root;
pid /run/nginx.pid;
events {}
http {
  access_log /var/log/nginx/access.log;
  error_log /var/log/nginx/error.log;
  server {
    listen 127.0.0.1:OTHER;
    root /srv/nginx;
    location /private {
      auth_basic private;
      auth_basic_user_file /srv/nginx.users;
    }
  }
}
CONF
nginx -e /var/log/nginx/error.log -c /srv/nginx.conf &
