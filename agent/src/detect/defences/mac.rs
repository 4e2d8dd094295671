//! Mandatory access control: SELinux, AppArmor, kernel lockdown.

use picket_protocol::finding::Severity;

use super::{Area, Judgement, Told, word};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mac {
    /// How strict it is: 0 off, 1 only complains, 2 enforces; for lockdown 0 none, 1 integrity, 2 confidentiality.
    pub level: u8,
    /// Profiles that are enforced; none where there are no profiles.
    #[serde(default)]
    pub enforced: u32,
}

impl Area for Mac {
    type Item = Self;
    const NAME: &'static str = "mac";

    fn judge(key: &str, before: Option<&Self>, after: Option<&Self>) -> Judgement {
        let Some(before) = before else { return Judgement::Silent };
        let off = Self { level: 0, enforced: 0 };
        let after = after.unwrap_or(&off);
        let told = |severity, title: String| {
            Told::new("defence.mac", severity, title).attack(&["T1562.001"]).settle(10)
        };
        let key = word(key);
        if after.level < before.level {
            let how = match after.level {
                0 => "was switched off",
                _ => "only complains now and enforces nothing",
            };
            return Judgement::Worse(told(Severity::High, format!("{key} {how}")).settle(2));
        }
        if after.enforced < before.enforced {
            let title = format!("{key} enforces {} profiles instead of {}", after.enforced, before.enforced);
            let severity = if after.enforced == 0 { Severity::High } else { Severity::Medium };
            return Judgement::Worse(told(severity, title));
        }
        Judgement::Better(told(Severity::Info, format!("{key} enforces again")))
    }
}
