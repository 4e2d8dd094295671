//! What `agent status` shows, put together from what the parts tell.

use std::collections::BTreeMap;

use picket_protocol::crypto::{PublicKey, to_base64};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::time::Timestamp;

use crate::cli::output::day;
use crate::core::{Cosigned, Files, Identity, Statuses};
use crate::guard::{Guard, GuardReport};
use crate::layout::Layout;
use crate::ledger::{Heads, LedgerHealth, LedgerReport, Reader, Sealer};
use crate::respond::freeze::Freezer;
use crate::respond::preserve::Preserver;
use crate::respond::work::Scan;
use crate::respond::{Keeper, Moment, RespondReport, RespondStatus, Responder};
use crate::sense::host::{Usage, usage};
use crate::sense::network::line::Line;
use crate::sense::network::neighbours::Neighbours;
use crate::sense::sessions::Sessions;
use crate::sense::{SensorReport, SensorState};
use crate::uplink::pending::JoinReport;
use crate::uplink::{LinkReport, LinkState, LinkStatus};

/// Whether this host is watched over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// Everything works.
    On,
    /// Something does not work as it should; see the reasons.
    Degraded,
    /// Nothing is watched or nothing can be sealed.
    Failing,
}

/// The ledger in a status.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LedgerStatus {
    /// Its root, base64, over `size` records.
    pub root: Option<String>,
    /// Records that the collector has not cosigned yet.
    pub unacknowledged: u64,
    /// Its figures.
    #[serde(flatten)]
    pub report: LedgerReport,
}

/// The newest cosignature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cosignature {
    /// Records that it covers.
    pub size: u64,
    /// When it was made, by the collector's clock.
    pub time: Timestamp,
}

/// The answer to `status`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StatusReport {
    /// The agent's version.
    pub version: String,
    /// The core's process.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// For how many seconds it has run.
    pub uptime_seconds: u64,
    /// The whole in a word.
    pub protection: Protection,
    /// Why it is not on.
    pub reasons: Vec<String>,
    /// The agent's id, when enrolled.
    pub agent: Option<AgentId>,
    /// The customer, when enrolled.
    pub tenant: Option<Tenant>,
    /// The ledger key that the host was enrolled with: what `soc` and `soc verify` must be given.
    pub enrolled_key: Option<PublicKey>,
    /// Whether `agent enroll` has been done.
    pub enrolled: bool,
    /// Whether the collector is reached.
    pub connected: bool,
    /// Every sensor.
    pub sensors: BTreeMap<String, SensorReport>,
    /// The ledger.
    pub ledger: LedgerStatus,
    /// The link to the collector, when enrolled.
    pub link: Option<LinkReport>,
    /// A join string that waits for the collector, or was given up, when not enrolled.
    #[serde(default)]
    pub join: Option<JoinReport>,
    /// The newest cosignature.
    pub cosignature: Option<Cosignature>,
    /// Commands in force.
    pub commands: RespondReport,
    /// What the kernel refuses root about the agent itself.
    #[serde(default)]
    pub guard: GuardReport,
    /// What the agent's processes cost, by role.
    pub processes: BTreeMap<String, Usage>,
}

/// Where a status comes from.
pub struct Sources {
    /// Paths.
    pub layout: Layout,
    /// Sensors.
    pub statuses: Statuses,
    /// Ledger figures.
    pub ledger: LedgerHealth,
    /// Ledger head.
    pub heads: Heads,
    /// Link.
    pub link: LinkStatus,
    /// Commands.
    pub respond: RespondStatus,
    /// For `ack` and `hold`.
    pub responder: Responder,
    /// For `release`.
    pub freezer: Freezer,
    /// For `release`.
    pub keeper: Keeper,
    /// Who keeps evidence.
    pub preserver: Preserver,
    /// For `window`.
    pub sealer: Sealer,
    /// For `scan`.
    pub scan: Option<Scan>,
    /// For what is asked of the file sensor.
    pub files: Option<Files>,
    /// For `sessions`.
    pub sessions: Sessions,
    /// For `neighbours`.
    pub neighbours: Neighbours,
    /// For `net`.
    pub line: Line,
    /// Enrolment.
    pub identity: Identity,
    /// Cosignatures.
    pub cosigned: Cosigned,
    /// The guard.
    pub guard: Guard,
    /// When the agent started.
    pub started: Moment,
}

