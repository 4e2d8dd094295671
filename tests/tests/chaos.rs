//! A short run of the chaos that `tests/bench/run chaos` does at full length.

use std::process::Command;

#[test]
fn kills_cuts_and_a_full_disk_lose_and_repeat_nothing() {
    let chaos = env!("CARGO_BIN_EXE_chaos");
    let out = Command::new("unshare")
        .args(["--mount", "--propagation", "private", chaos, "6000", "6", "2", "1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
}
