cat >/srv/conf <<'CONF'
#!KAMAILIO
debug=2
log_stderror=no
log_facility=LOG_LOCAL0
children=1
auto_aliases=no
listen=udp:127.0.0.1:PORT
mpath="/usr/lib/x86_64-linux-gnu/kamailio/modules/"
loadmodule "pv.so"
loadmodule "sl.so"
loadmodule "xlog.so"
loadmodule "auth.so"
loadmodule "textops.so"
request_route {
  if (!is_method("REGISTER")) { sl_send_reply("405", "No"); exit; }
  if (!is_present_hf("Authorization")) { www_challenge("localhost", "0"); exit; }
  if (!pv_www_authenticate("localhost", "secret", "0") || $au != "alice") {
    xlog("L_NOTICE", "Authentication failed for $au from $si:$sp\n");
    www_challenge("localhost", "0");
    exit;
  }
  xlog("L_NOTICE", "registered $au from $si:$sp\n");
  sl_send_reply("200", "OK");
}
CONF
exec kamailio -DD -f /srv/conf -Y /run
