use std::os::unix::fs::PermissionsExt as _;

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
    let content = hex(&sha256(&[&std::fs::read(path).unwrap()]));
    json!({ "type": "file", "mode": format!("{:04o}", about.mode() & 0o7777), "uid": about.uid(), "gid": about.gid(),
        "sha256": content })
}

fn items(findings: &[Finding]) -> Vec<String> {
    files(findings, &|_| false).into_iter().map(|item| item.item).collect()
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
fn what_may_never_answer_is_not_looked_at_and_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone");
    let planted = [finding(1, "persistence.cron", &path, Value::Null)];
    let [item] = &files(&planted, &|at| at == path)[..] else { panic!("it counts") };
    assert!(
        item.what.starts_with("Not looked at") && item.item == format!("persistence.cron {}", path.display())
    );
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

#[test]
fn no_number_of_findings_pushes_out_what_somebody_planted() {
    let dir = tempfile::tempdir().unwrap();
    let layout = crate::layout::Layout::new(&dir.path().join("state"), &dir.path().join("run"));
    crate::ledger::create_first_key(&layout).unwrap();
    let config = crate::config::Config::parse("").unwrap().ledger;
    let keys = Box::new(crate::ledger::KeyDirectory::open(layout.ledger_keys()).unwrap());
    let location = crate::ledger::Location::file(layout.database());
    let agent = picket_protocol::identity::AgentId::parse("0192f0c0-1111-7222-8333-444455556666").unwrap();
    let now = |seconds: u64| crate::ledger::Now {
        wall: Timestamp::from_seconds(1_800_000_000 + i64::try_from(seconds).unwrap()),
        boot: Duration::from_secs(seconds),
    };
    let mut store = crate::ledger::Store::open(&location, keys, config, agent, &[], now(0)).unwrap();
    let draft = |finding: &Finding| {
        picket_protocol::record::Draft::new(Kind::Finding, finding.severity, finding).unwrap()
    };
    let planted = finding(1, "persistence.cron", &dir.path().join("evil"), Value::Null);
    let commit = |store: &mut crate::ledger::Store, drafts: Vec<_>, seconds| {
        let mut group = vec![crate::ledger::Entry::new(drafts, Vec::new())];
        let done = store.commit(&mut group, now(seconds)).unwrap().outcomes;
        assert_eq!(done.len(), 1);
    };
    commit(&mut store, vec![draft(&planted)], 1);
    let growing = finding(2, "login.bruteforce", Path::new("/x"), Value::Null);
    for round in 0..11_u64 {
        commit(&mut store, (0..1_000).map(|_| draft(&growing)).collect(), 2 + round);
    }
    let found = |seconds| {
        let findings = findings(&layout.database(), now(seconds).wall).unwrap();
        findings.into_iter().map(|finding| finding.id.as_u128()).collect::<Vec<_>>()
    };
    assert_eq!(found(60), [1]);
    assert_eq!(found(40 * 86_400), [0_u128; 0], "what lies before the window");
}

#[test]
fn paths_that_look_the_same_are_two_items() {
    let long = format!("/{}", "x".repeat(400));
    let names = [
        named("persistence.cron", Path::new(&format!("{long}a"))),
        named("persistence.cron", Path::new(&format!("{long}b"))),
        named("persistence.cron", path_of(b"/\xff").as_path()),
        named("persistence.cron", path_of(b"/\xfe").as_path()),
        named("persistence.cron", Path::new("/\u{fffd}")),
    ];
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    assert_eq!(named("persistence.cron", Path::new("/etc/cron.d/x")), "persistence.cron /etc/cron.d/x");
}
