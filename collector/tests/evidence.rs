//! What is kept of evidence: through a loss of power, for want of room, and of steps of playbooks.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

mod lab;

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use lab::orders::{isolation, receipt, signed, soon};
use lab::{Host, Lab, now};
use picket_collector::server::evidence::{EvidenceItem, EvidenceState};
use picket_collector::store::own::{EVIDENCE_MISMATCH, EVIDENCE_WAITS};
use picket_collector::store::{NewCommand, Store as _};
use picket_protocol::action::Profile;
use picket_protocol::command::{Action, Command, Outcome, Receipt, ReceiptStep};
use picket_protocol::crypto::{hex, sha256};
use picket_protocol::evidence::{CHUNK_BYTES_MAX, Chunk, DETAIL, FORMAT, Held, Sealed};
use picket_protocol::playbook::act_id;
use uuid::Uuid;

/// Of what the laboratory keeps for one host, a bit more than half.
const SIZE: usize = 700 * 1024;

/// A bundle on a host, sealed there.
struct Sent {
    id: Uuid,
    bytes: Vec<u8>,
    /// How much later than now its pieces come.
    later: Duration,
}

fn content(seed: usize) -> Vec<u8> {
    (0..SIZE).map(|at| u8::try_from((at * 7 + at / 251 + seed) % 251).unwrap()).collect()
}

/// An operator's command to these hosts.
fn order(lab: &Lab, hosts: &[&Host], action: Action) -> Uuid {
    let command = Command { action, ..isolation(hosts, soon()) };
    let id = command.id;
    let (envelope, submitted_by) = (signed(&command), "alice".to_owned());
    let new = NewCommand {
        command,
        envelope,
        submitted_by,
        may_be_obeyed: true,
        containments_max: None,
        now: now(),
    };
    lab.store.submit_command(new).unwrap();
    id
}

fn preserve() -> Action {
    Action::Preserve { profiles: [Profile::Logs].into(), paths: Vec::new(), process: None }
}

/// The receipt of a bundle, of a command or of its step `number`.
fn seal(lab: &Lab, host: &mut Host, step: Option<u32>, seed: usize) -> (Uuid, Sent) {
    let command = order(lab, &[host], preserve());
    (command, seal_for(lab, host, command, step, seed))
}

fn seal_for(lab: &Lab, host: &mut Host, command: Uuid, step: Option<u32>, seed: usize) -> Sent {
    let bytes = content(seed);
    let sealed = Sealed {
        format: FORMAT.to_owned(),
        root: "00".repeat(32),
        lines: 1,
        entries: 1,
        plain_bytes: 1,
        sealed_bytes: u64::try_from(bytes.len()).unwrap(),
        sealed_sha256: hex(&sha256(&[&bytes])),
        recipients: Vec::new(),
        skipped: Default::default(),
        began: now(),
        ended: now(),
    };
    let step = step.map(|number| ReceiptStep {
        number,
        of: 2,
        name: "keep".to_owned(),
        act: act_id(command, number),
    });
    let id = step.as_ref().map_or(command, |step| step.act);
    let detail = serde_json::json!({ DETAIL: sealed });
    lab.seal_receipt(host, &Receipt { step, detail, ..receipt(command, Outcome::Applied) });
    Sent { id, bytes, later: Duration::ZERO }
}

impl Sent {
    /// Hands a piece over, or asks how much there is; gives the answer, and the rule of a finding.
    fn piece(&self, lab: &Lab, host: &Host, offset: usize, length: usize) -> (Held, Option<String>) {
        let chunk = Chunk {
            evidence: self.id,
            offset: u64::try_from(offset).unwrap(),
            total: u64::try_from(self.bytes.len()).unwrap(),
            bytes: self.bytes[offset..offset + length].to_vec(),
        };
        let kept = lab.shared.evidence().unwrap();
        let (held, finding) = kept.take(host.agent, &chunk, &*lab.store, now().plus(self.later)).unwrap();
        (held, finding.map(|own| own.finding.rule))
    }

    fn ask(&self, lab: &Lab, host: &Host) -> (Held, Option<String>) {
        self.piece(lab, host, 0, 0)
    }

    /// All from there on; the last answer.
    fn rest(&self, lab: &Lab, host: &Host, from: u64) -> (Held, Option<String>) {
        let mut offset = usize::try_from(from).unwrap();
        loop {
            let length = CHUNK_BYTES_MAX.min(self.bytes.len() - offset);
            let answer = self.piece(lab, host, offset, length);
            offset += length;
            if offset == self.bytes.len() || answer.0.refused.is_some() {
                return answer;
            }
        }
    }

    fn item(&self, lab: &Lab, host: &Host) -> EvidenceItem {
        lab.shared.evidence().unwrap().one(host.agent, self.id).unwrap()
    }

    fn path(&self, lab: &Lab, host: &Host) -> PathBuf {
        lab.dir.path().join(format!("evidence/{}/{}.age", host.agent, self.id))
    }
}

fn kib(count: usize) -> u64 {
    u64::try_from(count * 1024).unwrap()
}

