//! Services whose end blinds or disarms the host: logging, audit, cron, security.

use picket_protocol::finding::Severity;

use super::{Area, Judgement, Told, word};

/// What a service is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Writes logs.
    Logging,
    /// Runs jobs by the clock.
    Cron,
    /// Protects.
    Security,
}

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Service {
    /// What it is for.
    pub role: Role,
    /// Whether processes of it run.
    pub running: bool,
    /// Whether it is started at boot.
    pub enabled: bool,
    /// Whether it can be started at all.
    pub masked: bool,
    /// Whether its unit file is there.
    pub installed: bool,
}

/// The area.
#[derive(Debug)]
pub struct Services;

impl Area for Services {
    type Item = Service;
    const NAME: &'static str = "services";

    fn judge(key: &str, before: Option<&Service>, after: Option<&Service>) -> Judgement {
        let Some(before) = before else { return Judgement::Silent };
        let gone =
            Service { running: false, enabled: false, masked: false, installed: false, ..before.clone() };
        let after = after.unwrap_or(&gone);
        let mut what = Vec::new();
        let stopped = before.running && !after.running;
        if stopped {
            what.push("has stopped");
        }
        if before.installed && !after.installed {
            what.push("is no longer installed");
        } else if after.masked && !before.masked {
            what.push("was masked, so that it cannot be started");
        } else if before.enabled && !after.enabled && !after.masked {
            what.push("is no longer started at boot");
        }
        if what.is_empty() {
            let back = (after.running && !before.running) || (after.enabled && !before.enabled);
            let title = format!("{} {} again", word(key), if after.running { "runs" } else { "is in place" });
            return if back {
                Judgement::Better(told(before, Severity::Info, title))
            } else {
                Judgement::Silent
            };
        }
        let severity = match (before.role, stopped) {
            (Role::Logging | Role::Security, true) => Severity::High,
            _ => Severity::Medium,
        };
        let title = format!("{} ({}) {}", word(key), purpose(before.role), what.join(" and "));
        // A restart, an upgrade: stop and start lie some seconds apart.
        Judgement::Worse(told(before, severity, title).settle(30))
    }
}

fn told(service: &Service, severity: Severity, title: String) -> Told {
    let rule = match service.role {
        Role::Logging => "defence.logging",
        Role::Cron | Role::Security => "defence.service",
    };
    Told::new(rule, severity, title).attack(if service.role == Role::Logging {
        &["T1562.012", "T1489"]
    } else {
        &["T1562.001", "T1489"]
    })
}

fn purpose(role: Role) -> &'static str {
    match role {
        Role::Logging => "logging",
        Role::Cron => "scheduled jobs",
        Role::Security => "security",
    }
}
