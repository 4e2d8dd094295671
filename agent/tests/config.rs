//! The configuration file: every problem in one run, with its key, line and accepted range.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use picket_agent::config::{Config, ConfigError, Problem};

const PACKAGED: &str = include_str!("../../packaging/agent.toml");

fn problems(text: &str) -> Vec<Problem> {
    Config::parse(text).expect_err("the text has problems")
}

fn check(text: &str, line: usize, key: &str, message: &str) {
    let problems = problems(text);
    let fits = |p: &Problem| p.line == line && p.key == key && p.message.contains(message);
    assert!(problems.iter().any(fits), "no {key} at line {line} with {message:?} in {problems:#?}");
}

#[test]
fn the_packaged_file_is_the_default() {
    assert_eq!(Config::parse(PACKAGED).expect("valid"), Config::default());
    assert_eq!(Config::parse("").expect("empty is valid"), Config::default());
}

#[test]
fn the_packaged_file_names_every_key() {
    let tables = ["[files]", "[logins]", "[host]", "[ledger]", "[uplink]", "[commands]"];
    let text = format!(
        "x = 1\n{}\nx = 1\n[logins.thresholds]\nx = 1\n[network.thresholds]\nx = 1\n",
        tables.join("\nx = 1\n")
    );
    for problem in problems(&text) {
        let (_, known) = problem.message.split_once("known here: ").expect("known keys are listed");
        for key in known.split(", ") {
            let stands = |line: &str| {
                line.starts_with(&format!("{key} = "))
                    || line.starts_with('[') && line.ends_with(&format!("{key}]"))
            };
            assert!(PACKAGED.lines().any(stands), "{key} is missing in the packaged file");
        }
    }
}

/// Whether a tree, in which `*` stands for within one name, holds the path.
fn holds(tree: &Path, path: &Path) -> bool {
    let mut parts = path.components();
    tree.components().all(|wanted| {
        let (wanted, part) = (wanted.as_os_str(), parts.next().map(|part| part.as_os_str()));
        let glob = picket_agent::glob::Glob::new(&wanted.to_string_lossy()).expect("a glob");
        part.is_some_and(|part| glob.is_match(part))
    })
}

#[test]
fn what_matters_is_watched_by_default_wherever_distributions_keep_it() {
    let files = Config::default().files;
    let watched: Vec<_> = files.trees.iter().chain(&files.quiet_trees).chain(&files.logs).collect();
    for path in [
        "/etc/passwd",
        "/etc/cron.d/x",
        "/var/spool/cron/crontabs/root",
        "/var/spool/cron/root",
        "/var/spool/cron/atjobs/a1",
        "/var/spool/at/a1",
        "/etc/systemd/system/x.service",
        "/usr/lib/systemd/system/x.timer",
        "/usr/lib/systemd/system-generators/x",
        "/lib/systemd/system-generators/x",
        "/home/a/.config/systemd/user/x.service",
        "/etc/init.d/x",
        "/etc/rc.local",
        "/etc/profile.d/x.sh",
        "/root/.bashrc",
        "/home/a/.bash_profile",
        "/home/a/.zshrc",
        "/home/a/.ssh/authorized_keys",
        "/etc/ld.so.preload",
        "/lib/modules/6.1/extra/x.ko",
        "/usr/lib/modules/6.1/extra/x.ko",
        "/etc/modprobe.d/x.conf",
        "/etc/udev/rules.d/x.rules",
        "/usr/lib/udev/rules.d/x.rules",
        "/lib/udev/rules.d/x.rules",
        "/usr/lib/x86_64-linux-gnu/security/pam_x.so",
        "/usr/lib64/security/pam_x.so",
        "/etc/apt/trusted.gpg.d/x.gpg",
        "/etc/yum.repos.d/x.repo",
        "/etc/update-motd.d/99-x",
        "/etc/xdg/autostart/x.desktop",
        "/home/a/.config/autostart/x.desktop",
        "/boot/vmlinuz-6.1",
        "/boot/efi/EFI/x",
        "/usr/lib/python3/dist-packages/x.pth",
        "/var/www/html/x.php",
        "/srv/www/x.php",
        "/tmp/x",
        "/var/tmp/.x/y",
        "/dev/shm/x",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/usr/local/bin/x",
        "/var/log/auth.log",
        "/root/.bash_history",
    ] {
        assert!(watched.iter().any(|tree| holds(tree, Path::new(path))), "{path} is not watched by default");
    }
    assert!(!watched.iter().any(|tree| holds(tree, Path::new("/home/a/notes"))));
}

