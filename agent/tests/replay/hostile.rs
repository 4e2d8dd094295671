//! The real programs again, and peers who type names by which they would like to be taken for another: whatever a program makes
//! of such a name in its log, the agent reads no other address, no other account and no success.

use std::io::Write as _;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::field;
use crate::lab::wait_for;
use crate::unpacked::{Unpacked, is_failure};

/// Imitations of what these programs write of others, and bytes that break lines, terminals and formats. Mallory and 10.9.8.7
/// stand in them and nowhere else.
const NAMES: [&[u8]; 10] = [
    b"mallory from 10.9.8.7 port 22 ssh2",
    b"x] (?@10.9.8.7) [INFO] mallory is now logged in",
    b"x (y[10.9.8.7]) - USER mallory: Login successful.",
    b"x' from 10.9.8.7:22",
    b"x[10.9.8.7]: SASL LOGIN authentication failed: authentication failure, sasl_username=mallory",
    b"x) [10.9.8.7]: 535 Incorrect authentication data (set_id=mallory",
    b"x not found: /[client 10.9.8.7:1] AH01617 a\"b\\c\" 200 1 \"-\"",
    b"x  rhost=10.9.8.7  user=mallory",
    b"\x01\x1b[2J\x7f\xff%s%n",
    &[b'A'; 3_000],
];
/// Those that only an encoding brings through.
const BROKEN: [&[u8]; 2] = [
    b"x\n2026-11-21 23:14:37 1tABCD-000123-45 <= a@b H=h [10.9.8.7] P=esmtpsa A=plain:mallory S=1234",
    b"x\r\nNov 21 23:14:37 h postfix/smtpd[1]: 4XyZ12abc: client=h[10.9.8.7], sasl_method=PLAIN, sasl_username=mallory",
];

/// Nothing of this is anybody else's doing.
fn assert_nothing_forged(all: &[Value]) {
    for event in all.iter().filter(|event| event.get("event").is_some()) {
        let (kind, user, address) = (field(event, "event"), field(event, "user"), field(event, "address"));
        assert!(["", "127.0.0.1"].contains(&address.as_str()), "another address: {event}");
        assert!(user != "mallory", "another account: {event}");
        let good = is_failure(event) || kind == "login.probe" || kind == "web.request";
        assert!(
            good || user == "alice" || user == "postdrop" || user == "postfix",
            "another outcome: {event}"
        );
    }
}

/// Logs in by FTP as each name, all at once (some servers take their time to refuse), and then as alice, wrong and right.
fn speak_ftp(server: &Unpacked) {
    let attempt = |user: &[u8], password: &[u8]| {
        let mut ftp = server.connect();
        ftp.answer();
        ftp.say(&[b"USER ", user].concat());
        let answer = ftp.say(&[b"PASS ", password].concat());
        ftp.say(b"QUIT");
        answer
    };
    std::thread::scope(|scope| {
        for name in NAMES {
            scope.spawn(move || assert!(!attempt(name, b"wrong").starts_with("230")));
        }
        scope.spawn(|| assert!(attempt(b"alice", b"wrong").starts_with("530")));
    });
    assert!(attempt(b"alice", b"secret").starts_with("230"));
}

#[test]
fn proftpd() {
    let server = Unpacked::start("proftpd-core", include_str!("services/proftpd-core.sh"));
    speak_ftp(&server);
    let all = server.told("proftpd/proftpd.log", NAMES.len() + 1, Some("alice"));
    assert_nothing_forged(&all);
    assert_nothing_forged(&server.told("syslog", 1, Some("alice")));
}

#[test]
fn pure_ftpd() {
    let server = Unpacked::start("pure-ftpd", include_str!("services/pure-ftpd.sh"));
    speak_ftp(&server);
    // Each attempt is told by the server and by PAM.
    assert_nothing_forged(&server.told("syslog", 2 * NAMES.len(), Some("alice")));
}

/// `text` in base64, by the program that does it.
fn base64(text: &[u8]) -> Vec<u8> {
    piped("base64", &["--wrap=0"], text)
}

fn piped(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().expect("its input").write_all(input).expect("it reads");
    child.wait_with_output().expect("it ends").stdout
}

