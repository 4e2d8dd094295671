use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

/// Reads by the parsers that are written in Rust.
fn parse<'a>(program: &[u8], message: &'a [u8]) -> Option<Parsed<'a>> {
    let parser = match program {
        b"sshd" | b"sshd-session" | b"sshd-auth" => sshd::parse,
        b"su" => su::parse,
        b"sudo" | b"sudo-i" => sudo::parse,
        _ => return None,
    };
    repeated_by(message, parser)
}

const PROGRAMS: [&str; 4] = ["sshd", "sshd-session", "su", "sudo"];

use LoginKind::{Failure, InvalidUser, PrivilegeFailure, PrivilegeSuccess, Probe};

/// Checks a table: what it is, user, address, port, how often, message. `-` for none, `""` for an empty name.
fn check(program: &str, table: &str) {
    for row in table.lines().filter(|row| !row.is_empty()) {
        let mut columns = row.splitn(6, " | ");
        let mut column = || columns.next().expect("six columns");
        let (kind, user, address, port, repeats, message) =
            (column(), column(), column(), column(), column(), column());
        let parsed =
            parse(program.as_bytes(), message.as_bytes()).unwrap_or_else(|| panic!("nothing: {message}"));
        assert_eq!(parsed.kind.as_str(), kind, "{message}");
        let known = |text: &str| (text != "-").then(|| text.trim_matches('"').to_owned());
        let name = parsed.user.map(|user| String::from_utf8(user.to_vec()).unwrap());
        assert_eq!(name, known(user), "{message}");
        assert_eq!(parsed.address.map(|address| address.to_string()), known(address), "{message}");
        assert_eq!(parsed.port.map(|port| port.to_string()), known(port), "{message}");
        assert_eq!(parsed.repeats.to_string(), repeats, "{message}");
        assert!(!parsed.ambiguous, "{message}");
    }
}

#[test]
fn attempts_of_every_method() {
    check(
        "sshd",
        r#"
login.success | root | 192.0.2.7 | 4711 | 1 | Accepted password for root from 192.0.2.7 port 4711 ssh2
login.success | al | 192.0.2.7 | 1 | 1 | Accepted publickey for al from 192.0.2.7 port 1 ssh2: ED25519 SHA256:abc
login.success | al | 192.0.2.7 | 1 | 1 | Accepted publickey for al from 192.0.2.7 port 1 ssh2: RSA MD5:00:11
login.success | al | 2001:db8::7 | 1 | 1 | Accepted publickey for al from 2001:db8::7 port 1 ssh2: RSA-CERT SHA256:abc ID al laptop (serial 7) CA RSA SHA256:def
login.success | al | fe80::1 | 1 | 1 | Accepted keyboard-interactive/pam for al from fe80::1%eth0 port 1 ssh2
login.success | al | 192.0.2.7 | 1 | 1 | Accepted gssapi-with-mic for al from 192.0.2.7 port 1 ssh2: al@EXAMPLE.ORG
login.success | al | 192.0.2.7 | 1 | 1 | Accepted hostbased for al from 192.0.2.7 port 1 ssh2: RSA SHA256:abc, client user "al", client host "h"
login.success | al | - | 65535 | 1 | Accepted none for al from UNKNOWN port 65535 ssh2
login.failure | root | 192.0.2.7 | 4711 | 1 | Failed password for root from ::ffff:192.0.2.7 port 4711 ssh2
login.invalid-user | bob | 192.0.2.7 | 4711 | 1 | Failed password for invalid user bob from 192.0.2.7 port 4711 ssh2
login.invalid-user | "" | 192.0.2.7 | 4711 | 1 | Failed password for invalid user  from 192.0.2.7 port 4711 ssh2
login.invalid-user | a b | 192.0.2.7 | 4711 | 1 | Failed none for invalid user a b from 192.0.2.7 port 4711 ssh2
login.failure | al | 192.0.2.7 | 1 | 1 | Failed publickey for al from 192.0.2.7 port 1 ssh2: RSA SHA256:abc
login.failure | root | 192.0.2.7 | 22 | 5 | message repeated 5 times: [ Failed password for root from 192.0.2.7 port 22 ssh2]
"#,
    );
}

