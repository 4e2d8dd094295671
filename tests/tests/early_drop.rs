//! Blocks that are dropped in the driver already: seen by real packets, which then do not even reach the first hook of netfilter.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::time::{Duration, Instant};

use picket_tests::cable::ip;
use picket_tests::collector::Collector;
use picket_tests::process::stdout_of;
use picket_tests::site::{ATTACKER, COLLECTOR, Site, cable};
use picket_tests::{wait_for, wait_for_within};
use rustix::process::Signal;
use serde_json::Value;

const ASKED: &str = "[response]\nxdp = [\"near0\"]\n";
/// Counts what of the attacker gets to netfilter, before any table of the agent.
const COUNT: &str = "nft 'table ip owner { chain c { type filter hook prerouting priority -400; \
                     icmp type echo-request counter; }; }'";

/// Echo requests that netfilter has seen.
fn seen(site: &Site<'_>) -> u64 {
    let table = stdout_of(&mut site.on_victim(&["nft", "list", "table", "ip", "owner"]));
    let mut words = table.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|count| count.parse().ok()).unwrap()
}

/// Whether a program stands on the victim's interface, as `ip` says: `xdp`, `xdpgeneric`.
fn stands(site: &Site<'_>) -> Option<String> {
    let link = stdout_of(&mut site.on_victim(&["ip", "link", "show", "near0"]));
    link.split_whitespace().find(|word| word.starts_with("xdp")).map(str::to_owned)
}

/// What the receipt tells of the victim's interface.
fn told(site: &Site<'_>, command: &str) -> Value {
    let applied = site.wait(command, "applied");
    applied.pointer("/body/detail/done/early_drop/0").cloned().unwrap_or_else(|| panic!("{applied:#}"))
}

fn block(site: &Site<'_>, name: &str, networks: &str, lease: &str) -> String {
    let command = site.order(name, &["block", "--network", networks, "--lease", lease]);
    site.wait(&command, "confirmed");
    command
}

#[test]
fn a_block_is_dropped_in_the_driver_and_by_its_tables_when_the_agent_is_dead() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let mut site = Site::start_with(dir.path(), &cable, &collector, "", ASKED, &[]);
    stdout_of(&mut site.on_victim(&["sh", "-ec", COUNT]));
    assert_eq!((site.pings(), stands(&site)), ([true, true], None));

    let first = block(&site, "first", &format!("{ATTACKER},198.18.0.0/15"), "10m");
    let native = told(&site, &first);
    assert_eq!(native.get("xdp").and_then(Value::as_str), Some("native"), "{native}");
    assert_eq!(stands(&site).as_deref(), Some("xdp"));
    let before = seen(&site);
    assert_eq!((site.pings(), seen(&site)), ([false, false], before), "nothing of it reaches netfilter");
    // The collector is within this one, and answers; another order ends first.
    let second = block(&site, "second", "10.199.0.0/24", "10m");
    site.agent.run(&["release", &first]);
    site.wait(&first, "released");
    assert_eq!((site.pings(), seen(&site)), ([false, false], before));

    // With the agent it goes; the tables stay.
    site.agent.kill();
    wait_for("the kernel to take it away", || stands(&site).is_none().then_some(()));
    assert_eq!(site.pings(), [false, false]);
    assert!(seen(&site) > before, "now it is netfilter that drops");
    site.agent.resume();
    wait_for("it to be there again", || stands(&site));
    // It stands before the agent takes commands.
    site.agent.wait_until_ready();
    let before = seen(&site);
    assert_eq!((site.pings(), seen(&site)), ([false, false], before));
    site.agent.run(&["release"]);
    site.wait(&second, "released");
    assert_eq!((site.pings(), stands(&site)), ([true, true], None));

    // An agent that hangs, and the lease ends all the same.
    let begin = Instant::now();
    let third = block(&site, "third", ATTACKER, "20s");
    site.agent.process().signal(Signal::STOP);
    assert_eq!(site.pings(), [false, false]);
    wait_for_within("the lease to end", Duration::from_secs(60), || {
        (site.pings() == [true, true]).then_some(())
    });
    assert!(begin.elapsed() >= Duration::from_secs(19) && stands(&site).is_some());
    site.agent.process().signal(Signal::CONT);
    site.wait(&third, "expired");
    wait_for("nothing to be left of it", || stands(&site).is_none().then_some(()));

    // Without the agent, local root ends it.
    block(&site, "fourth", ATTACKER, "10m");
    site.agent.kill();
    site.agent.run(&["release", "--offline"]);
    assert_eq!((site.pings(), stands(&site)), ([true, true], None));
}

#[test]
fn where_the_driver_takes_no_program_it_is_dropped_behind_it_and_where_one_stands_by_tables_alone() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    // A cable's driver takes none while the other end sends what does not fit into a page.
    ip(&["-n", &cable.far(), "link", "set", "far0", "mtu", "9000"]);
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start_with(dir.path(), &cable, &collector, "", ASKED, &[]);
    stdout_of(&mut site.on_victim(&["sh", "-ec", COUNT]));
    wait_for("a site that works", || (site.pings() == [true, true]).then_some(()));
    let command = block(&site, "generic", ATTACKER, "10m");
    let generic = told(&site, &command);
    assert_eq!(generic.get("xdp").and_then(Value::as_str), Some("generic"), "{generic}");
    assert_eq!(stands(&site).as_deref(), Some("xdpgeneric"));
    let before = seen(&site);
    assert_eq!((site.pings(), seen(&site)), ([false, false], before));
    site.agent.run(&["release"]);
    assert_eq!((site.pings(), stands(&site)), ([true, true], None));

    // Somebody else's program, which lets everything pass.
    let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/bpf/block.bpf.o");
    let theirs = ["ip", "link", "set", "dev", "near0", "xdpgeneric", "object", object, "section", "xdp"];
    stdout_of(&mut site.on_victim(&theirs));
    let command = block(&site, "beside", ATTACKER, "10m");
    let left_out = told(&site, &command);
    let why = left_out.get("why").and_then(Value::as_str).unwrap_or_default();
    assert!(
        left_out.get("xdp").is_some_and(Value::is_null) && why.contains("another XDP program"),
        "{left_out}"
    );
    let before = seen(&site);
    assert_eq!(site.pings(), [false, false], "by its tables");
    assert!(seen(&site) > before);
    site.agent.run(&["release"]);
    assert_eq!(
        (site.pings(), stands(&site).as_deref()),
        ([true, true], Some("xdpgeneric")),
        "it is left alone"
    );
}