#[test]
fn what_a_loss_of_power_leaves_behind_the_last_durable_byte_is_asked_for_again() {
    // How far the file went on, in zeros, when the power went: within the piece that was being written, up to its end, to the end of all.
    for tail in [0, 1, 100, 188] {
        let mut lab = Lab::start();
        let mut host = lab.host("acme", "web-1");
        let (_, sent) = seal(&lab, &mut host, None, 0);
        for piece in [0, 1] {
            let (held, _) = sent.piece(&lab, &host, piece * CHUNK_BYTES_MAX, CHUNK_BYTES_MAX);
            assert_eq!((held.held, held.refused), (kib(256 * (piece + 1)), None));
        }
        let file = std::fs::OpenOptions::new().write(true).open(sent.path(&lab, &host)).unwrap();
        file.set_len(kib(512 + tail)).unwrap();
        lab.reopen(200);
        let (held, finding) = sent.ask(&lab, &host);
        assert!(held.held <= kib(512) && held.held >= kib(256) && held.refused.is_none(), "{held:?}");
        assert_eq!(finding, None);
        let (held, finding) = sent.rest(&lab, &host, held.held);
        assert!(held.complete && finding.is_none(), "{tail}: {held:?} {finding:?}");
        assert_eq!(std::fs::read(sent.path(&lab, &host)).unwrap(), sent.bytes);
        // What is complete stays so, and is not asked for again.
        lab.reopen(200);
        assert!(sent.ask(&lab, &host).0.complete);
    }
}

#[test]
fn what_is_not_what_was_sealed_is_told_and_may_come_again() {
    let lab = Lab::start();
    let mut host = lab.host("acme", "web-1");
    let (_, mut sent) = seal(&lab, &mut host, None, 0);
    sent.piece(&lab, &host, 0, CHUNK_BYTES_MAX);
    let file = std::fs::OpenOptions::new().write(true).open(sent.path(&lab, &host)).unwrap();
    file.write_all_at(&[255], 7).unwrap();
    let (held, finding) = sent.rest(&lab, &host, kib(256));
    assert!(held.refused.is_some() && finding.as_deref() == Some(EVIDENCE_MISMATCH), "{held:?}");
    assert_eq!(sent.item(&lab, &host).state, EvidenceState::Mismatch);
    // A host that sends it again and again makes no finding of each.
    for _ in 0..3 {
        let (held, finding) = sent.rest(&lab, &host, 0);
        assert!(held.refused.is_some() && held.held == 0 && finding.is_none(), "{held:?} {finding:?}");
    }
    sent.later = Duration::from_secs(3_601);
    assert_eq!(sent.ask(&lab, &host).0.held, 0);
    assert!(sent.rest(&lab, &host, 0).0.complete);
}

#[test]
fn evidence_of_a_step_is_known_by_its_act_and_nothing_else() {
    let mut lab = Lab::start();
    let mut host = lab.host("acme", "web-1");
    let (command, sent) = seal(&lab, &mut host, Some(2), 0);
    for id in [command, act_id(command, 1)] {
        let other = Sent { id, bytes: sent.bytes.clone(), later: Duration::ZERO };
        let (held, finding) = other.ask(&lab, &host);
        assert!(held.refused.unwrap().reason.contains("no sealed receipt") && finding.is_none());
    }
    assert!(sent.rest(&lab, &host, 0).0.complete);
    for _ in 0..2 {
        let item = sent.item(&lab, &host);
        assert_eq!((item.command, item.playbook), (sent.id, Some(command)));
        lab.reopen(200);
    }
    // Another host's receipt is no word for this one.
    let other = lab.host("acme", "web-2");
    assert!(sent.ask(&lab, &other).0.refused.is_some());
}

#[test]
fn nobody_has_room_for_what_no_operator_ordered_of_him() {
    let lab = Lab::start();
    let (mut host, other) = (lab.host("acme", "web-1"), lab.host("acme", "web-2"));
    let made_up = Uuid::now_v7();
    let of_another = order(&lab, &[&other], preserve());
    let of_another_kind = order(&lab, &[&host], Action::Isolate {});
    for command in [made_up, of_another, of_another_kind] {
        let sent = seal_for(&lab, &mut host, command, None, 0);
        let (held, finding) = sent.ask(&lab, &host);
        assert!(held.refused.unwrap().reason.contains("no command"), "{command}");
        assert_eq!(finding, None);
        assert!(lab.shared.evidence().unwrap().list(None).is_empty());
    }
    let (_, sent) = seal(&lab, &mut host, None, 0);
    assert!(sent.rest(&lab, &host, 0).0.complete);
}

#[test]
fn what_there_is_no_room_for_waits_and_is_told_once() {
    let mut lab = Lab::start();
    let mut host = lab.host("acme", "web-1");
    let (_, first) = seal(&lab, &mut host, None, 0);
    let (_, second) = seal(&lab, &mut host, None, 1);
    assert!(first.rest(&lab, &host, 0).0.complete);
    for run in 0..2 {
        for time in 0..2 {
            let (held, finding) = second.ask(&lab, &host);
            let refused = held.refused.unwrap();
            assert!(refused.reason.contains("evidence.host_mib_max"), "{refused:?}");
            assert!(refused.retry_after <= 60, "it comes soon when there is room");
            assert_eq!(finding.as_deref(), (time == 0).then_some(EVIDENCE_WAITS), "{run}");
            let item = second.item(&lab, &host);
            assert_eq!((item.state, item.waits), (EvidenceState::Waiting, Some(refused.reason)));
        }
        assert!(!second.path(&lab, &host).exists());
        lab.reopen(200);
    }
    second.ask(&lab, &host);
    lab.shared.evidence().unwrap().delete(host.agent, first.id).unwrap();
    assert!(second.rest(&lab, &host, 0).0.complete);
    let item = second.item(&lab, &host);
    assert_eq!((item.state, item.waits), (EvidenceState::Complete, None));
    // One that waits can be given up as well.
    let (_, third) = seal(&lab, &mut host, None, 2);
    third.ask(&lab, &host);
    lab.shared.evidence().unwrap().delete(host.agent, third.id).unwrap();
    lab.shared.evidence().unwrap().delete(host.agent, second.id).unwrap();
    let (held, finding) = third.ask(&lab, &host);
    assert!(held.refused.unwrap().reason.contains("deleted") && finding.is_none());
}
