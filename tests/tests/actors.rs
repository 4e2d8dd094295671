//! Who did it, end to end: the real agent on the real kernel.

use picket_tests::actors::shells;
use picket_tests::agent::Agent;
use picket_tests::collector::Collector;

#[test]
fn nearly_every_short_shell_is_named_in_its_sealed_finding_and_none_wrongly() {
    let dir = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(dir.path());
    let agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let named = shells(&agent, 1_500, 500);
    println!("{named:?}: {:.2} %", named.share());
    assert!(named.share() >= 99.5 && named.wrong == 0, "{named:?}");
}