#[test]
fn other_messages_of_sshd() {
    check(
        "sshd-session",
        r#"
login.invalid-user | bob | 192.0.2.7 | 4711 | 1 | Invalid user bob from 192.0.2.7 port 4711
login.invalid-user | bob | 192.0.2.7 | - | 1 | Invalid user bob from 192.0.2.7
login.invalid-user | "" | 192.0.2.7 | 1 | 1 | Invalid user  from 192.0.2.7 port 1
login.invalid-user | root | 192.0.2.7 | - | 1 | User root from 192.0.2.7 not allowed because not listed in AllowUsers
login.invalid-user | al | - | - | 1 | User al not allowed because account is locked
login.failure | root | 192.0.2.7 | 9 | 1 | ROOT LOGIN REFUSED FROM 192.0.2.7 port 9
login.failure | root | 192.0.2.7 | 5 | 1 | error: maximum authentication attempts exceeded for root from 192.0.2.7 port 5 ssh2 [preauth]
login.invalid-user | b | 192.0.2.7 | 5 | 1 | error: maximum authentication attempts exceeded for invalid user b from 192.0.2.7 port 5 ssh2 [preauth]
login.failure | root | 192.0.2.7 | - | 1 | error: PAM: Authentication failure for root from 192.0.2.7
login.invalid-user | bob | - | - | 1 | error: PAM: User not known to the underlying authentication module for illegal user bob from host.example
login.failure | al | - | - | 1 | fatal: Access denied for user al by PAM account configuration [preauth]
login.failure | root | 192.0.2.7 | - | 1 | pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7  user=root
login.invalid-user | - | 192.0.2.7 | - | 1 | pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7 
login.failure | root | 192.0.2.7 | - | 2 | PAM 2 more authentication failures; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7  user=root
login.failure | root | 192.0.2.7 | - | 1 | PAM 1 more authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7  user=root
"#,
    );
}

#[test]
fn connections_that_never_authenticate() {
    check(
        "sshd",
        r#"
login.probe | - | 192.0.2.7 | 5 | 1 | Connection closed by 192.0.2.7 port 5 [preauth]
login.probe | - | 192.0.2.7 | 5 | 1 | Connection closed by 192.0.2.7 port 5
login.probe | - | 192.0.2.7 | 5 | 1 | Connection reset by 192.0.2.7 port 5 [preauth]
login.probe | root | 192.0.2.7 | 5 | 1 | Connection closed by authenticating user root 192.0.2.7 port 5 [preauth]
login.probe | a b | 192.0.2.7 | 5 | 1 | Connection closed by invalid user a b 192.0.2.7 port 5 [preauth]
login.probe | "" | 192.0.2.7 | 5 | 1 | Connection closed by invalid user  192.0.2.7 port 5 [preauth]
login.probe | root | 192.0.2.7 | 5 | 1 | Disconnected from authenticating user root 192.0.2.7 port 5 [preauth]
login.probe | - | 192.0.2.7 | 5 | 1 | Disconnected from 192.0.2.7 port 5 [preauth]
login.probe | - | 192.0.2.7 | 5 | 1 | Did not receive identification string from 192.0.2.7 port 5
login.probe | - | 192.0.2.7 | - | 1 | Did not receive identification string from 192.0.2.7
login.probe | - | 192.0.2.7 | - | 1 | Connection closed by 192.0.2.7 [preauth]
login.logout | a b | 192.0.2.7 | 5 | 1 | Disconnected from user a b 192.0.2.7 port 5
login.probe | - | 192.0.2.7 | 5 | 1 | Bad protocol version identification 'GET / HTTP/1.1' from 192.0.2.7 port 5
login.probe | - | 192.0.2.7 | 5 | 1 | banner exchange: Connection from 192.0.2.7 port 5: invalid format
login.probe | - | 192.0.2.7 | 5 | 1 | Unable to negotiate with 192.0.2.7 port 5: no matching host key type found. Their offer: ssh-dss [preauth]
login.probe | - | 192.0.2.7 | 5 | 1 | fatal: Timeout before authentication for 192.0.2.7 port 5
login.probe | - | 192.0.2.7 | - | 1 | Timeout before authentication for connection from 192.0.2.7 to 198.51.100.1, pid = 77
login.probe | - | 192.0.2.7 | 5 | 1 | drop connection #10 from [192.0.2.7]:5 on [198.51.100.1]:22 past MaxStartups
login.probe | - | 192.0.2.7 | 5 | 1 | ssh_dispatch_run_fatal: Connection from 192.0.2.7 port 5: message authentication code incorrect [preauth]
"#,
    );
}

