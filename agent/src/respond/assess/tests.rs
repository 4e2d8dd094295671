use std::os::unix::fs::PermissionsExt as _;

use picket_protocol::crypto::sha256;
use picket_protocol::finding::{Observed, Severity, Text};
use serde_json::json;

use super::*;

fn finding(number: u128, rule: &str, path: &Path, before: Value) -> Finding {
    use std::os::unix::ffi::OsStrExt as _;
    Finding {
        id: Uuid::from_u128(number),
        rule: rule.to_owned(),
        severity: Severity::High,
        observed: Observed::once(Timestamp::default()),
        title: "it was changed".to_owned(),
        entities: vec![Entity::File { path: Text::from_bytes(path.as_os_str().as_bytes()) }],
        attack: Vec::new(),
        explained_by: None,
        drill: false,
        evidence: json!({ "class": "other", "before": before }),
    }
}

fn facts(path: &Path) -> Value {
    let about = std::fs::metadata(path).unwrap();
    let content = picket_protocol::crypto::hex(&sha256(&[&std::fs::read(path).unwrap()]));
    json!({ "type": "file", "mode": format!("{:04o}", about.mode() & 0o7777), "uid": about.uid(), "gid": about.gid(),
        "sha256": content })
}

fn items(findings: &[Finding]) -> Vec<String> {
    files(findings).into_iter().map(|item| item.item).collect()
}

#[test]
fn a_planted_file_counts_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("evil");
    std::fs::write(&path, "x").unwrap();
    let planted = [finding(1, "persistence.cron", &path, Value::Null)];
    assert_eq!(items(&planted), [format!("persistence.cron {}", path.display())]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(items(&planted), [""; 0]);
}

#[test]
fn a_changed_file_counts_until_it_is_as_it_was_before_the_first_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unit");
    std::fs::write(&path, "good").unwrap();
    let good = facts(&path);
    std::fs::write(&path, "bad").unwrap();
    let bad = facts(&path);
    let changed =
        [finding(1, "persistence.systemd", &path, good), finding(2, "persistence.systemd", &path, bad)];
    assert_eq!(items(&changed).len(), 1);
    std::fs::write(&path, "worse").unwrap();
    assert_eq!(items(&changed).len(), 1);
    std::fs::write(&path, "good").unwrap();
    assert_eq!(items(&changed), [""; 0]);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(items(&changed).len(), 1, "another mode");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(items(&changed).len(), 1, "gone, and it was there before");
}

#[test]
fn what_gives_no_power_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page.html");
    std::fs::write(&path, "x").unwrap();
    assert_eq!(items(&[finding(1, "file.created", &path, Value::Null)]), [""; 0]);
    let mut program = finding(1, "file.modified", &path, Value::Null);
    program.evidence = json!({ "class": "programs" });
    assert_eq!(items(&[program]).len(), 1);
}

#[test]
fn a_new_socket_counts_while_it_listens() {
    let mut finding = finding(1, "net.listener", Path::new("/x"), Value::Null);
    finding.evidence = json!({ "protocol": "tcp", "port": 4444 });
    let open = |port| BTreeSet::from([("tcp".to_owned(), port, "nc".to_owned())]);
    let items = |port| listeners(std::slice::from_ref(&finding), &open(port));
    assert_eq!(items(4_444)[0].item, "net.listener tcp/4444 nc");
    assert!(items(22).is_empty());
}

#[test]
fn what_operators_accept_is_left_out() {
    let item = |name: &str| Item { item: name.to_owned(), what: String::new(), finding: None };
    let assessment = Assessment { items: vec![item("a"), item("b")], ..Assessment::default() };
    assert!(!assessment.clone().without(&["a".to_owned()]).is_clean());
    assert!(assessment.without(&["a".to_owned(), "b".to_owned()]).is_clean());
    let more = Assessment { left_out: 1, ..Assessment::default() };
    assert!(!more.is_clean(), "what is not named cannot be accepted");
}
