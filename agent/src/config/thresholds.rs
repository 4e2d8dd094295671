//! `[logins.thresholds]`, `[neighbours.thresholds]`: when the detectors tell of something.

use std::time::Duration;

use super::document::Section;
use super::{DAY, HOUR, MINUTE};
use crate::detect::logins::Thresholds;
use crate::detect::neighbour;

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