impl Sources {
    /// The status at `now`.
    pub fn report(&self, now: Moment) -> StatusReport {
        let enrolment = self.identity.get();
        let link = enrolment.as_ref().map(|_| self.link.report());
        let (sensors, ledger) = (self.statuses.reports(), self.ledger());
        let commands = self.respond.report(now.boot);
        let guard = self.guard.report();
        let join = self.identity.join_report(&self.layout);
        let to_collector = (link.as_ref(), join.as_ref());
        let mut reasons = Reasons::of(&sensors, &ledger.report, to_collector, &commands, now);
        guard.complaint().into_iter().for_each(|complaint| reasons.add(Protection::Degraded, complaint));
        let roles = [("core", Some(std::process::id())), ("uplink", link.as_ref().and_then(|link| link.pid))];
        let processes =
            roles.into_iter().filter_map(|(role, pid)| Some((role.to_owned(), usage(pid?)?))).collect();
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.started.wall,
            uptime_seconds: now.boot.saturating_sub(self.started.boot).as_secs(),
            protection: reasons.protection,
            reasons: reasons.texts,
            agent: enrolment.as_ref().map(|enrolment| enrolment.agent),
            tenant: enrolment.as_ref().map(|enrolment| enrolment.tenant.clone()),
            enrolled_key: enrolment.as_ref().map(|enrolment| enrolment.enrolled_key),
            enrolled: enrolment.is_some(),
            connected: link.as_ref().is_some_and(|link| link.state == LinkState::Connected),
            sensors,
            ledger,
            link,
            join,
            cosignature: self.cosigned.latest().map(|(size, time)| Cosignature { size, time }),
            commands,
            guard,
            processes,
        }
    }

    fn ledger(&self) -> LedgerStatus {
        let head = self.heads.head();
        let root = Reader::open(&self.layout.database()).and_then(|reader| reader.root(head.size));
        let report =
            LedgerReport { size: head.size, acknowledged: head.acknowledged, ..self.ledger.report() };
        LedgerStatus {
            root: root.ok().map(|root| to_base64(&root)),
            unacknowledged: head.size.saturating_sub(head.acknowledged),
            report,
        }
    }
}

struct Reasons {
    protection: Protection,
    texts: Vec<String>,
}

impl Reasons {
    fn of(
        sensors: &BTreeMap<String, SensorReport>,
        ledger: &LedgerReport,
        (link, join): (Option<&LinkReport>, Option<&JoinReport>),
        commands: &RespondReport,
        now: Moment,
    ) -> Self {
        let mut reasons = Self { protection: Protection::On, texts: Vec::new() };
        reasons.judge_sensors(sensors);
        if let Some(error) = &ledger.error {
            reasons.add(Protection::Failing, format!("nothing can be sealed: {error}"));
        }
        if let Some(trouble) = &ledger.key_trouble {
            reasons.add(Protection::Degraded, format!("the ledger's key: {trouble}"));
        }
        match link {
            None => {
                let usual = || "not enrolled: findings stay on this host (agent enroll)".to_owned();
                reasons.add(Protection::Degraded, join.map_or_else(usual, |join| join.sentence(now.wall)));
            }
            Some(link) if link.state != LinkState::Connected => {
                let what = if link.state == LinkState::Forked {
                    "the collector knows another history than this ledger; nothing is sent"
                } else {
                    "the collector is not reached"
                };
                let why = link.last_error.clone().map_or(String::new(), |error| format!(": {error}"));
                reasons.add(Protection::Degraded, format!("{what}{why}"));
                if let Some(expired) = link.certificate_expires.filter(|expires| *expires <= now.wall) {
                    let what = format!(
                        "the certificate expired on {}: sudo agent enroll --renew 'picket1.…', with what `collector token` prints now",
                        day(expired)
                    );
                    reasons.add(Protection::Degraded, what);
                }
            }
            Some(_) => reasons.judge_trust(commands, now),
        }
        reasons
    }

