//! libFuzzer around one of the checks in [`targets`], which the variable `FUZZ_TARGET` names. One binary for
//! all of them: it is linked once.
#![no_main]

use std::sync::OnceLock;

mod targets;

static CHECK: OnceLock<targets::Check> = OnceLock::new();

fn chosen() -> targets::Check {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = targets::ALL.iter().find(|(name, _)| *name == wanted);
    let names = || targets::ALL.map(|(name, _)| name).join(" ");
    found.map(|(_, check)| *check).unwrap_or_else(|| panic!("FUZZ_TARGET must be one of: {}", names()))
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = CHECK.get_or_init(chosen)(input);
});
