//! `[automatic]` of `policy.toml`: what the agent does by itself when it finds something, by the word of the host's owner. Off unless it is
//! switched on; `simulate` records what would have been done.

use std::time::Duration;

use picket_protocol::finding::Severity;

use crate::config::{format_duration, parse_duration};

/// Rules in one policy.
pub const RULES_MAX: usize = 64;
/// Shortest and longest lease of an automatic action.
const LEASE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30 * 86_400));
/// Most actions an hour that a rule may be allowed.
const PER_HOUR_MAX: u32 = 10_000;

/// Whether rules act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They do not.
    #[default]
    Off,
    /// It is recorded what they would do.
    Simulate,
    /// They do.
    On,
}

/// `[automatic]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Automatic {
    /// Whether rules act.
    #[serde(default)]
    pub mode: Mode,
    /// Rules that come with the agent and are wanted.
    #[serde(default)]
    pub built_in: Vec<BuiltIn>,
    /// Rules of the owner's own.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// Rules that come with the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuiltIn {
    /// Block addresses from which passwords are guessed: 1 hour, at each return twice as long, up to a day.
    BlockBruteForce,
    /// Keep the gateway at its hardware address while somebody else claims to be it: 1 hour.
    PinGateway,
    /// Take 100 a second from each address while it floods: 15 minutes.
    RateLimitFlood,
    /// Freeze an account that was logged in to after its password had been guessed at: 1 hour. Never root.
    FreezeBrokenAccount,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reaction {
    /// Block the addresses that the finding names as sources.
    BlockSource,
    /// Keep the neighbour that the finding is about where it was.
    PinNeighbour,
    /// Limit what the finding says is too much, for each address.
    RateLimit,
    /// Freeze the accounts that the finding names.
    FreezeAccount,
    /// Isolate the host.
    Isolate,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// How people call it.
    pub name: String,
    /// Rules of findings that trigger it; a `*` at the end stands for any rest.
    pub findings: Vec<String>,
    /// At least this severe.
    #[serde(default = "high")]
    pub severity: Severity,
    /// What to do.
    pub action: Reaction,
    /// For how long, the first time.
    pub lease: Length,
    /// At each return of the same target the lease is twice as long, up to this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_max: Option<Length>,
    /// Only between these hours of the host's local time, like `22:00-06:00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// How often an hour at most.
    #[serde(default = "thirty")]
    pub per_hour: u32,
    /// For `rate-limit`: how many a second of each address.
    #[serde(default = "hundred")]
    pub per_second: u32,
}

fn high() -> Severity {
    Severity::High
}

fn thirty() -> u32 {
    30
}

fn hundred() -> u32 {
    100
}

/// A length of time, written like `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length(pub Duration);

impl serde::Serialize for Length {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(self.0))
    }
}

impl<'de> serde::Deserialize<'de> for Length {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let fits = |length: &Duration| (LEASE.0..=LEASE.1).contains(length);
        let length = parse_duration(&text).filter(fits);
        length
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not a time from \"10s\" to \"30d\", such as \"1h\""))
    }
}

/// Hours of the day, in minutes from midnight; the end is not in it. Over midnight when it begins later than it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// The first minute.
    pub from: u16,
    /// The first one that is not in it.
    pub to: u16,
}

impl Hours {
    /// Whether a minute of the day is in it.
    pub fn contains(self, minute: u16) -> bool {
        if self.from <= self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let minute = |text: &str| {
            let (hours, minutes) = text.trim().split_once(':')?;
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            let fits = (hours < 24 && minutes < 60) || (hours == 24 && minutes == 0);
            fits.then_some(hours * 60 + minutes)
        };
        let (from, to) = text.split_once('-')?;
        let (from, to) = (minute(from)?, minute(to)?);
        (from != to).then_some(Self { from, to })
    }
}

impl serde::Serialize for Hours {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { from, to } = self;
        serializer.collect_str(&format_args!(
            "{:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            to / 60,
            to % 60
        ))
    }
}

impl<'de> serde::Deserialize<'de> for Hours {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not hours like \"22:00-06:00\""))
    }
}

impl Automatic {
    /// All rules that are wanted.
    pub fn wanted(&self) -> Vec<Rule> {
        self.built_in.iter().map(|built_in| built_in.rule()).chain(self.rules.iter().cloned()).collect()
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.rules.len() > RULES_MAX {
            return Err(format!("more than {RULES_MAX} entries of [[automatic.rules]]"));
        }
        for rule in &self.rules {
            let wrong = |what: &str| Err(format!("[[automatic.rules]] {:?}: {what}", rule.name));
            if rule.name.is_empty() || rule.findings.is_empty() {
                return wrong("it has no name, or names no findings");
            }
            if !(1..=PER_HOUR_MAX).contains(&rule.per_hour) {
                return wrong("per_hour is not 1 to 10,000");
            }
            if !(1..=picket_protocol::action::RATE_MAX).contains(&rule.per_second) {
                return wrong("per_second is not 1 to 1,000,000");
            }
            if rule.lease_max.is_some_and(|longest| longest.0 < rule.lease.0) {
                return wrong("lease_max is shorter than lease");
            }
        }
        Ok(())
    }
}

impl BuiltIn {
    /// What it says.
    pub fn rule(self) -> Rule {
        let rule = |name: &str, findings: &[&str], action, lease: u64, longest: Option<u64>| Rule {
            name: name.to_owned(),
            findings: findings.iter().map(|&finding| finding.to_owned()).collect(),
            severity: Severity::Medium,
            action,
            lease: Length(Duration::from_secs(lease)),
            lease_max: longest.map(|longest| Length(Duration::from_secs(longest))),
            hours: None,
            per_hour: thirty(),
            per_second: hundred(),
        };
        match self {
            Self::BlockBruteForce => {
                let findings = ["login.brute-force", "login.slow-brute-force"];
                rule("block-brute-force", &findings, Reaction::BlockSource, 3_600, Some(86_400))
            }
            Self::PinGateway => {
                rule("pin-gateway", &["neighbour.gateway-changed"], Reaction::PinNeighbour, 3_600, None)
            }
            Self::RateLimitFlood => {
                let findings = ["net.flood.syn", "net.flood.udp", "net.flood.icmp"];
                rule("rate-limit-flood", &findings, Reaction::RateLimit, 900, Some(3_600))
            }
            Self::FreezeBrokenAccount => {
                let findings = ["login.success-after-failures"];
                rule("freeze-broken-account", &findings, Reaction::FreezeAccount, 3_600, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_may_go_over_midnight() {
        let night = Hours::parse("22:00-06:00").expect("hours");
        assert!(night.contains(23 * 60) && night.contains(0) && night.contains(359) && !night.contains(360));
        let day = Hours::parse("08:00-17:30").expect("hours");
        assert!(day.contains(480) && day.contains(1_049) && !day.contains(1_050));
        for text in ["", "8-17", "08:00", "25:00-26:00", "08:60-09:00", "08:00-08:00", "-"] {
            assert_eq!(Hours::parse(text), None, "{text}");
        }
        let json = serde_json::to_string(&night).expect("written");
        assert_eq!(json, "\"22:00-06:00\"");
    }
}
