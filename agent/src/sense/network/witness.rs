//! The kernel's own counters: the second witness of what was counted, and what a flood does to the services.
//!
//! They are read on every rung, from small files in `/proc`. A counter that a kernel does not have is 0 and stays it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::detect::network::KernelDelta;

/// Bytes of one file: `netstat` has some 5 KiB, `softnet_stat` 150 for each processor.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Sums since boot, by table and name: `Tcp` and `InSegs`.
type Sums = HashMap<(&'static str, &'static str), u64>;

/// What is taken of `snmp` and `netstat`, which have a line of names and a line of numbers for each table.
const OF_TABLES: [(&str, &str); 22] = [
    ("Ip", "InReceives"),
    ("Ip", "ReasmOKs"),
    ("Ip", "ReasmFails"),
    ("Icmp", "InMsgs"),
    ("Tcp", "ActiveOpens"),
    ("Tcp", "PassiveOpens"),
    ("Tcp", "AttemptFails"),
    ("Tcp", "InSegs"),
    ("Tcp", "OutSegs"),
    ("Tcp", "RetransSegs"),
    ("Tcp", "OutRsts"),
    ("Tcp", "CurrEstab"),
    ("Udp", "InDatagrams"),
    ("Udp", "NoPorts"),
    ("Udp", "RcvbufErrors"),
    ("TcpExt", "ListenDrops"),
    ("TcpExt", "ListenOverflows"),
    ("TcpExt", "SyncookiesSent"),
    ("TcpExt", "SyncookiesRecv"),
    ("TcpExt", "SyncookiesFailed"),
    ("TcpExt", "TCPReqQFullDrop"),
    ("TcpExt", "TCPReqQFullDoCookies"),
];
/// What is taken of `snmp6`, which has a line for each.
const OF_SNMP6: [&str; 7] = [
    "Ip6InReceives",
    "Ip6ReasmOKs",
    "Ip6ReasmFails",
    "Icmp6InMsgs",
    "Udp6InDatagrams",
    "Udp6NoPorts",
    "Udp6RcvbufErrors",
];

/// See the module.
#[derive(Debug)]
pub struct Witness {
    proc: PathBuf,
    last: Option<(Duration, Sums)>,
}

impl Witness {
    /// Reads below `proc`, which is `/proc` but in tests.
    pub fn new(proc: &Path) -> Self {
        Self { proc: proc.to_owned(), last: None }
    }

    /// How much the counters grew since the last reading; none the first time. `now` is of a clock that only goes on.
    pub fn read(&mut self, now: Duration) -> Option<KernelDelta> {
        let sums = read(&self.proc);
        let before = self.last.replace((now, sums));
        let (since, before) = before?;
        let (_, sums) = self.last.as_ref()?;
        let grown = |table, name| -> u64 {
            let value = |sums: &Sums| sums.get(&(table, name)).copied().unwrap_or(0);
            value(sums).saturating_sub(value(&before))
        };
        let now_is = |table, name| sums.get(&(table, name)).copied().unwrap_or(0);
        let both = |table, name, six| grown(table, name) + grown("6", six);
        Some(KernelDelta {
            interval: now.saturating_sub(since),
            ip_received: both("Ip", "InReceives", "Ip6InReceives"),
            tcp_received: grown("Tcp", "InSegs"),
            tcp_sent: grown("Tcp", "OutSegs"),
            tcp_retransmitted: grown("Tcp", "RetransSegs"),
            tcp_resets_sent: grown("Tcp", "OutRsts"),
            passive_opens: grown("Tcp", "PassiveOpens"),
            active_opens: grown("Tcp", "ActiveOpens"),
            attempt_fails: grown("Tcp", "AttemptFails"),
            listen_drops: grown("TcpExt", "ListenDrops"),
            listen_overflows: grown("TcpExt", "ListenOverflows"),
            syncookies_sent: grown("TcpExt", "SyncookiesSent"),
            syncookies_received: grown("TcpExt", "SyncookiesRecv"),
            syncookies_failed: grown("TcpExt", "SyncookiesFailed"),
            request_queue_drops: grown("TcpExt", "TCPReqQFullDrop"),
            request_queue_cookies: grown("TcpExt", "TCPReqQFullDoCookies"),
            udp_delivered: both("Udp", "InDatagrams", "Udp6InDatagrams"),
            udp_no_port: both("Udp", "NoPorts", "Udp6NoPorts"),
            udp_buffer_errors: both("Udp", "RcvbufErrors", "Udp6RcvbufErrors"),
            icmp_received: both("Icmp", "InMsgs", "Icmp6InMsgs"),
            reassembled: both("Ip", "ReasmOKs", "Ip6ReasmOKs"),
            reassembly_fails: both("Ip", "ReasmFails", "Ip6ReasmFails"),
            softnet_dropped: grown("softnet", "dropped"),
            softnet_squeezed: grown("softnet", "squeezed"),
            interface_dropped: grown("dev", "dropped"),
            conntrack_count: now_is("conntrack", "count"),
            conntrack_max: now_is("conntrack", "max"),
            conntrack_dropped: grown("conntrack", "dropped"),
        })
    }

