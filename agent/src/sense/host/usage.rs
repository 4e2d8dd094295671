//! What a process of ours costs: CPU time and memory, from `/proc/<pid>`.

use std::collections::BTreeMap;
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

/// Processor time of the threads of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ThreadUsage {
    /// As the kernel shows it: at most 15 bytes.
    pub name: String,
    /// How many run now.
    pub threads: u64,
    /// Since they were started, in microseconds.
    pub cpu_micros: u64,
}

/// Threads that are looked at; an agent has some twenty, and one for each local client.
const THREADS_MAX: usize = 256;
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

/// What the threads of process `pid` cost that run now, by name; those that have ended are only in [`usage`].
pub fn threads(pid: u32) -> Vec<ThreadUsage> {
    let mut by_name: BTreeMap<String, ThreadUsage> = BTreeMap::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks.take(THREADS_MAX) {
        let path = task.path();
        // A thread may end at any time.
        let Ok(stat) = fs::read(path.join("stat")) else { continue };
        let exact = fs::read_to_string(path.join("schedstat")).ok().and_then(|text| scheduled(&text));
        let ticks = || cpu_ticks(&stat).map(|ticks| ticks.saturating_mul(1_000_000 / TICKS_PER_SECOND));
        let Some(micros) = exact.or_else(ticks) else { continue };
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default().trim_end().to_owned();
        let usage =
            by_name.entry(name.clone()).or_insert_with(|| ThreadUsage { name, ..ThreadUsage::default() });
        usage.threads += 1;
        usage.cpu_micros = usage.cpu_micros.saturating_add(micros);
    }
    by_name.into_values().collect()
}

/// The first figure of `schedstat`: nanoseconds on a processor; none where the kernel does not keep them.
fn scheduled(text: &str) -> Option<u64> {
    let nanos: u64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    (nanos > 0).then_some(nanos / 1_000)
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
    fn sees_its_threads_by_name() {
        let spin = || {
            let begin = std::time::Instant::now();
            while begin.elapsed() < std::time::Duration::from_millis(30) {
                std::hint::spin_loop();
            }
            threads(std::process::id())
        };
        let seen = std::thread::Builder::new().name("spinning".to_owned()).spawn(spin);
        let seen = seen.expect("a thread").join().expect("it ends");
        let own = seen.iter().find(|usage| usage.name == "spinning").expect("itself");
        assert!(own.threads == 1 && own.cpu_micros > 0 && own.cpu_micros < 10_000_000, "{own:?}");
        assert_eq!((scheduled("55472 1 3"), scheduled("0 0 0"), scheduled("x")), (Some(55), None, None));
        assert!(threads(u32::MAX).is_empty());
    }

    #[test]
    fn a_process_that_is_gone_costs_nothing() {
        assert_eq!(usage(u32::MAX), None);
    }
}
