//! Findings that the collector itself makes about an agent: rules `collector.*`.
//!
//! | rule | severity | when |
//! |---|---|---|
//! | `collector.silent` | high | nothing came in the time of three heartbeats |
//! | `collector.seen-again` | info | a silent host came back |
//! | `collector.fork` | critical | a smaller ledger, or another root at a known size |
//! | `collector.clone` | critical | two holders of one identity push each other out |
//! | `collector.restored` | medium | an agent proved that this collector had cosigned more than it holds |
//! | `collector.gap` | medium | records came as leaf hashes: their bytes are gone |
//! | `collector.certificate-expiring` | low | the certificate ends soon and was not renewed |
//! | `collector.certificate-expired` | high | the certificate has ended |
//! | `collector.renewed` | low | a host that is enrolled got a new certificate by a join string |
//! | `collector.evidence-mismatch` | high | evidence came that is not what its agent had sealed |
//! | `collector.evidence-waits` | medium | evidence is not taken for want of room; told once for each bundle in a run of the collector |
//! | `collector.unreadable` | low | sealed findings or receipts whose body this collector cannot read |

use picket_protocol::finding::{Entity, Finding, Observed, Severity};
use picket_protocol::identity::AgentId;
use picket_protocol::time::Timestamp;
use serde_json::json;

/// A finding that the collector makes about an agent.
#[derive(Clone, Debug)]
pub struct OwnFinding {
    /// The agent.
    pub agent: AgentId,
    /// When it was made.
    pub time: Timestamp,
    /// What it says.
    pub finding: Finding,
}

/// The rule of [`OwnFinding::silent`].
pub const SILENT: &str = "collector.silent";
/// The rule of [`OwnFinding::seen_again`].
pub const SEEN_AGAIN: &str = "collector.seen-again";
/// The rule of [`OwnFinding::fork`].
pub const FORK: &str = "collector.fork";
/// The rule of [`OwnFinding::cloned`].
pub const CLONE: &str = "collector.clone";
/// The rule of [`OwnFinding::restored`].
pub const RESTORED: &str = "collector.restored";
/// The rule of [`OwnFinding::gap`].
pub const GAP: &str = "collector.gap";
/// The rule of [`OwnFinding::certificate_expiring`].
pub const CERTIFICATE_EXPIRING: &str = "collector.certificate-expiring";
/// The rule of [`OwnFinding::certificate_expired`].
pub const CERTIFICATE_EXPIRED: &str = "collector.certificate-expired";
/// The rule of [`OwnFinding::renewed`].
pub const RENEWED: &str = "collector.renewed";
/// The rule of [`OwnFinding::unreadable`].
pub const UNREADABLE: &str = "collector.unreadable";

/// The rule of [`OwnFinding::evidence_mismatch`].
pub const EVIDENCE_MISMATCH: &str = "collector.evidence-mismatch";
/// The rule of [`OwnFinding::evidence_waits`].
pub const EVIDENCE_WAITS: &str = "collector.evidence-waits";