#[test]
fn privilege() {
    check(
        "sudo",
        r#"
privilege.success | alice | - | - | 1 |    alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/usr/bin/id -u
privilege.success | alice | - | - | 1 | alice : HOST=h ; TTY=unknown ; PWD=/ ; USER=root ; GROUP=adm ; ENV=A=b ; COMMAND=/usr/bin/id
privilege.failure | alice | - | - | 3 | alice : 3 incorrect password attempts ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/ls
privilege.failure | alice | - | - | 1 | alice : 1 incorrect password attempt ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/ls
privilege.failure | alice | - | - | 1 | alice : user NOT in sudoers ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/ls
privilege.failure | alice | - | - | 1 | alice : a password is required ; TTY=unknown ; PWD=/ ; USER=root ; COMMAND=/bin/ls
privilege.failure | alice | - | - | 1 | pam_unix(sudo:auth): authentication failure; logname=alice uid=1000 euid=0 tty=/dev/pts/0 ruser=alice rhost=  user=alice
privilege.failure | alice | - | - | 2 | pam_unix(sudo:auth): 2 more authentication failures; logname=alice uid=1000 euid=0 tty=/dev/pts/0 ruser=alice rhost=  user=alice
"#,
    );
    check(
        "su",
        r#"
privilege.success | alice | - | - | 1 | (to root) alice on pts/0
privilege.success | alice | - | - | 1 | (to root) alice on none
privilege.failure | alice | - | - | 1 | FAILED SU (to root) alice on pts/0
privilege.success | alice | - | - | 1 | Successful su for root by alice
privilege.failure | alice | - | - | 1 | FAILED su for root by alice
privilege.failure | alice | - | - | 1 | pam_unix(su-l:auth): authentication failure; logname=alice uid=1000 euid=0 tty=/dev/pts/0 ruser=alice rhost=  user=root
"#,
    );
    let line = b"   alice : TTY=pts/0 ; PWD=/ ; USER=root ; GROUP=adm ; COMMAND=/bin/sh -c 'a : b ; c'";
    let parsed = parse(b"sudo", line).unwrap();
    assert_eq!(parsed.target, Some(&b"root"[..]));
    assert_eq!((parsed.tty, parsed.command), (Some(&b"pts/0"[..]), Some(&b"/bin/sh -c 'a : b ; c'"[..])));
    let parsed = parse(b"su", b"FAILED SU (to root) alice on pts/0").unwrap();
    assert_eq!((parsed.target, parsed.tty), (Some(&b"root"[..]), Some(&b"pts/0"[..])));
}

#[test]
fn what_is_no_attempt_is_nothing() {
    for (program, message) in [
        ("sshd", "Server listening on 0.0.0.0 port 22."),
        ("sshd", "Received disconnect from 192.0.2.7 port 5:11: Bye Bye [preauth]"),
        ("sshd", "Disconnected from 192.0.2.7 port 5"),
        ("sshd", "Connection closed by user al 192.0.2.7"),
        ("sshd", "pam_unix(sshd:session): session opened for user al(uid=1000) by (uid=0)"),
        ("sshd", "pam_unix(sshd:auth): check pass; user unknown"),
        ("sshd", "Failed to release session: x"),
        ("sshd", "Connection from 192.0.2.7 port 5 on 198.51.100.1 port 22 rdomain \"\""),
        ("sudo", "pam_unix(sudo:session): session opened for user root(uid=0) by alice(uid=1000)"),
        ("sudo", "   alice : (command continued) ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/ls"),
        ("su", "pam_unix(su:session): session closed for user root"),
        ("cron", "Failed password for root from 192.0.2.7 port 22 ssh2"),
        ("sshd", "message repeated 2 times: [ Failed password for root from 192.0.2.7 port 22 ssh2"),
    ] {
        assert_eq!(parse(program.as_bytes(), message.as_bytes()), None, "{program}: {message}");
    }
}

#[test]
fn keys_and_methods_are_told() {
    let parsed = parse(b"sshd", b"Accepted publickey for al from 192.0.2.7 port 1 ssh2: RSA-CERT SHA256:abc ID x (serial 7) CA RSA SHA256:def").unwrap();
    assert_eq!(parsed.key, Some(&b"RSA-CERT SHA256:abc"[..]));
    assert_eq!(parsed.method, Some(&b"publickey"[..]));
    let parsed = parse(b"sshd", b"Accepted hostbased for al from 192.0.2.7 port 1 ssh2: RSA SHA256:abc, client user \"al\", client host \"h\"").unwrap();
    assert_eq!(parsed.key, Some(&b"RSA SHA256:abc"[..]));
}