    fn judge_sensors(&mut self, sensors: &BTreeMap<String, SensorReport>) {
        let watching = ["files", "logins"];
        let dead = |name: &str| {
            sensors
                .get(name)
                .is_none_or(|report| matches!(report.state, SensorState::Failed | SensorState::Disabled))
        };
        if watching.iter().all(|name| dead(name)) {
            self.add(Protection::Failing, "nothing is watched".to_owned());
        }
        for (name, report) in sensors {
            let what = match report.state {
                SensorState::Running => continue,
                SensorState::Starting => "is starting",
                SensorState::Degraded => "sees less than it should",
                SensorState::Disabled => "is turned off in the configuration",
                SensorState::Failed => "does not run",
            };
            let why = if report.reason.is_empty() { String::new() } else { format!(": {}", report.reason) };
            self.add(Protection::Degraded, format!("{name} {what}{why}"));
        }
    }

    fn judge_trust(&mut self, commands: &RespondReport, now: Moment) {
        if let Some(problem) = &commands.trust_problem {
            self.add(Protection::Degraded, format!("no command is obeyed: {problem}"));
        }
        if commands.trust_root.as_ref().is_some_and(|trust| trust.expires <= now.wall) {
            self.add(Protection::Degraded, "no command is obeyed: the trust root has expired".to_owned());
        }
    }

    fn add(&mut self, protection: Protection, text: String) {
        self.protection = self.protection.max(protection);
        self.texts.push(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sensors(states: [SensorState; 2]) -> BTreeMap<String, SensorReport> {
        let [files, logins] = states.map(|state| SensorReport { state, ..SensorReport::default() });
        BTreeMap::from([("files".to_owned(), files), ("logins".to_owned(), logins)])
    }

    fn protection(states: [SensorState; 2], error: Option<&str>, link: Option<LinkState>) -> Protection {
        let ledger = LedgerReport { error: error.map(str::to_owned), ..LedgerReport::default() };
        let link = link.map(|state| LinkReport { state, ..LinkReport::default() });
        let now = Moment { wall: Timestamp::default(), boot: std::time::Duration::ZERO };
        let reasons =
            Reasons::of(&sensors(states), &ledger, (link.as_ref(), None), &RespondReport::default(), now);
        assert_eq!(reasons.texts.is_empty(), reasons.protection == Protection::On);
        reasons.protection
    }

    #[test]
    fn an_expired_certificate_is_a_reason_with_its_remedy() {
        let expired = Timestamp::from_seconds(1_800_000_000);
        let reasons = |state, seconds: i64| {
            let link = LinkReport { state, certificate_expires: Some(expired), ..LinkReport::default() };
            let now = Moment {
                wall: Timestamp::from_seconds(1_800_000_000 + seconds),
                boot: std::time::Duration::ZERO,
            };
            let sensors = sensors([SensorState::Running, SensorState::Running]);
            Reasons::of(
                &sensors,
                &LedgerReport::default(),
                (Some(&link), None),
                &RespondReport::default(),
                now,
            )
            .texts
        };
        let said = reasons(LinkState::Connecting, 5).join("; ");
        assert!(said.contains("expired on 2027-01-15") && said.contains("agent enroll --renew"), "{said}");
        assert!(!reasons(LinkState::Connecting, -5).join("; ").contains("expired"));
        assert!(reasons(LinkState::Connected, 5).is_empty(), "a living connection outlives its certificate");
    }

    #[test]
    fn the_worst_part_decides() {
        use LinkState::{Connected, Connecting, Forked};
        use SensorState::{Degraded, Disabled, Failed, Running, Starting};
        assert_eq!(protection([Running, Running], None, Some(Connected)), Protection::On);
        assert_eq!(protection([Running, Running], None, None), Protection::Degraded);
        assert_eq!(protection([Running, Running], None, Some(Connecting)), Protection::Degraded);
        assert_eq!(protection([Running, Running], None, Some(Forked)), Protection::Degraded);
        for state in [Degraded, Disabled, Failed, Starting] {
            assert_eq!(protection([state, Running], None, Some(Connected)), Protection::Degraded);
        }
        assert_eq!(protection([Failed, Disabled], None, Some(Connected)), Protection::Failing);
        assert_eq!(protection([Running, Running], Some("full"), Some(Connected)), Protection::Failing);
    }
}
