//! Steps that preserve evidence: collected for real, by threads of their own.

use std::sync::mpsc::SyncSender;

use picket_agent::respond::RespondError;
use picket_agent::respond::custody::{Preserves as _, StepReceipt};
use picket_agent::respond::preserve::{self, Preserver, PreserverHandle, Room, Spool};
use picket_agent::sys::Stop;
use picket_agent::uplink::EvidenceSource as _;
use picket_protocol::evidence::{DETAIL, Sealed};

use super::*;

type Told = (StepReceipt, SyncSender<Result<u64, RespondError>>);

/// Who preserves; what it has to say of steps waits here for the test.
struct Evidence {
    preserver: Preserver,
    handle: PreserverHandle,
    told: Receiver<Told>,
    stop: Stop,
}

impl Evidence {
    /// It comes to an end in the middle of what it does, and nothing that it still has to say is heard.
    fn dies(self) {
        self.stop.set();
        drop(self.told);
        self.handle.stop();
    }
}

impl Lab {
    /// One more run of the agent, with who preserves.
    fn begin_both(&mut self) -> Evidence {
        self.begin();
        std::fs::create_dir_all(self.layout.evidence()).unwrap();
        let (sender, told) = sync_channel::<Told>(1);
        let steps = move |receipt| {
            let (reply, answer) = sync_channel(1);
            sender.send((receipt, reply)).map_err(|_| RespondError::Busy)?;
            answer.recv().unwrap_or(Err(RespondError::Busy))
        };
        let stop = Stop::new().unwrap();
        let started = preserve::start(preserve::Context {
            sealer: self.ledger.sealer(),
            database: self.layout.database(),
            spool: Spool::new(self.layout.evidence(), Room { bytes_min: 0, percent_min: 0 }),
            bundle_max: 1 << 30,
            own: self.layout.state().to_owned(),
            booted: self.start,
            boot: BOOT.to_owned(),
            status: RespondStatus::default(),
            steps: Arc::new(steps),
            stop: stop.clone(),
        });
        let (preserver, handle) = started.unwrap();
        self.custody().set_preserver(Arc::new(preserver.clone()));
        Evidence { preserver, handle, told, stop }
    }

    /// Takes the next word of who preserves; gives what it is, and whether it was taken.
    fn hear(&mut self, evidence: &Evidence) -> (Outcome, bool) {
        let (told, reply) = evidence.told.recv_timeout(SEAL).unwrap();
        let outcome = told.outcome;
        let sealed = self.custody().preserved(told);
        let taken = sealed.is_ok();
        reply.send(sealed).unwrap();
        (outcome, taken)
    }

    fn keep(&self, name: &str) -> Step {
        let paths = vec![self.file("what-is-kept").to_str().unwrap().to_owned()];
        step(name, Action::Preserve { profiles: Default::default(), paths, process: None }, 600)
    }

    fn bundle(&self, number: u32) -> PathBuf {
        self.layout.evidence().join(format!("{}.age", act_id(COMMAND, number)))
    }

    /// Until nothing is collected or kept any more.
    fn nothing_is_kept(&self) {
        let end = std::time::Instant::now() + SEAL;
        while !preserve::read(&self.layout.database()).unwrap().is_empty()
            || std::fs::read_dir(self.layout.evidence()).unwrap().next().is_some()
        {
            assert!(std::time::Instant::now() < end, "evidence is left");
            std::thread::yield_now();
        }
    }
}

#[test]
fn the_next_step_follows_when_evidence_is_sealed_and_the_playbook_ends_when_it_is_handed_over() {
    let mut lab = Lab::new();
    let evidence = lab.begin_both();
    let steps = vec![lab.take("one", 60), lab.keep("keep"), lab.take("two", 60)];
    lab.order(steps);
    lab.ticks_for(2);
    assert!(!lab.is_there("one") && lab.is_there("two"), "the second waits for what comes before it");
    assert_eq!(lab.hear(&evidence), (Outcome::Applied, true));
    lab.ticks_for(1);
    let all = [
        ("one", "applied"),
        ("one", "confirmed"),
        ("keep", "applied"),
        ("two", "applied"),
        ("two", "confirmed"),
        ("", "confirmed"),
    ];
    assert_eq!(lab.told(), told(&all));
    let receipt = lab.receipts().into_iter().nth(2).unwrap();
    let (act, sealed) = (act_id(COMMAND, 2), receipt.detail.get(DETAIL).cloned().unwrap());
    let sealed: Sealed = serde_json::from_value(sealed).unwrap();
    assert_eq!((receipt.command, receipt.about()), (Some(COMMAND), Some(act)));
    assert!(receipt.title.starts_with("Step 2 of 3, keep: "), "{}", receipt.title);
    assert_eq!(std::fs::metadata(lab.bundle(2)).unwrap().len(), sealed.sealed_bytes);

    // What was taken is given back after a minute; evidence waits longer for a collector that is away.
    lab.ticks_for(61);
    let ends = [("one", "expired"), ("two", "expired")];
    assert_eq!(lab.told(), told(&[&all[..], &ends].concat()));
    assert_eq!(lab.under_way(), 1);
    evidence.preserver.complete(act);
    assert_eq!(lab.hear(&evidence), (Outcome::Confirmed, true));
    lab.ticks_for(1);
    let last = [("keep", "confirmed"), ("", "expired")];
    assert_eq!(lab.told(), told(&[&all[..], &ends, &last].concat()));
    assert_eq!(lab.under_way(), 0);
    lab.nothing_is_kept();
    evidence.dies();
}

