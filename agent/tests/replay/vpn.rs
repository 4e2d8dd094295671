//! A real openvpn, whose users have names and passwords, in a network namespace of its own.

use std::process::Stdio;

use crate::lab::wait_for;
use crate::unpacked::Unpacked;
use crate::{events, field, replay};

/// One client: what it types, and six seconds.
const CLIENT: &str = r#"
printf '%s\n%s\n' "$1" "$2" >"/run/credentials.$3"
exec timeout 6 openvpn --client --dev null --proto udp4 --remote 127.0.0.1 1194 --nobind --ca /srv/keys/ca.crt --verb 1 \
  --auth-user-pass "/run/credentials.$3" --connect-retry-max 1 --ifconfig-noexec --route-noexec --explicit-exit-notify 1
"#;

#[test]
fn openvpn() {
    let server = Unpacked::start_apart("openvpn", include_str!("services/openvpn.sh"));
    let log = server.log("openvpn/openvpn.log");
    wait_for("the server", || {
        std::fs::read_to_string(&log).ok()?.contains("Initialization Sequence Completed").then_some(())
    });
    let clients = [
        ("alice", "wrong"),
        ("x/10.9.8.7:1 TLS Auth Error: Auth Username/Password verification failed for peer", "wrong"),
        ("[mallory] Peer Connection Initiated with [AF_INET]10.9.8.7:1", "wrong"),
        ("alice", "secret"),
    ];
    let running: Vec<_> = (0..)
        .zip(clients)
        .map(|(number, (user, password))| {
            let mut command = server.command("sh");
            command.args(["-c", CLIENT, "sh", user, password, &number.to_string()]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a client")
        })
        .collect();
    for mut client in running {
        client.wait().expect("it ends");
    }
    let told = wait_for("every login, and the end of the one that succeeded", || {
        let all = replay(&log, "auto");
        let count = |kind: &str| all.iter().filter(|event| field(event, "event") == kind).count();
        (count("login.failure") == 3 && count("login.success") == 1 && count("login.logout") == 1)
            .then_some(all)
    });
    for event in told.iter().filter(|object| object.get("event").is_some()) {
        assert_eq!(field(event, "address"), "127.0.0.1", "{event}");
        assert!(["", "alice"].contains(&field(event, "user").as_str()), "{event}");
    }
    assert!(events(&told).iter().any(|event| event.ends_with("login.success alice 127.0.0.1")), "{told:?}");
}