/// Logs in by SMTP as each name, and then as alice, wrong and right, with a message.
fn speak_smtp(server: &Unpacked) {
    let begin = || {
        let mut smtp = server.connect();
        smtp.answer();
        smtp.say(b"EHLO [10.9.8.7]");
        smtp
    };
    let plain = |user: &[u8], password: &[u8]| {
        [b"AUTH PLAIN ", &base64(&[b"\0", user, b"\0", password].concat())[..]].concat()
    };
    for name in NAMES.iter().chain(&BROKEN) {
        // Too long for a line: there is another way.
        let mut smtp = begin();
        smtp.say(b"AUTH LOGIN");
        smtp.say(&base64(name));
        assert!(!smtp.say(&base64(b"wrong")).starts_with("235"));
        if name.len() < 500 {
            assert!(!begin().say(&plain(name, b"wrong")).starts_with("235"));
        }
    }
    assert!(begin().say(&plain(b"alice", b"wrong")).starts_with("535"));
    let mut smtp = begin();
    assert!(smtp.say(&plain(b"alice", b"secret")).starts_with("235"));
    smtp.say(b"MAIL FROM:<x@10.9.8.7.example>");
    smtp.say(b"RCPT TO:<y@example.org>");
    smtp.say(b"DATA");
    assert!(smtp.say(b"hello\r\n.").starts_with("250"));
    smtp.say(b"QUIT");
}

#[test]
fn postfix() {
    let server = Unpacked::start("postfix", include_str!("services/postfix.sh"));
    speak_smtp(&server);
    assert_nothing_forged(&server.told("syslog", 2 * (NAMES.len() + BROKEN.len()) - 1, Some("alice")));
}

#[test]
fn exim() {
    let server = Unpacked::start("exim4-daemon-light", include_str!("services/exim4-daemon-light.sh"));
    speak_smtp(&server);
    let all = server.told("exim4/mainlog", 2 * (NAMES.len() + BROKEN.len()) - 1, Some("alice"));
    assert_nothing_forged(&all);
}

#[test]
fn dropbear() {
    let server = Unpacked::start("dropbear-bin", include_str!("services/dropbear-bin.sh"));
    drop(server.connect());
    let client = |user: &str, password: &str| {
        let mut command = server.command("dbclient");
        command.args(["-y", "-y", "-l", user, "-p", &server.port.to_string(), "127.0.0.1", "true"]);
        let output = command.env("DROPBEAR_PASSWORD", password).output();
        output.expect("dbclient").status.success()
    };
    let names =
        ["x' from 10.9.8.7:22", "mallory\nPassword auth succeeded for 'mallory' from 10.9.8.7:1", "root"];
    std::thread::scope(|scope| {
        for name in names.into_iter().chain(["alice"]) {
            scope.spawn(move || assert!(!client(name, "wrong")));
        }
    });
    assert!(client("alice", "secret"));
    let all = server.told("syslog", 2 * 10 + 2, Some("alice"));
    assert_nothing_forged(&all);
    // Of a name without an account dropbear says neither the name nor, at once, the peer.
    let strangers = all.iter().filter(|event| field(event, "event") == "login.invalid-user");
    assert!(strangers.filter(|event| field(event, "address") == "127.0.0.1").count() >= 2, "{all:?}");
    assert!(
        all.iter().any(|event| field(event, "event") == "login.logout" && field(event, "user") == "alice")
    );
}