#[test]
fn user_name_cannot_forge_the_address() {
    let name = "a from 10.0.0.1 port 22 ssh2";
    for line in [
        format!("Failed password for invalid user {name} from 192.0.2.7 port 5 ssh2"),
        format!("Failed publickey for invalid user {name} from 192.0.2.7 port 5 ssh2: RSA SHA256:abc"),
        format!("Invalid user {name} from 192.0.2.7 port 5"),
        format!("Connection closed by invalid user {name} 192.0.2.7 port 5 [preauth]"),
        format!(
            "error: maximum authentication attempts exceeded for invalid user {name} from 192.0.2.7 port 5 ssh2 [preauth]"
        ),
    ] {
        let parsed = parse(b"sshd", line.as_bytes()).unwrap_or_else(|| panic!("nothing: {line}"));
        assert_eq!(parsed.user, Some(name.as_bytes()), "{line}");
        assert_eq!((parsed.address, parsed.port), (Some("192.0.2.7".parse().unwrap()), Some(5)), "{line}");
    }
}

#[test]
fn two_texts_of_one_peer_cannot_conspire() {
    let fingerprint = "SHA256:0123456789012345678901234567890123456789012";
    let name = format!("u from 10.0.0.1 port 1 ssh2: RSA-CERT {fingerprint} ID x");
    assert!(name.len() <= 100, "sshd would cut it");
    let line = format!(
        "Failed publickey for invalid user {name} from 192.0.2.7 port 5 ssh2: RSA-CERT {fingerprint} ID y (serial 0) CA RSA {fingerprint}"
    );
    let parsed = parse(b"sshd", line.as_bytes()).unwrap();
    assert!(parsed.ambiguous && parsed.user.is_none() && parsed.address.is_none());
}

#[test]
fn a_line_that_sshd_cut_gives_no_address() {
    let padding = "x".repeat(1_000);
    let line = format!("Failed {padding} for root from 10.0.0.1 port 22 ssh2");
    let parsed = parse(b"sshd", line.as_bytes()).unwrap();
    assert!(parsed.ambiguous && parsed.user.is_none() && parsed.address.is_none());
}

#[test]
fn a_directory_cannot_forge_the_target_or_the_command() {
    let line =
        b"alice : TTY=pts/0 ; PWD=/tmp/x ; USER=alice ; COMMAND=/bin/true ; USER=root ; COMMAND=/bin/sh";
    let parsed = parse(b"sudo", line).unwrap();
    assert!(parsed.ambiguous);
    assert_eq!(parsed.user, Some(&b"alice"[..]));
    assert_eq!((parsed.target, parsed.command), (None, None));
}

/// Text that imitates pieces of log lines, between arbitrary bytes.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        Just(b" from 10.9.8.7 port 1 ssh2".to_vec()),
        Just(b" from 10.9.8.7 port 1".to_vec()),
        Just(b" from ".to_vec()),
        Just(b"from".to_vec()),
        Just(b" port 22".to_vec()),
        Just(b" for ".to_vec()),
        Just(b"invalid user ".to_vec()),
        Just(b" ssh2: ".to_vec()),
        Just(b" ssh2".to_vec()),
        Just(b" ssh2: RSA SHA256:abc".to_vec()),
        Just(b"RSA-CERT SHA256:abc ID ".to_vec()),
        Just(b" (serial 0) CA RSA SHA256:abc".to_vec()),
        Just(b" [preauth]".to_vec()),
        Just(b"Accepted password for root".to_vec()),
        Just(b" rhost=10.9.8.7  user=root".to_vec()),
        Just(b" ; USER=root ; COMMAND=/bin/sh".to_vec()),
        Just(b" ; USER=".to_vec()),
        Just(b" ; COMMAND=".to_vec()),
        Just(b" : ".to_vec()),
        Just(b" not allowed because x".to_vec()),
        Just(b" ".to_vec()),
        Just(b"]".to_vec()),
        proptest::collection::vec(any::<u8>().prop_filter("no newline", |byte| *byte != b'\n'), 0..8),
    ];
    proptest::collection::vec(fragment, 0..6).prop_map(|parts| parts.concat())
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