impl OwnFinding {
    fn new(
        agent: AgentId,
        time: Timestamp,
        (rule, severity): (&str, Severity),
        title: String,
        evidence: serde_json::Value,
    ) -> Self {
        let seconds = u64::try_from(time.seconds()).unwrap_or(0);
        let nanos = u32::try_from(time.nanos().rem_euclid(1_000_000_000)).unwrap_or(0);
        let finding = Finding {
            id: uuid::Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos)),
            rule: rule.to_owned(),
            severity,
            observed: Observed::once(time),
            title,
            entities: vec![Entity::Host { agent }],
            evidence,
            attack: Vec::new(),
            explained_by: None,
            drill: false,
        };
        Self { agent, time, finding }
    }

    /// Nothing came since `last_seen`.
    pub fn silent(agent: AgentId, hostname: &str, last_seen: Timestamp, now: Timestamp) -> Self {
        let silence = now.since(last_seen).as_secs();
        let title = format!("{hostname} has not been heard of for {silence} seconds");
        let evidence = json!({"last_seen": last_seen, "seconds": silence});
        Self::new(agent, now, (SILENT, Severity::High), title, evidence)
    }

    /// A silent host came back.
    pub fn seen_again(agent: AgentId, hostname: &str, last_seen: Timestamp, now: Timestamp) -> Self {
        let silence = now.since(last_seen).as_secs();
        let title = format!("{hostname} is heard of again after {silence} seconds");
        let evidence = json!({"last_seen": last_seen, "seconds": silence});
        Self::new(agent, now, (SEEN_AGAIN, Severity::Info), title, evidence)
    }

    /// The ledger contradicts what is known of it; `why` is a clause for a person.
    pub fn fork(agent: AgentId, why: &str, evidence: serde_json::Value, now: Timestamp) -> Self {
        let title = format!("The ledger of the agent forked: {why}");
        Self::new(agent, now, (FORK, Severity::Critical), title, evidence)
    }

    /// `times` connections of the same agent pushed each other out within `seconds`.
    pub fn cloned(agent: AgentId, times: usize, seconds: u64, peers: &[String], now: Timestamp) -> Self {
        let title = format!("Two holders of one agent's identity replaced each other {times} times");
        let evidence = json!({"replacements": times, "seconds": seconds, "addresses": peers});
        Self::new(agent, now, (CLONE, Severity::Critical), title, evidence)
    }

    /// The agent holds a cosignature for `cosigned` records where this store has `held`.
    pub fn restored(agent: AgentId, held: u64, cosigned: u64, now: Timestamp) -> Self {
        let title =
            format!("The collector holds {held} records of {cosigned} that it cosigned: it was restored");
        let evidence = json!({"held": held, "cosigned": cosigned});
        Self::new(agent, now, (RESTORED, Severity::Medium), title, evidence)
    }

    /// `count` leaves between `first` and `last` came without bytes; `restoring` when the agent refills a restored store.
    pub fn gap(
        agent: AgentId,
        (first, last): (u64, u64),
        count: u64,
        restoring: bool,
        now: Timestamp,
    ) -> Self {
        let title = format!("The bytes of {count} records are gone at the agent; their leaf hashes came");
        let evidence = json!({"first": first, "last": last, "count": count, "restoring": restoring});
        let mut own = Self::new(agent, now, (GAP, Severity::Medium), title, evidence);
        own.finding.observed.count = count;
        own
    }

    /// The certificate ends at `expires`.
    pub fn certificate_expiring(agent: AgentId, hostname: &str, expires: Timestamp, now: Timestamp) -> Self {
        let title = format!("The certificate of {hostname} ends soon and was not renewed");
        let evidence = json!({"expires": expires});
        Self::new(agent, now, (CERTIFICATE_EXPIRING, Severity::Low), title, evidence)
    }

    /// The certificate ended at `expires`.
    pub fn certificate_expired(agent: AgentId, hostname: &str, expires: Timestamp, now: Timestamp) -> Self {
        let title = format!("The certificate of {hostname} has ended: the agent cannot connect");
        let remedy =
            "agent enroll --renew on the host, with a join string of collector token: id and ledger go on";
        let evidence = json!({"expires": expires, "remedy": remedy});
        Self::new(agent, now, (CERTIFICATE_EXPIRED, Severity::High), title, evidence)
    }

    /// It got a new certificate by a join string, from the address `from`; its last one ended, and this one ends, so.
    pub fn renewed(
        agent: AgentId,
        hostname: &str,
        from: &str,
        (ended, ends): (Timestamp, Timestamp),
        now: Timestamp,
    ) -> Self {
        let title = format!("{hostname} got a new certificate by a join string; its id and ledger go on");
        let evidence = json!({"address": from, "last_expires": ended, "expires": ends});
        Self::new(agent, now, (RENEWED, Severity::Low), title, evidence)
    }

    /// The bundle of `command` has the SHA-256 `found`, where `sealed` stands in its receipt.
    pub fn evidence_mismatch(
        agent: AgentId,
        command: uuid::Uuid,
        sealed: &str,
        found: &str,
        now: Timestamp,
    ) -> Self {
        let title = format!("Evidence of command {command} came that is not what the agent had sealed");
        let evidence = json!({"command": command, "sealed_sha256": sealed, "found_sha256": found});
        Self::new(agent, now, (EVIDENCE_MISMATCH, Severity::High), title, evidence)
    }

    /// Of the bundle of `command` no more than `held` bytes are taken for now; `why` is a clause for a person.
    pub fn evidence_waits(
        agent: AgentId,
        command: uuid::Uuid,
        (held, size): (u64, u64),
        why: &str,
        now: Timestamp,
    ) -> Self {
        let title = format!("Evidence of command {command} waits on its host: {why}");
        let evidence = json!({"command": command, "held": held, "size": size, "why": why});
        Self::new(agent, now, (EVIDENCE_WAITS, Severity::Medium), title, evidence)
    }

    /// `count` records from `first` on have bodies that are not what their kind asks for; `why` is the first reason.
    pub fn unreadable(agent: AgentId, first: u64, count: u64, why: &str, now: Timestamp) -> Self {
        let title = format!("{count} sealed records cannot be read by this collector");
        let evidence = json!({"first": first, "count": count, "why": why});
        let mut own = Self::new(agent, now, (UNREADABLE, Severity::Low), title, evidence);
        own.finding.observed.count = count;
        own
    }
}