#[test]
fn apache() {
    let server = Unpacked::start("apache2-bin", include_str!("services/apache2-bin.sh"));
    let get = |path: &str, header: &[u8]| {
        let begin = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        server.connect().whole(&[begin.as_bytes(), header, b"\r\n"].concat())
    };
    let basic = |user: &[u8], password: &[u8]| {
        let credentials = base64(&[user, b":", password].concat());
        get("/private/", &[b"Authorization: Basic ", &credentials[..], b"\r\n"].concat())
    };
    for name in NAMES.iter().chain(&BROKEN) {
        assert!(basic(name, b"wrong").starts_with("HTTP/1.1 401"));
    }
    assert!(basic(b"alice", b"wrong").starts_with("HTTP/1.1 401"));
    assert!(basic(b"alice", b"secret").starts_with("HTTP/1.1 200"));
    for (user, code) in
        [(&b"x' in realm `private' not found: / [client 10.9.8.7:1]"[..], 401), (b"alice", 401)]
    {
        let nonce = get("/digest/", b"");
        let nonce = nonce.split("nonce=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a nonce");
        let answer = digest(user, "private", b"wrong", "GET", "/digest/", nonce);
        assert!(get("/digest/", &answer).starts_with(&format!("HTTP/1.1 {code}")));
    }
    let errors = server.told("apache2/error.log", NAMES.len() + BROKEN.len() + 1 + 2, None);
    assert_nothing_forged(&errors);
    let method = |name: &str| errors.iter().filter(|event| field(event, "method") == name).count();
    assert_eq!((method("basic"), method("digest")), (NAMES.len() + BROKEN.len() + 1, 2), "{errors:?}");
    let requests = wait_for("all requests", || {
        let all = server.told("apache2/access.log", 0, None);
        let requests: Vec<Value> = all.into_iter().filter(|event| event.get("request").is_some()).collect();
        (requests.len() >= NAMES.len() + BROKEN.len() + 6).then_some(requests)
    });
    assert_nothing_forged(&requests);
    for request in &requests {
        let words = format!("{} {}", field(request, "request"), field(request, "status"));
        assert!(
            ["GET /private/ 401", "GET /private/ 200", "GET /digest/ 401"].contains(&words.as_str()),
            "{request}"
        );
    }
}

/// An `Authorization` header of the digest scheme (RFC 2617 without its options).
fn digest(user: &[u8], realm: &str, password: &[u8], method: &str, uri: &str, nonce: &str) -> Vec<u8> {
    let md5 = |text: &[u8]| {
        let told = piped("md5sum", &[], text);
        String::from_utf8_lossy(told.get(..32).expect("a sum")).into_owned()
    };
    let first = md5(&[user, b":", realm.as_bytes(), b":", password].concat());
    let second = md5(format!("{method}:{uri}").as_bytes());
    let response = md5(format!("{first}:{nonce}:00000001:abc:auth:{second}").as_bytes());
    let rest = format!(
        "\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", algorithm=MD5, response=\"{response}\", qop=auth, nc=00000001, cnonce=\"abc\"\r\n"
    );
    [b"Authorization: Digest username=\"", user, rest.as_bytes()].concat()
}

#[test]
fn kamailio() {
    let server = Unpacked::start("kamailio", include_str!("services/kamailio.sh"));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a deadline");
    let own = socket.local_addr().expect("its address");
    let register = |number: usize, authorization: &[u8]| {
        let head = format!(
            "REGISTER sip:localhost SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{number}\r\nFrom: <sip:a@localhost>;tag=1\r\n\
             To: <sip:a@localhost>\r\nCall-ID: {number}\r\nCSeq: {number} REGISTER\r\nContact: <sip:a@{own}>\r\nMax-Forwards: 9\r\n"
        );
        let message = [head.as_bytes(), authorization, b"Content-Length: 0\r\n\r\n"].concat();
        // Until it listens, and where a datagram is lost, it is asked again.
        wait_for("an answer", || {
            socket.send_to(&message, ("127.0.0.1", server.port)).ok()?;
            let mut buffer = [0; 8_192];
            let count = socket.recv(&mut buffer).ok()?;
            let answer = String::from_utf8_lossy(buffer.get(..count)?).into_owned();
            answer.contains(&format!("Call-ID: {number}\r\n")).then_some(answer)
        })
    };
    let log_in = |number: usize, user: &[u8], password: &[u8]| {
        let challenge = register(number, b"");
        let nonce =
            challenge.split("nonce=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a nonce");
        register(number + 1, &digest(user, "localhost", password, "REGISTER", "sip:localhost", nonce))
    };
    // A quote ends the name, and what is too long for a datagram or a line is no name at all.
    let names = NAMES.iter().filter(|name| name.len() < 500 && !name.contains(&b'"'));
    let mut number = 1;
    for name in names.clone() {
        assert!(log_in(number, name, b"wrong").starts_with("SIP/2.0 401"));
        number += 2;
    }
    assert!(log_in(number, b"alice", b"wrong").starts_with("SIP/2.0 401"));
    assert!(log_in(number + 2, b"alice", b"secret").starts_with("SIP/2.0 200"));
    let all = server.told("syslog", names.count() + 1, None);
    assert_nothing_forged(&all);
    assert!(all.iter().any(|event| is_failure(event) && field(event, "user") == "alice"), "{all:?}");
}
