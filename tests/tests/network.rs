//! The network sensor over a real cable: what is sent is counted, on each rung, as interfaces come and go.

use std::time::{Duration, Instant};

use picket_tests::agent::Agent;
use picket_tests::cable::{Cable, counter, ip, sensor, start_agent as start};
use picket_tests::wait_for;
use serde_json::Value;

/// Sends `count` packets and waits until that many more are counted; what else a cable carries (neighbour discovery) is little.
fn check_counted(agent: &Agent, cable: &Cable, count: u32) {
    let before = counter(agent, "packets");
    cable.send_syns(count);
    let wanted = u64::from(count);
    let counted = wait_for("all packets to be counted", || {
        let counted = counter(agent, "packets") - before;
        (counted >= wanted).then_some(counted)
    });
    assert!(counted < wanted + 200, "{counted} were counted of {count}");
    assert_eq!(counter(agent, "dropped"), 0);
}

/// Waits until the agent has taken up what changed of the interfaces: a few packets are counted, and each of them once.
fn wait_until_known(agent: &Agent, cable: &Cable) {
    const FEW: u32 = 100;
    wait_for("each packet to be counted once", || {
        let before = counter(agent, "packets");
        cable.send_syns(FEW);
        let (wanted, deadline) = (u64::from(FEW), Instant::now() + Duration::from_secs(5));
        loop {
            let counted = counter(agent, "packets") - before;
            if counted >= wanted || Instant::now() > deadline {
                break (wanted..wanted * 3 / 2).contains(&counted).then_some(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

#[test]
fn each_rung_counts_every_packet() {
    for rung in ["auto", "xdp", "xdp-generic", "tc", "ring", "pnet"] {
        let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
        let mut agent = start(directory.path(), &cable, &format!("rung = \"{rung}\""), &[]);
        let wanted = if rung == "auto" { "tap" } else { rung };
        assert_eq!(sensor(&agent).expect("it runs")["rung"], wanted);
        // A socket without a ring has room for some thousand.
        let part = if rung == "pnet" { 2_000 } else { 20_000 };
        (0..20_000 / part).for_each(|_| check_counted(&agent, &cable, part));
        assert_eq!(agent.stop(), Some(0));
    }
}

#[test]
fn an_interface_that_comes_is_counted_and_one_that_goes_is_no_harm() {
    for network in ["", "rung = \"pnet\""] {
        check_interfaces(network);
    }
}

fn check_interfaces(network: &str) {
    let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
    let agent = start(directory.path(), &cable, network, &[]);
    let (near, far) = (cable.near(), cable.far());
    ip(&["-n", &near, "link", "del", "near0"]);
    ip(&["link", "add", "far0", "netns", &far, "type", "veth", "peer", "name", "near1", "netns", &near]);
    ip(&["-n", &near, "link", "set", "near1", "address", Cable::NEAR_MAC, "up"]);
    ip(&["-n", &far, "link", "set", "far0", "up"]);
    wait_until_known(&agent, &cable);
    check_counted(&agent, &cable, 2_000);
    // A bridge above it sees the same packets again.
    ip(&["-n", &near, "link", "add", "br0", "type", "bridge"]);
    ip(&["-n", &near, "link", "set", "near1", "master", "br0"]);
    ip(&["-n", &near, "link", "set", "br0", "up"]);
    wait_until_known(&agent, &cable);
    check_counted(&agent, &cable, 2_000);
    // Down and up again.
    ip(&["-n", &near, "link", "set", "near1", "down"]);
    ip(&["-n", &near, "link", "set", "near1", "up"]);
    wait_until_known(&agent, &cable);
    check_counted(&agent, &cable, 2_000);
}

#[test]
fn what_the_kernel_refuses_is_said_and_the_next_rung_is_taken() {
    let bpf = "-sys_admin,-bpf,-perfmon";
    let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
    let mut agent =
        start(directory.path(), &cable, "", &["setpriv", "--bounding-set", bpf, "--inh-caps", bpf]);
    let told = sensor(&agent).expect("it runs");
    assert_eq!((&told["rung"], &told["state"]), (&"ring".into(), &"degraded".into()), "{told:#}");
    let why = told["reason"].as_str().expect("a reason");
    assert!(why.contains("tap is refused") && why.contains("not permitted"), "{why}");
    check_counted(&agent, &cable, 5_000);
    let probed = agent.json(&["probe"]);
    let network = probed.iter().find(|one| one["sensor"] == "network");
    let rungs = network.expect("the network")["rungs"].as_array().expect("rungs").clone();
    let usable = |name: &str| rungs.iter().find(|one| one["rung"] == name).expect("a rung")["usable"].clone();
    let usable = ["tap", "ring", "pnet", "counters"].map(usable);
    assert_eq!(usable, [false, true, true, true].map(Value::from));
    agent.stop();
    // Without packet sockets there are the kernel's own counters.
    let none = "-sys_admin,-bpf,-perfmon,-net_raw";
    let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
    let agent = start(directory.path(), &cable, "", &["setpriv", "--bounding-set", none, "--inh-caps", none]);
    assert_eq!(sensor(&agent).expect("it runs")["rung"], "counters");
}

#[test]
fn a_ring_that_would_cost_too_much_is_sampled_and_that_is_said() {
    let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
    let agent = start(directory.path(), &cable, "rung = \"ring\"", &[]);
    let mut flood =
        cable.start_from_afar(&["hping3", "--flood", "--rand-source", "-S", "-p", "80", Cable::ADDRESSES[0]]);
    let told = wait_for("the sensor to sample", || {
        let told = sensor(&agent)?;
        (told["counters"]["sampled"].as_u64()? > 1).then_some(told)
    });
    flood.kill().expect("it runs");
    flood.wait().expect("it ran");
    assert!(told["reason"].as_str().expect("a reason").contains("one packet in"), "{told:#}");
    wait_for("all packets to be looked at again", || (counter(&agent, "sampled") == 1).then_some(()));
}

#[test]
fn what_was_learned_goes_over_a_restart() {
    let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
    let mut agent = start(directory.path(), &cable, "", &[]);
    check_counted(&agent, &cable, 5_000);
    let learned =
        wait_for("it to be learned", || Some(counter(&agent, "baselines")).filter(|count| *count > 0));
    assert_eq!(agent.stop(), Some(0));
    // Nothing comes of which it could be learned again.
    ip(&["-n", &cable.near(), "link", "set", "near0", "down"]);
    agent.resume();
    let again = wait_for("the sensor to run", || {
        sensor(&agent)?.pointer("/counters/baselines").and_then(Value::as_u64)
    });
    assert!(again >= learned, "{again} of {learned}");
}
