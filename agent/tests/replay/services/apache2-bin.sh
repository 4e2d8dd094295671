mkdir -p /var/log/apache2 /srv/www/private
echo hello >/srv/www/index.html
echo hello >/srv/www/private/index.html
echo 'alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=' >/srv/htpasswd
echo "alice:private:$(printf 'alice:private:secret' | md5sum | cut -c 1-32)" >/srv/htdigest
cat >/srv/conf <<'CONF'
ServerRoot /srv
ServerName localhost
PidFile /run/apache2.pid
Listen 127.0.0.1:PORT
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authn_core_module /usr/lib/apache2/modules/mod_authn_core.so
LoadModule authn_file_module /usr/lib/apache2/modules/mod_authn_file.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule authz_user_module /usr/lib/apache2/modules/mod_authz_user.so
LoadModule auth_basic_module /usr/lib/apache2/modules/mod_auth_basic.so
LoadModule auth_digest_module /usr/lib/apache2/modules/mod_auth_digest.so
LoadModule mime_module /usr/lib/apache2/modules/mod_mime.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
DirectoryIndex index.html
TypesConfig /etc/mime.types
User www-data
Group www-data
ErrorLog /var/log/apache2/error.log
LogFormat "%h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"" combined
CustomLog /var/log/apache2/access.log combined
DocumentRoot /srv/www
<Directory /srv/www>
  Require all granted
</Directory>
<Location /private>
  AuthType Basic
  AuthName private
  AuthUserFile /srv/htpasswd
  Require valid-user
</Location>
<Location /digest>
  AuthType Digest
  AuthName private
  AuthDigestProvider file
  AuthUserFile /srv/htdigest
  Require valid-user
</Location>
CONF
exec apache2 -D FOREGROUND -f /srv/conf
