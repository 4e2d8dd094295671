//! What a process of ours costs: CPU time and memory, from `/proc/<pid>`.

use std::fs;

/// CPU time and memory of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Process id.
    pub pid: u32,
    /// User and system time since its start.
    pub cpu_milliseconds: u64,
    /// Resident bytes.
    pub rss_bytes: u64,
    /// Proportional share of what is resident; missing when the kernel does not let us see it (another user's process).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pss_bytes: Option<u64>,
}

/// Ticks a second in `/proc/<pid>/stat`: `USER_HZ`, which is part of the kernel's interface and 100 on every
/// architecture that the agent is built for.
const TICKS_PER_SECOND: u64 = 100;

/// Reads what process `pid` costs; none when it is gone.
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    Some(Usage {
        pid,
        cpu_milliseconds: cpu_ticks(&stat)?.saturating_mul(1_000 / TICKS_PER_SECOND),
        rss_bytes: kibibytes(&status, "VmRSS:").unwrap_or(0),
        pss_bytes: fs::read(format!("/proc/{pid}/smaps_rollup"))
            .ok()
            .and_then(|text| kibibytes(&text, "Pss:")),
    })
}

/// User plus system ticks. The second field is the program's name in parentheses and may hold anything, so
/// fields are counted from behind the last `)`.
fn cpu_ticks(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let text = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = text.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()?.saturating_add(fields.next()?.ok()?))
}

/// The figure of a line `<name>  <figure> kB`, in bytes.
fn kibibytes(table: &[u8], name: &str) -> Option<u64> {
    let text = String::from_utf8_lossy(table);
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib.saturating_mul(1_024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_cannot_shift_the_fields() {
        let stat =
            b"7 (a) S 1 2 3 (x) R 1 1 1 1 1 1 1 1 1 1 100 23 0 0 20 0 1 0 5 4096 77 18446744073709551615";
        assert_eq!(cpu_ticks(stat), Some(123));
        assert_eq!(cpu_ticks(b"7 (a) S 1 2"), None);
    }

    #[test]
    fn sees_itself() {
        let usage = usage(std::process::id()).expect("this process exists");
        assert!(usage.rss_bytes > 0);
        assert!(usage.pss_bytes.is_some_and(|pss| pss > 0 && pss <= usage.rss_bytes * 2));
    }

    #[test]
    fn a_process_that_is_gone_costs_nothing() {
        assert_eq!(usage(u32::MAX), None);
    }
}