    /// TCP connections that are established now, by the last reading.
    pub fn established(&self) -> u64 {
        self.last.as_ref().and_then(|(_, sums)| sums.get(&("Tcp", "CurrEstab")).copied()).unwrap_or(0)
    }
}

fn read(proc: &Path) -> Sums {
    let mut sums = Sums::new();
    let of = |name: &str| text(&proc.join("self/net").join(name));
    for file in ["snmp", "netstat"] {
        take_tables(&of(file), &mut sums);
    }
    for line in of("snmp6").lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(value)) = (words.next(), words.next().and_then(|value| value.parse().ok()))
            && let Some(known) = OF_SNMP6.into_iter().find(|known| *known == name)
        {
            sums.insert(("6", known), value);
        }
    }
    // For each processor: packets, dropped, out of time, …; hexadecimal.
    let softnet = of("softnet_stat");
    let column = |at: usize| -> u64 {
        let words = softnet.lines().filter_map(|line| line.split_whitespace().nth(at));
        words.filter_map(|word| u64::from_str_radix(word, 16).ok()).fold(0, u64::wrapping_add)
    };
    sums.insert(("softnet", "dropped"), column(1));
    sums.insert(("softnet", "squeezed"), column(2));
    sums.insert(("dev", "dropped"), received_dropped(&of("dev")));
    let conntrack = |name: &str| -> u64 {
        let path = proc.join("sys/net/netfilter").join(name);
        text(&path).trim().parse().unwrap_or(0)
    };
    let most = conntrack("nf_conntrack_max");
    if most > 0 {
        sums.insert(("conntrack", "max"), most);
        sums.insert(("conntrack", "count"), conntrack("nf_conntrack_count"));
        sums.insert(("conntrack", "dropped"), conntrack_dropped(&of("stat/nf_conntrack")));
    }
    sums
}

/// Pairs of lines: `Tcp: name name …` and `Tcp: number number …`.
fn take_tables(text: &str, sums: &mut Sums) {
    let mut lines = text.lines();
    while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
        let (Some((table, names)), Some((again, numbers))) = (names.split_once(':'), numbers.split_once(':'))
        else {
            return;
        };
        if table != again {
            return;
        }
        for (name, number) in names.split_whitespace().zip(numbers.split_whitespace()) {
            let known = OF_TABLES.into_iter().find(|known| *known == (table, name));
            if let (Some(known), Ok(number)) = (known, number.parse()) {
                sums.insert(known, number);
            }
        }
    }
}

/// `name: bytes packets errors dropped …`, received first.
fn received_dropped(text: &str) -> u64 {
    let rows = text.lines().filter_map(|line| line.split_once(':'));
    let dropped = rows.filter_map(|(_, row)| row.split_whitespace().nth(3)?.parse::<u64>().ok());
    dropped.fold(0, u64::wrapping_add)
}

