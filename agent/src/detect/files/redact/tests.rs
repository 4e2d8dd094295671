use proptest::prelude::*;

use super::*;

fn check(text: &str, shown: &str) {
    assert_eq!(line(text), shown, "{text}");
}

#[test]
fn what_a_name_says_is_a_secret_is_left_out_to_the_end_of_the_line() {
    check("password = hunter2 and more", "password = [redacted]");
    check("  db_password: 'x'", "  db_password: [redacted]");
    check("export AWS_SECRET_ACCESS_KEY=abc", "export AWS_SECRET_ACCESS_KEY=[redacted]");
    check("define('DB_PASSWORD', 'geheim');", "define('DB_PASSWORD', [redacted]");
    check("$config['password'] = 'geheim';", "$config['password'] = [redacted]");
    check("requirepass geheim", "requirepass [redacted]");
    check("machine x login y password z", "machine x login y password [redacted]");
    check("* * * * * root backup --password geheim --to /srv", "* * * * * root backup --password [redacted]");
    check("PrivateKey = abc", "PrivateKey = [redacted]");
    check("key = abc", "key = [redacted]");
    check("\"token\": \"abc\",", "\"token\": [redacted]");
}

#[test]
fn settings_about_passwords_are_shown() {
    for text in [
        "PasswordAuthentication yes",
        "PermitRootLogin prohibit-password",
        "PermitEmptyPasswords no",
        "deploy ALL=(ALL) NOPASSWD: ALL",
        "password\trequired\tpam_unix.so obscure yescrypt",
        "password [success=1 default=ignore] pam_unix.so",
        "passwd:         files systemd",
        "root ALL=/usr/bin/passwd",
        "auth sufficient pam_permit.so",
        "* * * * * root /usr/local/bin/backup",
        "UUID=0d94bbd4-73f1-4a49-a6a4-9b0f1b2b6c11 / ext4 defaults 0 1",
        "include /usr/lib/x86_64-linux-gnu/ImageMagick-6.9.11/modules-Q16/coders/x.so",
    ] {
        check(text, text);
    }
}

#[test]
fn credentials_of_well_known_shapes_are_left_out() {
    check(
        "deb https://me:geheim@repo.example/ stable main",
        "deb https://[redacted]@repo.example/ stable main",
    );
    check("curl -u me:geheim https://x", "curl -u [redacted] https://x");
    check("curl -ume:geheim https://x", "curl -u[redacted] https://x");
    check("mysqldump -uroot -pgeheim all", "mysqldump -uroot -p[redacted] all");
    check("sshpass -p geheim ssh x", "sshpass -p [redacted] ssh x");
    check("echo root:geheim | chpasswd", MARK);
    check("x $6$saltsalt$hash1234 y", "x [redacted] y");
    check("AKIAIOSFODNN7EXAMPLE", MARK);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJfYx0cXW2m1y1l4l6c9tC9X0Q2s5m3q8k7v6w5x4y3z eve@x";
    check(key, key);
}

