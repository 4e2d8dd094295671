//! When is enough. Every number with its unit and the reason for its default; `[logins.thresholds]` of the
//! configuration sets them.

use std::time::Duration;

use crate::sense::watch::half;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// When is enough. Each with the reason for its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Folds in memory: 2,048 of about 900 bytes.
    pub folds_max: usize,
    /// Addresses in memory: 2,048 of about 400 bytes.
    pub sources_max: usize,
    /// Accounts in memory: 1,024 of about 400 bytes.
    pub accounts_max: usize,
    /// Alarms that are open at once: 256 of at most 8 KiB.
    pub alarms_max: usize,
    /// A finding ends when nothing came for so long. 10 min: a person who comes back later is news again.
    pub quiet: Duration,
    /// A finding that grew is raised again at the latest after this. 60 s, one heartbeat.
    pub raise_interval: Duration,
    /// Findings of their own that a burst of strangers (users, addresses) may begin; one more each second after
    /// that, the others are counted in one finding for all. 256: a person still reads as many, and no host
    /// has so many honest strangers in a minute.
    pub strangers: u32,
    /// Failures of one address that are brute force. 5: people mistype twice or three times; OpenSSH's clients
    /// give up after three.
    pub attempts: u32,
    /// Within this window. 10 min, as in fail2ban.
    pub window: Duration,
    /// Failures of one account, from several addresses, that are brute force. 10: twice what one address may.
    pub account_attempts: u32,
    /// Accounts that one address tries, or addresses that try one account, within [`Thresholds::spray_window`]. 8: a
    /// gateway with that many people who all mistype in an hour is rare.
    pub spray: u32,
    /// 1 h: a spray goes round slower than brute force, so that no account is locked.
    pub spray_window: Duration,
    /// Accounts tried by as many addresses or more, with few tries each, within the same window. 30: more than
    /// mistype in any hour of an office.
    pub campaign: u32,
    /// Names without an account that one address tries within [`Thresholds::window`]. 6: people mistype one
    /// name, in one way or two.
    pub enumeration: u32,
    /// Failures of one address, or of one account from strangers, over [`Thresholds::slow_days`]. 20: more than
    /// one a day for a working month; a person who got in since is not counted.
    pub slow_attempts: u32,
    /// How many days are remembered. 14 d; at most 30.
    pub slow_days: u32,
    /// Failures before a success that make it an alarm. 5: people mistype up to three times, and once more.
    pub success_attempts: u32,
    /// Names without an account before a success from the same address. 3: people mistype one name.
    pub success_names: u32,
    /// How long failures are remembered for that. 1 h.
    pub success_window: Duration,
    /// Refused changes of privilege of one user that are brute force. 5: sudo asks three times, and once more.
    pub privilege_attempts: u32,
    /// For so long after its first start, and for so long after a user's first login, what is new is told at info
    /// only. 7 d: a week has every habit once.
    pub learning: Duration,
    /// Without a login for so long an account sleeps. 90 d: longer than any leave.
    pub dormant: Duration,
    /// Logins of a user before an hour can be unusual. 20: a working month.
    pub habit_logins: u32,
    /// On as many different days. 10: two working weeks.
    pub habit_days: u32,
    /// Networks far apart from which one user is logged in at once. 2.
    pub concurrent: u32,
    /// A login by a key that was added within this time is told. 1 h.
    pub fresh_key: Duration,
    /// Requests of one address that were answered 404 and the like, for different paths, within
    /// [`Thresholds::window`]. 40: a broken page asks for some ten.
    pub web_scan: u32,
}

/// Fewest attempts that are told while a host is watched closely: who mistypes does so once or twice.
const WATCHED_LEAST: u32 = 3;

impl Thresholds {
    /// Half of what is counted in attempts, accounts and names: while the host is watched closely.
    #[must_use]
    pub fn watched(self) -> Self {
        let half = |threshold| half(threshold, WATCHED_LEAST);
        Self {
            attempts: half(self.attempts),
            account_attempts: half(self.account_attempts),
            spray: half(self.spray),
            campaign: half(self.campaign),
            enumeration: half(self.enumeration),
            slow_attempts: half(self.slow_attempts),
            success_attempts: half(self.success_attempts),
            privilege_attempts: half(self.privilege_attempts),
            web_scan: half(self.web_scan),
            ..self
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            folds_max: 2_048,
            sources_max: 2_048,
            accounts_max: 1_024,
            alarms_max: 256,
            quiet: Duration::from_secs(10 * MINUTE),
            raise_interval: Duration::from_secs(MINUTE),
            strangers: 256,
            attempts: 5,
            window: Duration::from_secs(10 * MINUTE),
            account_attempts: 10,
            spray: 8,
            spray_window: Duration::from_secs(HOUR),
            campaign: 30,
            enumeration: 6,
            slow_attempts: 20,
            slow_days: 14,
            success_attempts: 5,
            success_names: 3,
            success_window: Duration::from_secs(HOUR),
            privilege_attempts: 5,
            learning: Duration::from_secs(7 * DAY),
            dormant: Duration::from_secs(90 * DAY),
            habit_logins: 20,
            habit_days: 10,
            concurrent: 2,
            fresh_key: Duration::from_secs(HOUR),
            web_scan: 40,
        }
    }
}

/// A bucket of permissions that fills as time passes: bounds what strangers can make the agent begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    taken: u32,
    since: i64,
}

impl Bucket {
    /// Takes one of `size`, if one is left at `second`.
    pub fn take(&mut self, size: u32, second: i64) -> bool {
        let one = self.left(size, second, 1) > 0;
        self.spend(u32::from(one));
        one
    }

    /// How many of `size` are left at `second`, when each second brings `rate` back.
    pub fn left(&mut self, size: u32, second: i64, rate: u32) -> u32 {
        let passed = u32::try_from(second.saturating_sub(self.since).max(0)).unwrap_or(u32::MAX);
        self.taken = self.taken.saturating_sub(passed.saturating_mul(rate));
        self.since = second;
        size.saturating_sub(self.taken)
    }

    /// Takes as many.
    pub fn spend(&mut self, taken: u32) {
        self.taken = self.taken.saturating_add(taken);
    }
}