#[test]
fn evidence_for_nobody_fails_its_step_and_the_rest_goes_as_it_was_signed() {
    for otherwise in [Otherwise::GoOn, Otherwise::Stop] {
        let mut lab = Lab { recipients: Vec::new(), ..Lab::new() };
        let evidence = lab.begin_both();
        let steps = vec![Step { otherwise, ..lab.keep("keep") }, lab.take("one", 60)];
        lab.order(steps);
        lab.ticks_for(1);
        assert_eq!(lab.hear(&evidence), (Outcome::Failed, true));
        lab.ticks_for(1);
        let failed = &lab.receipts()[0];
        assert!(failed.title.contains("--evidence-recipient"), "{}", failed.title);
        assert_eq!(lab.is_there("one"), otherwise == Otherwise::Stop, "{:?}", lab.told());
        lab.nothing_is_kept();
        evidence.dies();
    }
    // A command alone has the same answer.
    let mut lab = Lab { recipients: Vec::new(), ..Lab::new() };
    let evidence = lab.begin_both();
    let action = lab.keep("keep").action;
    let order = lab.order_of(COMMAND, action, 600);
    assert!(evidence.preserver.carry_out(Box::new(order)).is_ok());
    let end = std::time::Instant::now() + SEAL;
    while lab.receipts().is_empty() {
        assert!(std::time::Instant::now() < end, "no answer");
        std::thread::yield_now();
    }
    let (outcome, title) = lab.last();
    assert!(outcome == Outcome::Failed && title.contains("--evidence-recipient"), "{title}");
    evidence.dies();
}

#[test]
fn evidence_that_takes_too_long_has_failed_and_is_not_kept() {
    let mut lab = Lab::new();
    let evidence = lab.begin_both();
    let keep = Step { timeout: 5, otherwise: Otherwise::GoOn, ..lab.keep("keep") };
    let steps = vec![keep, lab.take("one", 60)];
    lab.order(steps);
    lab.ticks_for(1);
    let (late, reply) = evidence.told.recv_timeout(SEAL).unwrap();
    lab.ticks_for(3);
    assert!(lab.is_there("one") && lab.told().is_empty());
    lab.ticks_for(3);
    let all = [("keep", "failed"), ("one", "applied"), ("one", "confirmed"), ("", "confirmed")];
    assert_eq!(lab.told(), told(&all));
    // It is there, but comes too late.
    assert_eq!(late.outcome, Outcome::Applied);
    reply.send(lab.custody().preserved(late)).unwrap();
    lab.ticks_for(1);
    assert_eq!(lab.told(), told(&all));
    lab.nothing_is_kept();
    evidence.dies();
}

#[test]
fn wherever_the_agent_dies_evidence_is_collected_once() {
    // Ticks before the first death, and how often it dies.
    for (ticks, deaths) in [(0, 1), (1, 1), (2, 1), (2, 2), (3, 1), (30, 1), (30, 2)] {
        for heard in [false, true] {
            let mut lab = Lab::new();
            let mut evidence = lab.begin_both();
            let steps = vec![lab.keep("keep"), lab.take("one", 600)];
            lab.order(steps);
            (0..ticks).for_each(|_| lab.tick());
            let heard = heard && ticks > 2;
            if heard {
                assert_eq!(lab.hear(&evidence), (Outcome::Applied, true));
            }
            for _ in 0..deaths {
                evidence.dies();
                evidence = lab.begin_both();
                lab.tick();
            }
            if !heard {
                lab.ticks_for(1);
                assert_eq!(lab.hear(&evidence), (Outcome::Applied, true), "{ticks} {deaths}");
            }
            lab.ticks_for(1);
            let all = [("keep", "applied"), ("one", "applied"), ("one", "confirmed"), ("", "confirmed")];
            // What has an undo is applied again where nobody knows whether it holds.
            let mut said = lab.told();
            said.dedup();
            assert_eq!(said, told(&all), "{ticks} {deaths} {heard}");
            assert!(lab.bundle(1).exists() && evidence.told.try_recv().is_err());
            evidence.dies();
        }
    }
}

