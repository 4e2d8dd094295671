//! libFuzzer around one of the checks of the protocol ([`targets`]) or of the agent ([`picket_agent::hostile`]), which the
//! variable `FUZZ_TARGET` names, as `protocol/note` or `agent/audit`. One binary for all of them: it is linked once.
#![no_main]

use std::sync::OnceLock;

mod targets;

static CHECK: OnceLock<targets::Check> = OnceLock::new();

fn all() -> impl Iterator<Item = (String, targets::Check)> {
    let protocol = targets::ALL.iter().map(|(name, check)| (format!("protocol/{name}"), *check));
    protocol.chain(picket_agent::hostile::ALL.iter().map(|(name, check)| (format!("agent/{name}"), *check)))
}

fn chosen() -> targets::Check {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = all().find(|(name, _)| *name == wanted);
    let names = || all().map(|(name, _)| name).collect::<Vec<_>>().join(" ");
    found.map(|(_, check)| check).unwrap_or_else(|| panic!("FUZZ_TARGET must be one of: {}", names()))
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = CHECK.get_or_init(chosen)(input);
});
