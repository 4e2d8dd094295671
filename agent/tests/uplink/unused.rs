//! Entries of the allow-list that nobody needs, found by watching a real uplink live its life under strace:
//! look-up, TLS, large batches, a renewal, a lost connection, a reconnect.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_agent::uplink::syscalls::{ALLOWED, DEADLY};

use super::collector::Collector;
use super::host::{Host, UPLINK_UID, program_in, wait_for};

/// Calls that are tried on the way and refused; that is part of the design.
const TRIED_IN_VAIN: &[(&str, &str)] = &[
    ("fcntl", "std, in debug builds: is a descriptor that is closed really open?"),
    ("sigaltstack", "std, at the end of main: gives the signal stack back"),
];

/// A script that runs the agent under strace and leaves the trace in `output`.
pub fn traced(host: &Host) -> (PathBuf, PathBuf) {
    let directory = host.directory.path().join("trace");
    std::fs::create_dir(&directory).unwrap();
    chown(&directory, Some(UPLINK_UID), Some(UPLINK_UID)).unwrap();
    let (script, output) = (host.directory.path().join("traced"), directory.join("calls"));
    let strace = ["/usr/bin/strace", "/bin/strace"].into_iter().find(|path| Path::new(path).exists());
    let strace = strace.expect("strace is installed (apt-get install strace)");
    let agent = program_in(host.directory.path());
    let agent = agent.display();
    let text = format!("#!/bin/sh\nexec {strace} -f -qq -o {} {agent} \"$@\"\n", output.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    (script, output)
}

/// The calls that were made once the sandbox was closed, with their lines.
pub fn calls_in_sandbox(trace: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = trace.lines().collect();
    let installs =
        |line: &&str| line.contains("seccomp(SECCOMP_SET_MODE_FILTER") || line.contains("PR_SET_SECCOMP");
    let closed = lines.iter().rposition(installs).expect("the filter is installed");
    let call = |line: &&str| {
        let (_pid, call) = line.split_once(' ')?;
        let (name, _) = call.trim_start().split_once('(')?;
        name.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_')
            .then(|| (name.to_owned(), (*line).to_owned()))
    };
    lines[closed + 1..].iter().filter_map(call).collect()
}

#[test]
fn the_allow_list_is_what_is_needed_and_no_more() {
    let collector = Collector::start();
    let ca = &collector.shared.ca;
    let host = Host::with_certificate(ca, ca, Duration::from_secs(119), Duration::from_secs(61));
    let key = host.key;
    collector.on_connection(move |connection, shared| {
        let Some(hello) = shared.greet(connection) else { return };
        shared.serve(connection, &hello, key, 1);
    });
    collector.on_connection(move |connection, shared| shared.honest(connection, key));
    let (script, output) = traced(&host);
    let address = format!("localhost:{}", collector.address.port());
    let running = host.start_program(&collector, &address, None, &script);
    // What does not compress makes large frames, and those make malloc work.
    running.seal_large(20);
    running.wait_acknowledged();
    wait_for("a renewal", || (running.counter("renewals") > 0).then_some(()));
    wait_for("a second connection", || (running.counter("connections") > 1).then_some(()));
    running.seal(100);
    running.wait_acknowledged();
    running.stop();
    let trace = wait_for("the trace", || {
        std::fs::read_to_string(&output).ok().filter(|trace| trace.contains("exit_group("))
    });
    let calls = calls_in_sandbox(&trace);
    assert!(calls.len() > 50, "{} calls in the sandbox", calls.len());
    let used: BTreeSet<&str> = calls.iter().map(|(name, _)| name.as_str()).collect();
    let unused: Vec<_> =
        ALLOWED.iter().filter(|entry| entry.rare.is_none() && !used.contains(entry.name)).collect();
    assert!(unused.is_empty(), "nobody needs {unused:#?}; used were {used:?}");
    let listed = |name: &str| ALLOWED.iter().any(|entry| entry.name == name);
    let in_vain = |name: &str| TRIED_IN_VAIN.iter().any(|(tried, _)| *tried == name);
    let missing: Vec<_> =
        calls.iter().filter(|(name, _)| !listed(name) && !in_vain(name)).map(|(_, line)| line).collect();
    assert!(missing.is_empty(), "not on the list: {missing:#?}");
    assert!(!DEADLY.iter().any(|(name, _)| used.contains(name)));
    // What is listed and refused was called in a way that is not: that is worth knowing too.
    let refused: Vec<_> =
        calls.iter().filter(|(_, line)| line.contains("EPERM")).map(|(_, line)| line).collect();
    let in_vain = |line: &&&String| TRIED_IN_VAIN.iter().any(|(name, _)| line.contains(&format!(" {name}(")));
    // The resolver asks for a name service daemon first, and for the kernel's addresses: it does without.
    let resolver = |line: &&&String| line.contains("AF_UNIX") || line.contains("AF_NETLINK");
    let refused: Vec<_> = refused.iter().filter(|line| !in_vain(line) && !resolver(line)).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}