#[test]
fn local_root_ends_evidence_with_its_playbook_or_alone() {
    for whole in [true, false] {
        let mut lab = Lab::new();
        let evidence = lab.begin_both();
        let steps = vec![lab.keep("keep"), scan("look"), lab.take("one", 600)];
        lab.order(steps);
        lab.ticks_for(1);
        assert_eq!(lab.hear(&evidence), (Outcome::Applied, true));
        lab.ticks_for(1);
        let id = if whole { COMMAND } else { act_id(COMMAND, 1) };
        assert_eq!(lab.release(id).is_ok(), whole, "what is evidence only the other one knows");
        let person = Person { uid: 0, login_uid: None, name: Some("root".to_owned()) };
        let preserver = evidence.preserver.clone();
        let releasing = std::thread::spawn(move || preserver.release(Some(id), person).unwrap());
        assert_eq!(lab.hear(&evidence), (Outcome::Released, true));
        let released = releasing.join().unwrap();
        assert_eq!((released.len(), released[0].id), (1, act_id(COMMAND, 1)));
        lab.answer_work();
        lab.ticks_for(1);
        let told = lab.told();
        assert!(told.contains(&("keep".to_owned(), "released")), "{told:?}");
        assert_eq!(told.contains(&(String::new(), "released")), whole, "{told:?}");
        assert_eq!((lab.is_there("one"), lab.under_way()), (whole, usize::from(!whole)), "{told:?}");
        lab.nothing_is_kept();
        evidence.dies();
    }
}

/// A full disk, as the ledger sees it: who holds the lock for writing keeps all else from it.
#[test]
fn what_cannot_be_recorded_goes_at_once_and_is_recorded_once() {
    let mut lab = Lab::new();
    let evidence = lab.begin_both();
    let action = lab.keep("keep").action;
    assert!(evidence.preserver.carry_out(Box::new(lab.order_of(COMMAND, action, 600))).is_ok());
    let bundle = lab.layout.evidence().join(format!("{COMMAND}.age"));
    wait_until("it is collected", || lab.receipts().iter().any(|told| told.outcome == Outcome::Applied));
    assert!(bundle.exists());
    let locker = rusqlite::Connection::open(lab.layout.database()).unwrap();
    locker.busy_timeout(SEAL).unwrap();
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let person = Person { uid: 0, login_uid: None, name: Some("root".to_owned()) };
    let released = evidence.preserver.release(Some(COMMAND), person).unwrap();
    assert!(released[0].problem.as_ref().is_some_and(|why| why.contains("recorded")), "{released:?}");
    assert!(!bundle.exists(), "it is gone all the same");
    // It is tried again meanwhile.
    let later = std::time::Instant::now() + Duration::from_secs(7);
    wait_until("it was tried again", || std::time::Instant::now() > later);
    locker.execute_batch("ROLLBACK").unwrap();
    wait_until("it is recorded", || preserve::read(&lab.layout.database()).unwrap().is_empty());
    evidence.dies();
    let released = lab.receipts().into_iter().filter(|told| told.outcome == Outcome::Released);
    assert_eq!(released.count(), 1);
}

fn wait_until(what: &str, is: impl Fn() -> bool) {
    let end = std::time::Instant::now() + 2 * SEAL;
    while !is() {
        assert!(std::time::Instant::now() < end, "not so in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn held_back_commands_stop_what_comes_after_evidence() {
    let mut lab = Lab::new();
    let evidence = lab.begin_both();
    let steps = vec![lab.keep("keep"), lab.take("one", 600)];
    lab.order(steps);
    lab.ticks_for(1);
    let hold = Lease::start(BOOT, lab.now().boot, Duration::from_secs(3_600));
    let write = store::set_lease(store::HOLD.to_owned(), Some(hold));
    lab.ledger.sealer().seal_durably(Vec::new(), vec![write], SEAL).unwrap();
    assert_eq!(lab.hear(&evidence), (Outcome::Applied, true));
    lab.ticks_for(1);
    assert!(lab.is_there("one"));
    assert_eq!(lab.told(), told(&[("keep", "applied"), ("", "failed")]));
    assert!(lab.last().1.contains("held back"), "{:?}", lab.last());
    assert!(lab.bundle(1).exists(), "what was collected stays for its lease");
    evidence.dies();
}
