//! Messages that real programs of Debian 12 sent, recorded.

use super::*;

const RECORDED: &str = include_str!("debian12.txt");

/// What each recorded message means, by its serial number.
fn events() -> Vec<(u64, LoginEvent)> {
    let mut events = Vec::new();
    for line in RECORDED.lines() {
        let (kind, text) = line.split_once(' ').expect("a type and a message");
        let message = Message::parse(text.as_bytes()).expect("a message");
        if let Some(Heard::Event(event)) = meaning(kind.parse().expect("a type"), &message) {
            events.push((message.serial, *event));
        }
    }
    events
}

fn text(text: Option<&Text>) -> &str {
    text.map_or("", |text| text.text.as_str())
}

#[test]
fn recorded_messages_tell_each_act_once() {
    let told: Vec<String> = events()
        .iter()
        .map(|(serial, event)| {
            let words = [
                event.event.as_str(),
                &event.service,
                text(event.user.as_ref()),
                text(event.target.as_ref()),
            ];
            format!("{serial} {}", words.join(" ").trim_end())
        })
        .collect();
    let expected = "2 account.created useradd demo\n3 account.created useradd #1001\n\
        5 account.changed chpasswd demo\n6 login.failure sshd demo\n16 login.failure sshd nosuch\n\
        21 login.success sshd demo\n23 login.logout sshd demo\n\
        36 account.created useradd kxu\n37 account.created useradd #1001\n\
        39 account.changed chpasswd kxu\n43 account.changed chage #1001\n44 account.created groupadd group #1002\n47 account.changed usermod kxu\n\
        51 privilege.success sudo #1001\n53 privilege.success sudo #1001 root\n56 privilege.failure sudo #1001\n61 privilege.success su #0 kxu\n\
        64 privilege.failure su #1001 root\n65 account.removed groupdel group #1002\n\
        68 account.removed userdel #1001\n69 account.removed userdel kxu";
    assert_eq!(told.join("\n"), expected);
}

#[test]
fn a_login_carries_what_the_kernel_knows() {
    let events = events();
    let (_, login) = events.iter().find(|(serial, _)| *serial == 21).expect("the login");
    assert_eq!((login.session, login.login_uid, login.pid), (Some(1), Some(1_001), Some(11_226)));
    assert_eq!(login.address, "127.0.0.1".parse().ok());
    let (_, failure) = events.iter().find(|(serial, _)| *serial == 6).expect("the failure");
    assert_eq!((failure.session, failure.login_uid), (None, None));
    let (_, command) = events.iter().find(|(serial, _)| *serial == 51).expect("the command");
    assert_eq!(text(command.command.as_ref()), "id -u");
}

#[test]
fn the_kernel_tells_of_the_session_that_it_gave() {
    let line = RECORDED.lines().find(|line| line.starts_with("1006 ")).expect("recorded");
    let message = Message::parse(&line.as_bytes()["1006 ".len()..]).expect("a message");
    assert_eq!(meaning(1_006, &message), Some(Heard::Began { pid: 11_226, login_uid: 1_001, session: 1 }));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_fail(kind in 1_000u16..1_200, bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let text = [b"audit(1700000000.123:456): pid=1 uid=0 auid=0 ses=1 msg='op=".as_slice(), &bytes].concat();
        let _nothing_or_something = Message::parse(&text).and_then(|message| meaning(kind, &message));
    }

    #[test]
    fn a_name_that_anybody_typed_comes_back_and_forges_nothing(name in proptest::collection::vec(1u8..=255, 1..60)) {
        // As libaudit writes it.
        let plain = name.iter().all(|byte| (0x21..0x7f).contains(byte) && *byte != b'"');
        let written = if plain {
            format!("\"{}\"", String::from_utf8_lossy(&name))
        } else {
            name.iter().map(|byte| format!("{byte:02X}")).collect()
        };
        let text = format!(
            "audit(1700000000.123:456): pid=7 uid=0 auid=4294967295 ses=4294967295 msg='op=PAM:authentication grantors=? \
             acct={written} exe=\"/usr/sbin/sshd\" hostname=192.0.2.7 addr=192.0.2.7 terminal=ssh res=failed'"
        );
        let message = Message::parse(text.as_bytes()).expect("a message");
        let Some(Heard::Event(event)) = meaning(1_100, &message) else { panic!("an event") };
        proptest::prop_assert_eq!(event.event, LoginKind::Failure);
        proptest::prop_assert_eq!(event.address, "192.0.2.7".parse().ok());
        proptest::prop_assert_eq!(event.pid, Some(7));
        let whole = event.user.map(|user| user.to_bytes());
        let special = matches!(name.as_slice(), b"(unknown)" | b"(invalid user)");
        proptest::prop_assert!(special || whole == Some(name));
    }
}