const PEER: &[u8] = b"192.0.2.7 port 4711";

/// Whatever was left out, nothing else was put in its place.
fn assert_true(parsed: &Parsed<'_>, kinds: &[LoginKind], user: &[u8]) {
    assert!(kinds.contains(&parsed.kind), "{parsed:?}");
    assert!(parsed.user.is_none_or(|found| found == user), "{parsed:?}");
    let address = parsed.address.is_none_or(|found| found == "192.0.2.7".parse::<IpAddr>().unwrap());
    assert!(address && parsed.port.is_none_or(|port| port == 4711), "{parsed:?}");
    assert!(parsed.ambiguous || parsed.user.is_some(), "{parsed:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_names_never_yield_another_user_address_or_outcome(name in hostile(), id in hostile()) {
        let user = name.get(..name.len().min(100)).unwrap();
        let certificate = joined(&[b": RSA-CERT SHA256:def ID ", &id, b" (serial 0) CA RSA SHA256:def"]);
        for extra in [&b""[..], b": ED25519 SHA256:def", &certificate] {
            let line = joined(&[b"Failed publickey for invalid user ", user, b" from ", PEER, b" ssh2", extra]);
            assert_true(&parse(b"sshd", &line).expect("an attempt"), &[InvalidUser, Failure], user);
        }
        let line = joined(&[b"Invalid user ", user, b" from ", PEER]);
        assert_true(&parse(b"sshd", &line).expect("an attempt"), &[InvalidUser], user);
        let line = joined(&[b"Connection closed by invalid user ", user, b" ", PEER, b" [preauth]"]);
        assert_true(&parse(b"sshd", &line).expect("a probe"), &[Probe], user);
        for (before, behind) in [
            (&b"Disconnecting"[..], &b": Too many authentication failures"[..]),
            (b"Disconnecting", b": Change of username or service not allowed: (a,b) -> (c,d)"),
            (b"Connection from", b" timed out"),
            (b"ssh_dispatch_run_fatal: Connection from", b": incomplete message"),
        ] {
            let line = joined(&[before, b" invalid user ", user, b" ", PEER, behind, b" [preauth]"]);
            assert_true(&parse(b"sshd", &line).expect("a probe"), &[Probe], user);
        }
        let line = joined(&[b"error: maximum authentication attempts exceeded for invalid user ", user, b" from ", PEER, b" ssh2 [preauth]"]);
        assert_true(&parse(b"sshd", &line).expect("an attempt"), &[InvalidUser], user);
        let line = joined(&[b"Bad protocol version identification '", user, b"' from ", PEER]);
        prop_assert_eq!(parse(b"sshd", &line).and_then(|parsed| parsed.port), Some(4711));
        let line = joined(&[b"pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7  user=", user]);
        let parsed = parse(b"sshd", &line).expect("an attempt");
        prop_assert!(parsed.user.is_none_or(|found| found == user));
        prop_assert!(parsed.address.is_none_or(|found| found == "192.0.2.7".parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn hostile_directories_and_commands_never_yield_another_target_or_command(folder in hostile(), command in hostile()) {
        for (reason, kind) in [(&b""[..], PrivilegeSuccess), (b"command not allowed ; ", PrivilegeFailure)] {
            let line = joined(&[b"   alice : ", reason, b"TTY=pts/0 ; PWD=/", &folder, b" ; USER=root ; COMMAND=/", &command]);
            let parsed = parse(b"sudo", &line).expect("an act");
            prop_assert_eq!((parsed.kind, parsed.user, parsed.tty), (kind, Some(&b"alice"[..]), Some(&b"pts/0"[..])));
            prop_assert!(parsed.target.is_none_or(|target| target == b"root"));
            let true_command = joined(&[b"/", &command]);
            prop_assert!(parsed.command.is_none_or(|found| found == true_command));
            prop_assert!(parsed.ambiguous || parsed.command.is_some());
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(message in hostile(), raw in proptest::collection::vec(any::<u8>(), 0..300)) {
        for program in PROGRAMS {
            let _whatever = parse(program.as_bytes(), &message);
            let _whatever = parse(program.as_bytes(), &raw);
        }
        let _whatever = super::super::line::Line::parse(&raw);
    }
}
