//! `[logins.thresholds]`, `[neighbours.thresholds]`, `[network.thresholds]`: when the detectors tell of something.

use std::time::Duration;

use super::document::Section;
use super::{DAY, HOUR, MINUTE};
use crate::detect::logins::Thresholds;
use crate::detect::neighbour;
use crate::detect::network::Thresholds as NetworkThresholds;

/// Reads the table. What bounds memory is no matter of taste and stays as it is.
pub(super) fn thresholds(mut section: Section<'_, '_>) -> Thresholds {
    let default = Thresholds::default();
    let day = |days: u64| Duration::from_secs(days * DAY);
    let minutes = |count: u64| Duration::from_secs(count * MINUTE);
    let thresholds = Thresholds {
        quiet: section.duration("quiet", default.quiet, minutes(1)..=day(1)),
        raise_interval: section.duration(
            "raise_interval",
            default.raise_interval,
            Duration::from_secs(1)..=minutes(60),
        ),
        strangers: section.number("strangers", default.strangers, 1..=1_000_000),
        attempts: section.number("attempts", default.attempts, 2..=100),
        window: section.duration("window", default.window, minutes(1)..=day(1)),
        account_attempts: section.number("account_attempts", default.account_attempts, 2..=100),
        spray: section.number("spray", default.spray, 2..=32),
        spray_window: section.duration("spray_window", default.spray_window, minutes(1)..=day(1)),
        campaign: section.number("campaign", default.campaign, 5..=64),
        enumeration: section.number("enumeration", default.enumeration, 2..=32),
        slow_attempts: section.number("slow_attempts", default.slow_attempts, 5..=1_000),
        slow_days: section.number("slow_days", default.slow_days, 2..=30),
        success_attempts: section.number("success_attempts", default.success_attempts, 2..=100),
        success_names: section.number("success_names", default.success_names, 1..=32),
        success_window: section.duration("success_window", default.success_window, minutes(1)..=day(1)),
        privilege_attempts: section.number("privilege_attempts", default.privilege_attempts, 2..=100),
        learning: section.duration("learning", default.learning, Duration::ZERO..=day(90)),
        dormant: section.duration("dormant", default.dormant, day(1)..=day(3_650)),
        habit_logins: section.number("habit_logins", default.habit_logins, 5..=1_000),
        habit_days: section.number("habit_days", default.habit_days, 2..=365),
        concurrent: section.number("concurrent", default.concurrent, 2..=16),
        fresh_key: section.duration(
            "fresh_key",
            default.fresh_key,
            minutes(1)..=Duration::from_secs(24 * HOUR),
        ),
        web_scan: section.number("web_scan", default.web_scan, 5..=64),
        ..default
    };
    section.finish();
    thresholds
}

/// Reads the table of the sensor of neighbours.
pub(super) fn neighbour_thresholds(mut section: Section<'_, '_>) -> neighbour::Thresholds {
    let default = neighbour::Thresholds::default();
    let minutes = |count: u64| Duration::from_secs(count * MINUTE);
    let second = Duration::from_secs(1);
    let thresholds = neighbour::Thresholds {
        quiet: section.duration("quiet", default.quiet, minutes(1)..=Duration::from_secs(DAY)),
        raise_interval: section.duration("raise_interval", default.raise_interval, second..=minutes(60)),
        findings: section.number("findings", default.findings, 1..=1_000),
        learning: section.duration(
            "learning",
            default.learning,
            Duration::ZERO..=Duration::from_secs(90 * DAY),
        ),
        taken: section.number("taken", default.taken, 2..=64),
        unasked: section.number("unasked", default.unasked, 1..=1_000),
        scan: section.number("scan", default.scan, 8..=1_000),
        slow_scan: section.number("slow_scan", default.slow_scan, 16..=5_000),
        flood_host: section.number("flood_host", default.flood_host, 10..=1_000_000),
        flood: section.number("flood", default.flood, 100..=10_000_000),
        mac_flood: section.number("mac_flood", default.mac_flood, 100..=30_000),
    };
    section.finish();
    thresholds
}

/// Reads the table of the network detectors.
pub(super) fn network_thresholds(mut section: Section<'_, '_>) -> NetworkThresholds {
    let default = NetworkThresholds::default();
    let seconds = Duration::from_secs;
    let thresholds = NetworkThresholds {
        syn: section.number("syn", default.syn, 10..=10_000_000),
        tcp: section.number("tcp", default.tcp, 10..=10_000_000),
        udp: section.number("udp", default.udp, 10..=10_000_000),
        amplification: section.number("amplification", default.amplification, 10..=10_000_000),
        icmp: section.number("icmp", default.icmp, 10..=10_000_000),
        icmp_answered: section.number("icmp_answered", default.icmp_answered, 100..=10_000_000),
        fragment: section.number("fragment", default.fragment, 10..=10_000_000),
        malformed: section.number("malformed", default.malformed, 10..=10_000_000),
        connections: section.number("connections", default.connections, 10..=1_000_000),
        overflows: section.number("overflows", default.overflows, 1..=100_000),
        slow: section.number("slow", default.slow, 10..=1_000_000),
        quiet: section.duration("quiet", default.quiet, seconds(1)..=seconds(60)),
        raise_interval: section.duration(
            "raise_interval",
            default.raise_interval,
            seconds(5)..=seconds(HOUR),
        ),
        scan_ports: section.number("scan_ports", default.scan_ports, 5..=90),
        scan_hosts: section.number("scan_hosts", default.scan_hosts, 5..=90),
        scan_window: section.duration("scan_window", default.scan_window, seconds(10)..=seconds(HOUR)),
        slow_scan: section.number("slow_scan", default.slow_scan, 5..=90),
        slow_scan_window: section.duration(
            "slow_scan_window",
            default.slow_scan_window,
            seconds(HOUR)..=seconds(DAY),
        ),
        stealth: section.number("stealth", default.stealth, 1..=90),
    };
    section.finish();
    thresholds
}
