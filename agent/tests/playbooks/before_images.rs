//! Files that a step puts back as they were before, by a finding.

use std::os::unix::fs::MetadataExt as _;

use picket_agent::sense::files::images::{Images, Owner};
use picket_protocol::finding::{Entity, Text};
use serde_json::json;

use super::*;

const FINDING: Uuid = Uuid::from_u128(0x0199_c2ad_7d10_7a44_b1f5_3a9d_2c5e_8f01);

/// Seals the finding that the file came to hold its own name, and the image of what it held before.
fn changed(lab: &Lab, name: &str, before: &str) {
    let database = lab.layout.database();
    let digest = sha256(&[before.as_bytes()]);
    let image =
        Images::open(&database).unwrap().keep((digest, Owner::Root), before.as_bytes(), None).unwrap();
    let meta = std::fs::metadata(lab.file(name)).unwrap();
    let facts = |text: &str| {
        json!({
            "type": "file", "mode": format!("{:04o}", meta.mode() & 0o7777), "uid": meta.uid(), "gid": meta.gid(), "size": text.len(), "mtime": lab.start, "ctime": lab.start,
            "inode": 1, "links": 1, "sha256": hex(&sha256(&[text.as_bytes()])),
        })
    };
    let evidence = json!({
        "class": "configuration", "seen_by": "event", "fact": "file.modified", "changed": ["content"],
        "before": facts(before), "after": facts(name),
    });
    let path = lab.file(name);
    let finding = Finding {
        id: FINDING,
        rule: "file.modified".to_owned(),
        severity: Severity::Medium,
        observed: Observed::once(lab.start),
        title: "it was modified".to_owned(),
        entities: vec![Entity::File { path: Text::from_bytes(path.as_os_str().as_encoded_bytes()) }],
        evidence,
        attack: Vec::new(),
        explained_by: None,
        drill: false,
    };
    let draft = Draft::new(Kind::Finding, finding.severity, &finding).unwrap();
    lab.ledger.sealer().seal_durably(vec![draft], vec![image], SEAL).unwrap();
}

fn put_back(finding: Uuid) -> Action {
    Action::RestoreFile(RestoreFrom::Finding(finding))
}

#[test]
fn a_planted_text_stays_in_the_vault_while_the_former_one_is_in_its_place() {
    let mut lab = Lab::new();
    changed(&lab, "conf", "as it was");
    let steps = vec![lab.take("conf", 600), step("back", put_back(FINDING), 0)];
    lab.order(steps);
    lab.ticks_for(1);
    let all = [("conf", "applied"), ("conf", "confirmed"), ("back", "applied"), ("", "confirmed")];
    assert_eq!(lab.told(), told(&all));
    assert_eq!(std::fs::read(lab.file("conf")).unwrap(), b"as it was");
    let receipt = lab.receipts().into_iter().find(|receipt| receipt.title.contains("holds again")).unwrap();
    assert_eq!(receipt.detail["finding"], FINDING.to_string());
    // What came is not given back over it.
    lab.ticks_for(600);
    assert!(lab.receipts().iter().any(|receipt| receipt.title.contains("stays as")), "{:?}", lab.last());
    assert_eq!(std::fs::read(lab.file("conf")).unwrap(), b"as it was");
}

#[test]
fn what_cannot_be_put_back_is_answered_for_and_a_crash_leaves_nothing() {
    let mut lab = Lab::new();
    changed(&lab, "conf", "as it was");
    lab.order_as(ISOLATION, put_back(COMMAND), 0);
    lab.ticks_for(1);
    let (outcome, title) = lab.last();
    assert!(outcome == Outcome::Failed && title.contains("this host has no finding"), "{title}");
    // Its plan changes nothing.
    let plan = Action::Plan { action: Box::new(put_back(FINDING)) };
    lab.order_as(act_id(COMMAND, 1), plan, 0);
    lab.ticks_for(1);
    let (outcome, title) = lab.last();
    assert!(
        outcome == Outcome::Applied && title.contains("only told") && title.contains("9 bytes"),
        "{title}"
    );
    assert_eq!(std::fs::read(lab.file("conf")).unwrap(), b"conf");
    // Killed in the middle of it.
    let temporary = lab.directory.path().join(format!(".picket-{COMMAND}.new"));
    std::fs::write(&temporary, "half").unwrap();
    let directory = Text::from_bytes(lab.directory.path().as_os_str().as_encoded_bytes());
    let side = json!({ "sha256": "", "flags": 0 });
    let note = json!({ "directory": directory, "name": Text::from_bytes(b"conf"), "new": side, "old": null, "whole": false });
    std::fs::create_dir(lab.layout.core().join("restoring")).unwrap();
    std::fs::write(lab.layout.core().join(format!("restoring/{COMMAND}.json")), note.to_string()).unwrap();
    lab.begin();
    assert!(!temporary.exists());
    lab.order_as(COMMAND, put_back(FINDING), 0);
    lab.ticks_for(1);
    assert_eq!(lab.last().0, Outcome::Applied, "{}", lab.last().1);
    assert_eq!(std::fs::read(lab.file("conf")).unwrap(), b"as it was");
}
