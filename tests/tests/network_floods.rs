//! Floods of real programs over a real cable, as they are told.

use picket_tests::cable::{Cable, findings, start_agent};
use picket_tests::process::Running;
use picket_tests::wait_for;
use serde_json::Value;

fn text<'a>(record: &'a Value, pointer: &str) -> &'a str {
    record.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn a_flood_from_this_host_is_told_with_the_process_behind_it() {
    let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
    let agent = start_agent(directory.path(), &cable, "", &[]);
    let words = ["hping3", "--flood", "--rand-source", "-S", "-p", "80", Cable::ADDRESSES[1]];
    let log = directory.path().join("hping3.log");
    let hping = Running::start("hping3", &mut Cable::command(&cable.near(), &words), &log);
    let named = wait_for("the flood to be told with its process", || {
        findings(&agent).into_iter().find(|told| told.pointer("/body/evidence/process/pid").is_some())
    });
    assert_eq!(named.pointer("/body/evidence/process/pid"), Some(&hping.pid().into()), "{named:#}");
    hping.kill();
    let told = wait_for("its end to be told", || {
        let told = findings(&agent);
        (text(told.last()?, "/body/evidence/state") == "ended").then_some(told)
    });
    for record in &told {
        let shown = ["/body/rule", "/body/evidence/direction"].map(|name| text(record, name));
        assert_eq!((shown, text(record, "/body/id")), (["net.flood.syn", "out"], text(&named, "/body/id")));
    }
    let executable = text(&named, "/body/evidence/process/executable/text");
    assert!(executable.ends_with("/hping3"), "{named:#}");
    let title = text(&named, "/body/title");
    assert!(title.starts_with("This host sends a SYN flood to 10.199.0.1 port 80"), "{title}");
    let entities = named.pointer("/body/entities").map(Value::to_string).unwrap_or_default();
    assert!(entities.contains(executable), "{entities}");
}