#[test]
fn secrets_over_several_lines_are_left_out() {
    let text = "a: 1\npassword: |\n  geheim\n  mehr\nb: 2\nsecret = \"one\ntwo\nthree\"\nc\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nd\ntoken = x\\\ny\ne";
    let raw: Vec<&str> = text.lines().collect();
    let shown = lines(Grammar::Plain, &raw).join("\n");
    for secret in ["geheim", "mehr", "one", "two", "three", "MIIE", "x\\"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    for kept in ["a: 1", "b: 2", "\nc\n", "\nd\n", "\ne"] {
        assert!(shown.contains(kept), "{kept:?} not in {shown}");
    }
}

#[test]
fn a_hash_is_never_shown_and_a_lock_is() {
    let check = |text, shown| assert_eq!(hashes(text), shown);
    check("root:$y$j9T$abc$def:19000:0:99999:7:::", "root:[redacted]:19000:0:99999:7:::");
    check("root:!$y$j9T$abc$def:19000:0:99999:7:::", "root:[locked]:19000:0:99999:7:::");
    check("bin:*:19000:0:99999:7:::", "bin:[locked]:19000:0:99999:7:::");
    check("open::19000::::::", "open::19000::::::");
    check("$y$j9T$abc$def", MARK);
    check("x:19000:$y$j9T$abc$def", "x:[redacted]:[redacted]");
    assert_eq!(lines(Grammar::Accounts, &["old:aB3xYz:0:0::/:/bin/sh"]), ["old:[redacted]:0:0::/:/bin/sh"]);
}

/// Something that appears nowhere in the templates.
fn secret() -> impl Strategy<Value = String> {
    "[A-Z][a-zA-Z0-9!%*.~^]{6,24}[0-9]".prop_map(|text| format!("Zq{text}"))
}

fn indented() -> impl Strategy<Value = String> {
    "[ \t]{0,4}"
}

proptest! {
    /// Whatever the secret and wherever it stands in a shape that the rules know: nothing of it is shown.
    #[test]
    fn no_secret_gets_out(
        secret in secret(),
        before in indented(),
        behind in "[ -~]{0,20}",
        shape in 0..24usize,
        noise in proptest::collection::vec("[a-z ]{0,20}", 0..4),
    ) {
        let templates = [
            "password=@S @B", "password = @S @B", "PASSWORD: \"@S\" @B", "db.password=@S", "api_key: @S @B", "API-KEY=@S",
            "client_secret = '@S' @B", "token: @S", "--password @S @B", "--password=@S @B", "Authorization: Bearer @S",
            "Authorization: Basic @S", "mysql -u root -p@S", "curl -u user:@S http://x", "https://user:@S@host/ @B",
            "define(\"SECRET_KEY\", \"@S\");", "password:\n   @S\n", "passphrase = \"\n@S\n\"", "wpa_passphrase=@S",
            "echo 'root:@S' | chpasswd", "private_key = \\\n@S", "rocommunity @S @B",
            "-----BEGIN OPENSSH PRIVATE KEY-----\n@S\n@S\n-----END OPENSSH PRIVATE KEY-----",
            "sshpass -p @S ssh host",
        ];
        let filled = templates[shape].replace("@S", &secret).replace("@B", &behind);
        let text = format!("{}\n{before}{filled}\n", noise.join("\n"));
        let raw: Vec<&str> = text.split('\n').collect();
        let shown = lines(Grammar::Plain, &raw).join("\n");
        prop_assert!(!shown.contains(&secret), "{} shows {}", shown, secret);
    }

    /// A line of shadow may be cut anywhere and hold anything: no hash gets out.
    #[test]
    fn no_hash_gets_out(
        name in "[a-z]{1,8}",
        id in "(1|5|6|y|2b|7|gy)",
        hash in "[A-Za-z0-9./]{22,86}",
        shift in 0..4usize,
        tail in "[0-9:]{0,20}",
    ) {
        let crypt = format!("${id}$rounds$saltsalt${hash}");
        let line = format!("{name}{}{crypt}:{tail}", ":".repeat(shift));
        let shown = hashes(&line);
        prop_assert!(!shown.contains(&hash), "{}", shown);
        let plain = super::line(&line);
        prop_assert!(!plain.contains(&hash), "{}", plain);
    }

    /// Any text at all: as many lines as before, and no panic.
    #[test]
    fn any_text_can_be_shown(text in "\\PC{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let lossy = String::from_utf8_lossy(&bytes).into_owned();
        for text in [text, lossy] {
            let raw: Vec<&str> = text.split('\n').collect();
            for grammar in [Grammar::Plain, Grammar::Hashes, Grammar::Accounts] {
                prop_assert_eq!(lines(grammar, &raw).len(), raw.len());
            }
        }
    }
}

#[test]
fn what_names_are_looked_up_in_is_no_secret_and_a_secret_among_it_is() {
    let shown = |line: &str| lines(Grammar::NameSwitch, &[line]).remove(0);
    for line in [
        "passwd:         files systemd",
        "hosts: files mdns4_minimal [NOTFOUND=return] dns",
        "group: files evil",
    ] {
        assert_eq!(shown(line), line);
    }
    assert!(!shown("passwd: hunter2-and-more").contains("hunter2"));
    assert!(!shown("passwd: aG93Y2FuaXRiZXRoYXRsb25n").contains("aG93"));
}
