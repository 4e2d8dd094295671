//! What the service manager is told: that the agent is ready, how it fares, that it gets on, that it stops.
//!
//! The watchdog is fed only while the pipeline gets on: the ledger's writer, the thread of every sensor, that which holds
//! what is done to the host and that which accepts on the local socket come round ([`crate::turn`]). A disk that is full or fails is no reason to be restarted: nothing would be better afterwards, and
//! what waits in memory would be lost. Then the writer tries again, and sensors wait behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use sd_notify::NotifyState;

use super::Statuses;
use crate::ledger::LedgerHealth;
use crate::sense::{SensorReport, SensorState};
use crate::turn::Turn;

/// The service manager, when there is one.
pub struct Service {
    ledger: LedgerHealth,
    statuses: Statuses,
    keeper: Turn,
    server: Turn,
    told: String,
    hanging: bool,
}

impl Service {
    /// Watches over the ledger's writer, the sensors, the keeper of actions and the local socket's server.
    pub fn new(ledger: LedgerHealth, statuses: Statuses, keeper: Turn, server: Turn) -> Self {
        Self { ledger, statuses, keeper, server, told: String::new(), hanging: false }
    }

    /// Everything has started.
    pub fn ready(&mut self) {
        self.told = summary(&self.statuses.reports());
        notify(&[NotifyState::Ready, NotifyState::Status(&self.told)]);
    }

    /// Feeds the watchdog when all get on, and tells how the agent fares when that has changed. `now` is on the boot clock.
    pub fn tell(&mut self, now: Duration) {
        let hanging = self.hanging(now);
        if hanging.is_empty() {
            notify(&[NotifyState::Watchdog]);
        } else if !self.hanging {
            tracing::error!(hanging, "the agent hangs; the service manager's watchdog will restart it");
        }
        self.hanging = !hanging.is_empty();
        let summary =
            if hanging.is_empty() { summary(&self.statuses.reports()) } else { format!("hangs: {hanging}") };
        if summary != self.told {
            self.told = summary;
            notify(&[NotifyState::Status(&self.told)]);
        }
    }

    /// Who hangs, in words; empty when nobody does.
    fn hanging(&self, now: Duration) -> String {
        let words = |(name, long): (&str, Duration)| format!("{name} for {} s", long.as_secs());
        if let Some(long) = self.ledger.turn().stuck(now) {
            return words(("ledger", long));
        }
        if self.ledger.report().error.is_some() {
            return String::new();
        }
        let keeper = self.keeper.stuck(now).map(|long| ("keeper", long));
        let server = self.server.stuck(now).map(|long| ("local socket", long));
        self.statuses
            .stuck(now)
            .into_iter()
            .chain(keeper)
            .chain(server)
            .map(words)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// The agent stops.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// How the sensors fare, in a line.
fn summary(reports: &BTreeMap<String, SensorReport>) -> String {
    let in_state = |state: SensorState| {
        let names = reports.iter().filter(|(_, report)| report.state == state).map(|(name, _)| name.as_str());
        names.collect::<Vec<_>>()
    };
    let words = [
        ("degraded", SensorState::Degraded),
        ("failed", SensorState::Failed),
        ("starting", SensorState::Starting),
        ("off", SensorState::Disabled),
    ];
    let mut text = format!("{} sensors run", in_state(SensorState::Running).len());
    for (word, state) in words {
        let names = in_state(state);
        if !names.is_empty() {
            text.push_str(&format!("; {word}: {}", names.join(", ")));
        }
    }
    text
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager was not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::STUCK_AFTER;

    #[test]
    fn a_writer_or_a_sensor_that_hangs_is_named_and_a_failing_disk_excuses_the_sensors() {
        let (ledger, statuses, keeper) = (LedgerHealth::default(), Statuses::default(), Turn::default());
        let server = Turn::default();
        let service = Service::new(ledger.clone(), statuses.clone(), keeper.clone(), server.clone());
        let (begin, late) = (Duration::from_secs(1), Duration::from_secs(1) + STUCK_AFTER);
        assert_eq!(service.hanging(late), "");
        statuses.get("logins").turn().works(begin);
        assert_eq!(service.hanging(late), "logins for 600 s");
        ledger.update(|report| report.error = Some("no space".to_owned()));
        assert_eq!(service.hanging(late), "", "it waits behind the disk");
        ledger.turn().works(begin);
        assert_eq!(service.hanging(late), "ledger for 600 s", "and the writer tries again in time");
        ledger.turn().rests();
        ledger.update(|report| report.error = None);
        statuses.get("logins").rests();
        keeper.works(begin);
        assert_eq!(service.hanging(late), "keeper for 600 s");
        keeper.rests();
        server.works(begin);
        assert_eq!(service.hanging(late), "local socket for 600 s");
        server.rests();
        assert_eq!(service.hanging(late), "");
    }

    #[test]
    fn the_summary_names_what_does_not_run() {
        let report = |state| SensorReport { state, ..SensorReport::default() };
        let reports = [
            ("files", SensorState::Running),
            ("logins", SensorState::Degraded),
            ("host", SensorState::Running),
        ];
        let reports = reports.into_iter().map(|(name, state)| (name.to_owned(), report(state))).collect();
        assert_eq!(summary(&reports), "2 sensors run; degraded: logins");
    }
}