#[test]
fn trees_that_are_chosen_are_all_that_is_watched_unless_quiet_ones_are_chosen_too() {
    let quiet = |text: &str| Config::parse(text).expect("valid").files.quiet_trees;
    assert!(quiet("[files]\ntrees = [\"/opt\"]\n").is_empty());
    assert_eq!(quiet("[files]\ntrees = [\"/opt\"]\nquiet_trees = [\"/tmp\"]\n"), [Path::new("/tmp")]);
    assert!(quiet("[files]\nscan_interval = \"1h\"\n").contains(&"/tmp".into()));
}

#[test]
fn a_log_is_named_with_the_service_that_writes_it() {
    let logins =
        |logs: &str| Config::parse(&format!("[logins]\nlogs = [{logs}]\n")).map(|config| config.logins);
    let web = r#"{ path = "/srv/*/access.log", service = "nginx" }"#;
    let both = logins(&format!(r#""/var/log/messages", {web}"#)).expect("valid");
    assert_eq!(both.logs, [Path::new("/var/log/messages")]);
    let named = both.service_logs.first().expect("one");
    assert_eq!((named.path.as_str(), named.service.as_str()), ("/srv/*/access.log", "nginx"));
    assert_eq!(logins(web).expect("valid").logs, Config::default().logins.logs, "auth.log is not forgotten");
    assert!(logins("").expect("valid").logs.is_empty());
    for (logs, message) in [
        (r#"{ path = "relative", service = "nginx" }"#, "path must be an absolute path"),
        (r#"{ path = "/srv/x.log" }"#, "must have a path and a service"),
        (r#"{ path = "/srv/x.log", service = "a b" }"#, "must be the name of a rule file's service"),
        (
            r#"{ path = "/srv/x.log", service = "nginx", level = "x" }"#,
            "level is an unknown key; known here: path, service",
        ),
        (r#""/srv/x.log", { path = "/srv/x.log", service = "nginx" }"#, "with a service and without one"),
        ("7", "must be a list of paths in quotes and of"),
    ] {
        check(&format!("[logins]\nlogs = [{logs}]\n"), 2, "logins.logs", message);
    }
}

#[test]
fn every_problem_is_reported_in_one_run() {
    let text = r#"state_dir = "relative"
nonsense = 1
[files]
enabled = "yes"
scan_intervall = "1h"
scan_interval = "0s"
trees = ["/etc", "etc", 7]
[commands]
allow = ["advise", "launch"]
"#;
    let problems = problems(text);
    let places: Vec<_> = problems.iter().map(|problem| (problem.line, problem.key.as_str())).collect();
    let expected = [
        (1, "state_dir"),
        (2, "nonsense"),
        (4, "files.enabled"),
        (5, "files.scan_intervall"),
        (6, "files.scan_interval"),
        (7, "files.trees"),
        (7, "files.trees"),
        (9, "commands.allow"),
    ];
    assert_eq!(places, expected, "{problems:#?}");
}

#[test]
fn each_value_has_a_range() {
    check("[logins.thresholds]\nattempts = 1", 2, "logins.thresholds.attempts", "such as 5, from 2 to 100");
    check("[logins.thresholds]\nwindow = \"2d\"", 2, "logins.thresholds.window", "from 1m to 1d");
    check("[logins.thresholds]\nspray = -3", 2, "logins.thresholds.spray", "whole number");
    check("[logins]\nthresholds = 3", 2, "logins.thresholds", "must be a table");
    check("[host]\nheartbeat = \"4s\"", 2, "host.heartbeat", "from 5s to 1m");
    check("[host]\n\nheartbeat = 60", 3, "host.heartbeat", "duration such as \"1m\"");
    check("[files]\nscan_interval = \"8d\"", 2, "files.scan_interval", "from 1s to 1w");
    check("[files]\nhash_bytes_max = \"1 KiB\"", 2, "files.hash_bytes_max", "from 4 KiB to 1 TiB");
    check(
        "[files]\nrung = \"magic\"",
        2,
        "files.rung",
        "one of auto, fanotify, fanotify-inode, inotify, scan",
    );
    check("[files]\ntrees = []", 2, "files.trees", "at least one");
    check("[files]\ntrees = [\"/etc/../root\"]", 2, "files.trees", "without \"..\"");
    check("[files]\nexclude = [\"/etc/{a\"]", 2, "files.exclude", "not a valid glob");
    check("[ledger]\nkey_lifetime = \"1s\"", 2, "ledger.key_lifetime", "from 1m to 30d");
    check("[ledger]\nretention_age = \"1s\"", 2, "ledger.retention_age", "from 1h");
    check("[ledger]\ndisk_bytes_max = \"1 MiB\"", 2, "ledger.disk_bytes_max", "below ledger.retention_bytes");
    check("[uplink]\nuser = \"root\"", 2, "uplink.user", "not root");
    check("[uplink]\nuser = \"0\"", 2, "uplink.user", "not root");
    check("[uplink]\nuser = \"a b\"", 2, "uplink.user", "name or number");
    check("[uplink]\nproxy = \"socks://x:1\"", 2, "uplink.proxy", "http://");
    check("[uplink]\nproxy = \"http://user@host:1\"", 2, "uplink.proxy", "http://");
    check("[uplink]\nproxy = \"http://host:0\"", 2, "uplink.proxy", "http://");
    check("[uplink]\nbackoff_max = \"1d\"", 2, "uplink.backoff_max", "from 1s to 1h");
    check("run_dir = \"/var/lib/picket\"", 1, "run_dir", "same directory");
    check("files = 3", 1, "files", "must be a table");
}

#[test]
fn valid_values_arrive() {
    let text = r#"
[files]
rung = "scan"
scan_interval = "1s"
[uplink]
user = "65534"
proxy = "http://u:p@proxy.example:3128"
[commands]
allow = []
"#;
    let config = Config::parse(text).expect("valid");
    assert_eq!(config.files.rung.as_deref(), Some("scan"));
    assert_eq!(config.files.scan_interval, Duration::from_secs(1));
    assert_eq!(config.uplink.user, "65534");
    assert_eq!(config.uplink.proxy.as_deref(), Some("http://u:p@proxy.example:3128"));
    assert!(config.commands.allow.is_empty());
}

#[test]
fn broken_text_is_told_by_line() {
    check("state_dir = \"/x\"\n[files\n", 2, "", "");
    check("[host]\n[host]\n", 2, "", "");
}

#[test]
fn what_others_could_change_is_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("agent.toml");
    let refused = |path: &Path| matches!(Config::load(Some(path)), Err(ConfigError::Insecure { .. }));
    std::fs::write(&path, "").expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("mode");
    assert!(refused(&path));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("mode");
    assert_eq!(Config::load(Some(&path)).expect("loaded").config, Config::default());
    std::os::unix::fs::chown(&path, Some(65_534), None).expect("owner");
    assert!(refused(&path));
    assert!(refused(directory.path()));
    std::fs::write(&path, vec![b'#'; 300 * 1024]).expect("written");
    std::os::unix::fs::chown(&path, Some(0), None).expect("owner");
    assert!(refused(&path));
}

#[test]
fn a_named_file_must_exist() {
    let error = Config::load(Some(Path::new("/nonexistent/agent.toml"))).expect_err("missing");
    assert!(error.to_string().contains("/nonexistent/agent.toml"), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[ -~\n]{0,200}") {
        let _checked = Config::parse(&text).is_ok();
    }

    #[test]
    fn no_damage_to_the_packaged_text_makes_it_panic(
        at in 0usize..6_000,
        with in "[\\[\\]\"=\\.#{}\n\u{0}é]{0,3}",
    ) {
        let at = PACKAGED.floor_char_boundary(at.min(PACKAGED.len()));
        let (before, after) = PACKAGED.split_at(at);
        let _checked = Config::parse(&format!("{before}{with}{after}")).is_ok();
    }
}
