//! Configuration that has no parser of its own, and the boot loader's: only a line that opens a door is told in words, the
//! rest is in the diff.

use picket_protocol::finding::Severity;

use super::super::redact;
use super::super::short;
use super::super::subject::Subject;
use super::{Case, STATEMENTS_MAX, Statement, quote, suspicious};

/// Words of the kernel's command line that switch a defence off or run another first program.
const KERNEL: &[&str] = &[
    "init=",
    "rdinit=",
    "audit=0",
    "apparmor=0",
    "selinux=0",
    "enforcing=0",
    "security=none",
    "lsm=none",
    "mitigations=off",
    "nokaslr",
    "nosmap",
    "nosmep",
    "lockdown=none",
    "module.sig_enforce=0",
    "systemd.debug-shell",
    "systemd.unit=rescue",
    "single",
];

/// Reads the lines that came.
pub fn read(case: &Case<'_>, out: &mut Vec<Statement>) {
    for (raw, shown) in case.added() {
        if out.len() >= STATEMENTS_MAX {
            return;
        }
        let said = match case.subject {
            Subject::Boot => kernel(case, raw, shown).or_else(|| line(case, raw, shown)),
            _ => line(case, raw, shown),
        };
        out.extend(said);
    }
}

fn line(case: &Case<'_>, raw: &str, shown: &str) -> Option<Statement> {
    let why = suspicious::grave_reason(raw)?;
    // Allocators are loaded so by many services.
    let loads = raw.to_ascii_lowercase().contains("ld_preload");
    let severity = if loads { Severity::Medium } else { Severity::High };
    let words = format!("{} now {why}: {}", short(&case.change.path), quote(&redact::line(shown)));
    Some(Statement::new(case.fact.rule(), severity, "T1059", words))
}

/// `linux /boot/vmlinuz … words`, `GRUB_CMDLINE_LINUX="words"`. A new kernel brings a line as it was before: only what
/// stood in no line counts.
fn kernel(case: &Case<'_>, raw: &str, shown: &str) -> Option<Statement> {
    let is_command_line = raw.contains("CMDLINE")
        || raw.trim_start().starts_with("linux")
        || raw.trim_start().starts_with("options ");
    let words = |line: &str| -> Vec<String> {
        let parts = line.split([' ', '\t', '"', '\'']);
        parts.filter(|part| KERNEL.iter().any(|bad| is_word(part, bad))).map(str::to_owned).collect()
    };
    let known: Vec<String> = case.before.raw.iter().flat_map(|line| words(line)).collect();
    let fresh: Vec<String> = words(raw).into_iter().filter(|word| !known.contains(word)).collect();
    if !is_command_line || fresh.is_empty() || !case.edited {
        return None;
    }
    let words = format!(
        "The kernel is started with {} from now on: {} ({})",
        quote(&fresh.join(" ")),
        quote(&redact::line(shown)),
        short(&case.change.path)
    );
    Some(Statement::new(case.fact.rule(), Severity::Medium, "T1542", words))
}

/// `init=` stands for any value.
fn is_word(part: &str, bad: &str) -> bool {
    part == bad || bad.ends_with('=') && part.starts_with(bad)
}
