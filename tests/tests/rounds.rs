//! A few of the rounds that `tests/bench/run response` does at full length.

use std::process::Command;

#[test]
fn whatever_is_killed_in_the_middle_the_host_is_as_it_was_before() {
    let out = Command::new(env!("CARGO_BIN_EXE_bench-response"))
        .args(["rounds", "6", "20261129"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
}
