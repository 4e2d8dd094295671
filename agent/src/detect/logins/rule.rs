//! The rules, by their stable names, and what an alarm can be about.

use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::Text;

use super::Thresholds;
use super::kept::Key;
use super::print::Secret;

/// What is alarmed about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Rule {
    #[serde(rename = "login.brute-force")]
    BruteForce,
    #[serde(rename = "login.spray")]
    Spray,
    #[serde(rename = "login.slow-brute-force")]
    SlowBruteForce,
    #[serde(rename = "login.success-after-failures")]
    SuccessAfterFailures,
    #[serde(rename = "login.enumeration")]
    Enumeration,
    #[serde(rename = "login.first-seen")]
    FirstSeen,
    #[serde(rename = "login.unusual-hour")]
    UnusualHour,
    #[serde(rename = "login.dormant")]
    Dormant,
    #[serde(rename = "login.service-account")]
    ServiceAccount,
    #[serde(rename = "login.direct-root")]
    DirectRoot,
    #[serde(rename = "login.concurrent")]
    Concurrent,
    #[serde(rename = "login.fresh-key")]
    FreshKey,
    #[serde(rename = "login.lateral")]
    Lateral,
    #[serde(rename = "privilege.brute-force")]
    PrivilegeBruteForce,
    #[serde(rename = "privilege.success-after-failures")]
    PrivilegeSuccessAfterFailures,
    #[serde(rename = "web.injection")]
    WebInjection,
    #[serde(rename = "web.traversal")]
    WebTraversal,
    #[serde(rename = "web.scan")]
    WebScan,
}

impl Rule {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BruteForce => "login.brute-force",
            Self::Spray => "login.spray",
            Self::SlowBruteForce => "login.slow-brute-force",
            Self::SuccessAfterFailures => "login.success-after-failures",
            Self::Enumeration => "login.enumeration",
            Self::FirstSeen => "login.first-seen",
            Self::UnusualHour => "login.unusual-hour",
            Self::Dormant => "login.dormant",
            Self::ServiceAccount => "login.service-account",
            Self::DirectRoot => "login.direct-root",
            Self::Concurrent => "login.concurrent",
            Self::FreshKey => "login.fresh-key",
            Self::Lateral => "login.lateral",
            Self::PrivilegeBruteForce => "privilege.brute-force",
            Self::PrivilegeSuccessAfterFailures => "privilege.success-after-failures",
            Self::WebInjection => "web.injection",
            Self::WebTraversal => "web.traversal",
            Self::WebScan => "web.scan",
        }
    }

    /// MITRE ATT&CK techniques.
    pub fn attack(self) -> &'static [&'static str] {
        match self {
            Self::BruteForce | Self::SlowBruteForce => &["T1110.001"],
            Self::Spray => &["T1110.003"],
            Self::SuccessAfterFailures => &["T1110", "T1078"],
            Self::Enumeration => &["T1087", "T1110"],
            Self::FirstSeen | Self::UnusualHour | Self::Dormant | Self::Concurrent => &["T1078"],
            Self::ServiceAccount | Self::DirectRoot => &["T1078.003"],
            Self::FreshKey => &["T1098.004"],
            Self::Lateral => &["T1021.004"],
            Self::PrivilegeBruteForce | Self::PrivilegeSuccessAfterFailures => &["T1110.001", "T1548.003"],
            Self::WebInjection | Self::WebTraversal => &["T1190"],
            Self::WebScan => &["T1595.002"],
        }
    }

    /// An alarm that grew is raised again at the latest after so long: guessing goes on, and who got in once and does so
    /// again is no news.
    pub fn interval(self, thresholds: &Thresholds) -> Duration {
        match self {
            Self::BruteForce
            | Self::Spray
            | Self::SlowBruteForce
            | Self::Enumeration
            | Self::PrivilegeBruteForce => thresholds.raise_interval,
            _ => thresholds.raise_interval.max(Duration::from_secs(3_600)),
        }
    }

    /// An alarm ends when nothing came for so long: no shorter than the window that it watches.
    pub fn quiet(self, thresholds: &Thresholds) -> Duration {
        let window = match self {
            Self::Spray => thresholds.spray_window,
            // A day without a try, and slow guessing is over or has become something else.
            Self::SlowBruteForce => Duration::from_secs(2 * 86_400),
            _ => thresholds.window,
        };
        thresholds.quiet.max(window)
    }
}

/// What an alarm is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A source.
    Address(IpAddr),
    /// An account.
    User(Text),
    /// An account, and where from.
    Pair(Text, IpAddr),
    /// All who speak to a service.
    Service(String),
}

impl Rule {
    /// Of this rule about the subject with this fingerprint.
    pub fn print(self, secret: &Secret, subject: u64) -> u64 {
        secret.both(self as u64, subject)
    }
}

impl Subject {
    /// Of the source with this fingerprint.
    pub fn address_print(secret: &Secret, address: u64) -> u64 {
        secret.both(1, address)
    }

    /// Of the account with this fingerprint.
    pub fn user_print(secret: &Secret, user: u64) -> u64 {
        secret.both(2, user)
    }

    /// Of the service with this fingerprint.
    pub fn service_print(secret: &Secret, service: u64) -> u64 {
        secret.both(3, service)
    }

    fn print(&self, secret: &Secret) -> u64 {
        match self {
            Self::Address(address) => Self::address_print(secret, secret.address(*address)),
            Self::User(user) => Self::user_print(secret, secret.text(user)),
            Self::Service(service) => Self::service_print(secret, secret.bytes(service.as_bytes())),
            Self::Pair(user, address) => {
                secret.both(4, secret.both(secret.text(user), secret.address(*address)))
            }
        }
    }
}

impl Key for AlarmKey {
    fn print(&self, secret: &Secret) -> u64 {
        self.rule.print(secret, self.subject.print(secret))
    }
}

/// One alarm at a time for each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct AlarmKey {
    pub rule: Rule,
    pub subject: Subject,
}

impl AlarmKey {
    /// A key.
    pub fn new(rule: Rule, subject: Subject) -> Self {
        Self { rule, subject }
    }
}