/// A line of names, and a line for each processor, hexadecimal.
fn conntrack_dropped(text: &str) -> u64 {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let mut dropped = 0u64;
    for line in lines {
        for (name, word) in names.iter().zip(line.split_whitespace()) {
            if matches!(*name, "drop" | "early_drop") {
                dropped = dropped.wrapping_add(u64::from_str_radix(word, 16).unwrap_or(0));
            }
        }
    }
    dropped
}

fn text(path: &Path) -> String {
    use std::io::Read as _;
    let mut text = String::new();
    let read = fs::File::open(path).map(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    if matches!(read, Ok(Ok(_))) { text } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_between_two_readings_is_told() {
        let root = tempfile::tempdir().unwrap();
        let net = root.path().join("self/net");
        fs::create_dir_all(net.join("stat")).unwrap();
        fs::create_dir_all(root.path().join("sys/net/netfilter")).unwrap();
        let write = |factor: u64| {
            let snmp = format!(
                "Ip: Forwarding InReceives ReasmFails\nIp: 1 {} {}\nTcp: InSegs CurrEstab\nTcp: {} 7\n",
                10 * factor,
                factor,
                20 * factor
            );
            fs::write(net.join("snmp"), snmp).unwrap();
            let netstat =
                format!("TcpExt: SyncookiesSent ListenDrops\nTcpExt: {} {}\n", 30 * factor, 40 * factor);
            fs::write(net.join("netstat"), netstat).unwrap();
            fs::write(net.join("snmp6"), format!("Ip6InReceives   \t{}\n", 5 * factor)).unwrap();
            let softnet = format!("00000001 {:08x} 00000002\n0000000a {0:08x} 00000000\n", 8 * factor);
            fs::write(net.join("softnet_stat"), softnet).unwrap();
            let dev =
                format!("Inter-| Receive\n face |bytes\n eth0: 1 2 3 {} 0 0\n  lo:1 2 3 {0}\n", 3 * factor);
            fs::write(net.join("dev"), dev).unwrap();
            let conntrack = format!("entries drop early_drop\n01 {:02x} 01\n", 16 * factor);
            fs::write(net.join("stat/nf_conntrack"), conntrack).unwrap();
            fs::write(root.path().join("sys/net/netfilter/nf_conntrack_max"), "100\n").unwrap();
            fs::write(root.path().join("sys/net/netfilter/nf_conntrack_count"), "90\n").unwrap();
        };
        let mut witness = Witness::new(root.path());
        write(1);
        assert_eq!(witness.read(Duration::from_secs(5)), None);
        write(3);
        let expected = KernelDelta {
            interval: Duration::from_secs(2),
            ip_received: 30,
            reassembly_fails: 2,
            tcp_received: 40,
            syncookies_sent: 60,
            listen_drops: 80,
            softnet_dropped: 32,
            interface_dropped: 12,
            conntrack_count: 90,
            conntrack_max: 100,
            conntrack_dropped: 32,
            ..KernelDelta::default()
        };
        assert_eq!(witness.read(Duration::from_secs(7)), Some(expected));
        assert_eq!(witness.established(), 7);
    }

    #[test]
    fn a_kernel_without_these_files_counts_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut witness = Witness::new(root.path());
        assert_eq!(witness.read(Duration::ZERO), None);
        let delta = witness.read(Duration::from_secs(1)).unwrap();
        assert_eq!(delta, KernelDelta { interval: Duration::from_secs(1), ..KernelDelta::default() });
    }

    #[test]
    fn this_kernel_has_them() {
        let sums = read(Path::new("/proc"));
        for known in [("Ip", "InReceives"), ("Tcp", "InSegs"), ("TcpExt", "ListenDrops")] {
            assert!(sums.contains_key(&known), "{known:?}");
        }
    }
}
