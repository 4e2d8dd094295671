//! Holds what was ordered: collects one bundle after the other, hands them out, and ends them. Time is an argument; the thread
//! around it is in the parent module.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use picket_protocol::action::Action;
use picket_protocol::command::Outcome;
use picket_protocol::evidence::{DETAIL, Sealed};
use serde_json::{Value, json};
use uuid::Uuid;

use super::collecting::Collecting;
use super::state::{self, Preserving};
use super::{ATTEMPTS_MAX, Context, Job, Offer, Offering};
use crate::config::format_size;
use crate::ledger::{Marker, StateWrite};
use crate::respond::custody::{Order, ReleasedAction, StepReceipt};
use crate::respond::engine::SEAL_TIMEOUT;
use crate::respond::lease::{Lease, SAVE_INTERVAL};
use crate::respond::receipt::{Subject, safe};
use crate::respond::{Moment, Person, RespondError, store};

/// Pause before a record that was not sealed is tried again.
const SEAL_AGAIN: Duration = Duration::from_secs(5);

const RELEASED: &str = "Released by local root while the agent did not run, or just before it was stopped";
const EXPIRED: &str =
    "The lease ended before the collector had all of the evidence; the copy here is removed";
const INTERRUPTED: &str = "Not kept; the agent was stopped before it could record why";

/// See the module.
pub(super) struct Keeper {
    context: Context,
    jobs: SyncSender<Job>,
    offering: Offering,
    held: Vec<Preserving>,
    collecting: Option<Collecting>,
    /// Ends that could not be recorded, to be tried again.
    unrecorded: Vec<(Uuid, Outcome, String, Value)>,
    /// Behind what was handed to the ledger of them.
    marker: Marker,
    /// When, by the clock since boot.
    record_at: Duration,
    saved: Duration,
}

impl Keeper {
    /// Reads where the last run stopped.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn open(
        context: Context,
        jobs: SyncSender<Job>,
        offering: Offering,
        now: Moment,
    ) -> Result<Self, RespondError> {
        let resume =
            |act: Preserving| Preserving { lease: act.lease.clone().resume(&context.boot, now.boot), ..act };
        let held: Vec<Preserving> = state::read(&context.database)?.into_iter().map(resume).collect();
        let known: Vec<Uuid> = held.iter().map(|act| act.id).collect();
        context.spool.keep_only(&known);
        let (collecting, unrecorded, record_at, saved) = (None, Vec::new(), Duration::ZERO, now.boot);
        let marker = Marker::default();
        Ok(Self { context, jobs, offering, held, collecting, unrecorded, marker, record_at, saved })
    }

    /// Takes up where the last run stopped: what waits goes on, what was being collected is begun anew.
    pub fn resume(&mut self, now: Moment) {
        let held: Vec<Uuid> = self.held.iter().map(|act| act.id).collect();
        for id in held {
            self.take_up(id, now);
        }
        self.tick(now);
    }

    fn take_up(&mut self, id: Uuid, now: Moment) {
        let Some(act) = self.held.iter().find(|act| act.id == id).cloned() else { return };
        // Its end was decided, and not recorded: the agent was killed in between, or did not run.
        match self.context.spool.end_of(id) {
            Some(Outcome::Confirmed) => return self.complete(id, now),
            Some(Outcome::Released) => return self.end(id, Outcome::Released, RELEASED, Value::Null, now),
            Some(Outcome::Expired) => return self.end(id, Outcome::Expired, EXPIRED, Value::Null, now),
            Some(_) => return self.end(id, Outcome::Failed, INTERRUPTED, Value::Null, now),
            None => {}
        }
        match &act.sealed {
            Some(sealed) if self.context.spool.size(id) != Some(sealed.sealed_bytes) => {
                let title =
                    "The evidence is gone from this host, or was changed, before the collector had all of it";
                self.end(id, Outcome::Failed, title, Value::Null, now);
            }
            Some(_) => {}
            None if act.attempts >= ATTEMPTS_MAX => {
                let title = format!("Not collected: the agent ended {ATTEMPTS_MAX} times while it collected");
                self.end(id, Outcome::Failed, &title, Value::Null, now);
            }
            None => {}
        }
    }

    /// Takes an order, whose receipt `received` was sealed before where it is a command.
    pub fn begin(&mut self, order: Order, now: Moment) {
        let may_begin = super::plan::may_begin(order.parties.as_ref(), self.held.len(), &self.context.spool);
        if let Err(why) = may_begin {
            let title = format!("Not collected: {}", safe(&why));
            return self.answer(&order.subject, order.id, Outcome::Failed, &title, Value::Null, now);
        }
        let (Action::Preserve { profiles, paths, process }, Some(parties)) = (order.action, order.parties)
        else {
            return;
        };
        let act = Preserving {
            id: order.id,
            step: order.subject.id.zip(order.subject.step.clone()),
            agent: parties.agent,
            profiles,
            paths,
            process,
            recipients: parties.recipients,
            attempts: 0,
            sealed: None,
            after: 0,
            signers: order.subject.signers.clone(),
            envelope_sha256: order.subject.envelope_sha256.clone(),
            reason: order.reason,
            ticket: order.ticket,
            since: now.wall,
            lease: Lease::start(&self.context.boot, now.boot, order.lease),
        };
        let told =
            store::update_command(act.id, Outcome::Received, "It is being collected".to_owned(), now.wall);
        if let Err(error) = self.write(vec![state::put(&act), told]) {
            let title = format!("Not collected, because it could not be written down first: {error}");
            // The writer may write it yet: then this comes after it.
            let removed = vec![state::remove(act.id)];
            let _not_yet = self.context.sealer.seal_durably(Vec::new(), removed, Duration::ZERO).is_err();
            return self.answer(&order.subject, order.id, Outcome::Failed, &title, Value::Null, now);
        }
        self.held.push(act);
    }

    /// A step waits no more for what is collected: it goes without a word, since its end was told.
    pub fn abandon(&mut self, act: Uuid) {
        if !self.held.iter().any(|held| held.id == act) {
            return;
        }
        self.cancel(act);
        if let Err(error) = self.write(vec![state::remove(act)]) {
            tracing::warn!(%error, %act, "evidence that nobody waits for is still written down; the next start ends it");
        }
        self.held.retain(|held| held.id != act);
        self.remove(act);
        self.show();
    }

    fn cancel(&mut self, id: Uuid) {
        if let Some(collecting) = self.collecting.as_mut().filter(|collecting| collecting.id == id) {
            collecting.cancel();
        }
    }

    /// A bundle is in the spool, or is not.
    pub fn collected(&mut self, id: Uuid, result: Result<Sealed, String>, now: Moment) {
        if self.collecting.as_ref().is_some_and(|collecting| collecting.id == id)
            && let Some(collecting) = self.collecting.take()
        {
            collecting.join();
        }
        // It was ended meanwhile: what the thread left goes.
        let Some(act) = self.held.iter().find(|act| act.id == id).cloned() else { return self.remove(id) };
        if let Some((_, outcome, ..)) = self.unrecorded.iter().find(|(ended, ..)| *ended == id) {
            return self.mark_end(id, *outcome);
        }
        if self.context.stop.is_set() {
            return;
        }
        let sealed = match result {
            Ok(sealed) => sealed,
            Err(why) => return self.fail(id, &why, now),
        };
        let title = format!(
            "{} files of evidence are collected, {} encrypted to the vendor",
            sealed.entries,
            format_size(sealed.sealed_bytes)
        );
        let detail = json!({ "action": "preserve", "lease_seconds": act.lease.remaining(now.boot).as_secs(), DETAIL: sealed });
        let mut applied = Preserving { sealed: Some(sealed), ..act };
        let told = store::update_command(id, Outcome::Applied, title.clone(), now.wall);
        match self.receipt(
            &applied.subject(),
            Outcome::Applied,
            &title,
            detail,
            vec![state::put(&applied), told],
        ) {
            Ok(after) => applied.after = after,
            Err(RespondError::NotInForce(_)) => return self.abandon(id),
            Err(error) => {
                // Nobody is told of what has no record: it is collected anew, or not at all.
                tracing::error!(%error, %id, "the receipt of evidence was not sealed");
                return self.end(
                    id,
                    Outcome::Failed,
                    "Not kept: its receipt could not be sealed",
                    Value::Null,
                    now,
                );
            }
        }
        self.held.iter_mut().filter(|held| held.id == id).for_each(|held| *held = applied.clone());
    }

    /// The collector holds all of a bundle.
    pub fn complete(&mut self, id: Uuid, now: Moment) {
        let Some(sealed) = self.held.iter().find(|act| act.id == id).and_then(|act| act.sealed.clone())
        else {
            return;
        };
        let detail = json!({ "sealed_bytes": sealed.sealed_bytes, "sealed_sha256": sealed.sealed_sha256 });
        self.end(
            id,
            Outcome::Confirmed,
            "The collector holds all of the evidence; the copy here is removed",
            detail,
            now,
        );
    }

    /// Ends what local root wants ended.
    pub fn release(&mut self, id: Option<Uuid>, person: &Person, now: Moment) -> Vec<ReleasedAction> {
        let meant = |act: &&Preserving| id.is_none_or(|id| act.id == id || act.command() == id);
        let meant: Vec<Uuid> = self.held.iter().filter(meant).map(|act| act.id).collect();
        let detail = json!({ "by": person, "released": now.wall });
        for id in &meant {
            self.end(
                *id,
                Outcome::Released,
                &format!("Released by {person}; the evidence here is removed"),
                detail.clone(),
                now,
            );
        }
        let problem = |id| {
            let unrecorded = "it is removed, but that could not be recorded yet; it is tried again";
            self.has_ended(id).then(|| unrecorded.to_owned())
        };
        let released = |id| ReleasedAction { id, action: "preserve".to_owned(), problem: problem(id) };
        meant.into_iter().map(released).collect()
    }

    /// Ends what is over, begins what waits, and shows it.
    pub fn tick(&mut self, now: Moment) {
        self.record_ends(now);
        let over = |act: &&Preserving| act.lease.remaining(now.boot).is_zero();
        let over: Vec<Uuid> =
            self.held.iter().filter(|act| over(act) && !self.has_ended(act.id)).map(|act| act.id).collect();
        for id in over {
            self.end(id, Outcome::Expired, EXPIRED, Value::Null, now);
        }
        if let Some(overdue) = self.collecting.take_if(|collecting| collecting.is_overdue()) {
            let id = overdue.id;
            tracing::error!(%id, "what is collected as evidence does not answer: it is given up");
            if !self.has_ended(id) {
                self.fail(id, "something that is read for it does not answer", now);
            }
        }
        if self.collecting.is_none() && !self.context.stop.is_set() {
            self.collect_next(now);
        }
        if now.boot.saturating_sub(self.saved) >= SAVE_INTERVAL {
            self.save(now);
        }
        self.show();
    }

    /// How long nothing has to be done.
    pub fn next_wake(&self, now: Moment) -> Duration {
        if !self.unrecorded.is_empty() {
            return SEAL_AGAIN;
        }
        let left = self.held.iter().map(|act| act.lease.remaining(now.boot)).min();
        left.unwrap_or(SAVE_INTERVAL).clamp(Duration::from_millis(200), SAVE_INTERVAL)
    }

    /// Saves what is left of the leases, and waits for the thread that collects: the stop signal is set.
    pub fn stop(mut self, now: Moment) {
        self.save(now);
        if let Some(mut collecting) = self.collecting.take() {
            collecting.cancel();
            collecting.join();
        }
    }

    fn collect_next(&mut self, now: Moment) {
        let next = self.held.iter().find(|act| act.sealed.is_none() && !self.has_ended(act.id)).cloned();
        let Some(mut act) = next else { return };
        let id = act.id;
        act.attempts = act.attempts.saturating_add(1);
        if let Err(error) = self.write(vec![state::put(&act)]) {
            tracing::error!(%error, %id, "evidence is not collected yet: it cannot be written down");
            return;
        }
        self.held.iter_mut().filter(|held| held.id == id).for_each(|held| held.attempts = act.attempts);
        match Collecting::begin(&self.context, &self.jobs, act) {
            Ok(collecting) => self.collecting = Some(collecting),
            Err(why) => self.fail(id, &why, now),
        }
    }

    fn fail(&mut self, id: Uuid, why: &str, now: Moment) {
        self.end(id, Outcome::Failed, &format!("Not collected: {}", safe(why)), Value::Null, now);
    }

    /// Whether it has ended, and only the record of that is missing.
    fn has_ended(&self, id: Uuid) -> bool {
        self.unrecorded.iter().any(|(ended, ..)| *ended == id)
    }

    /// Tries again to record what has ended. What was handed to the ledger before is decided once what comes after it is answered, so
    /// nothing is recorded twice; only the end of a step may be, since the sequence has to hear of it.
    fn record_ends(&mut self, now: Moment) {
        if self.unrecorded.is_empty() || now.boot < self.record_at {
            return;
        }
        self.record_at = now.boot.saturating_add(SEAL_AGAIN);
        if !self.marker.has_passed(&self.context.sealer) {
            return tracing::warn!("ends of evidence cannot be recorded yet: the ledger cannot be written");
        }
        let left: Vec<Uuid> = match state::read(&self.context.database) {
            Ok(left) => left.into_iter().map(|act| act.id).collect(),
            Err(error) => return tracing::warn!(%error, "ends of evidence cannot be recorded yet"),
        };
        for (id, outcome, title, detail) in std::mem::take(&mut self.unrecorded) {
            let is_step = self.held.iter().any(|act| act.id == id && act.step.is_some());
            if is_step || left.contains(&id) {
                self.end(id, outcome, &title, detail, now);
            } else {
                self.forget(id);
            }
        }
    }

    /// It is over, whatever hinders: the file goes at once, and the record of it is tried until it is sealed.
    fn end(&mut self, id: Uuid, outcome: Outcome, title: &str, detail: Value, now: Moment) {
        let Some(act) = self.held.iter().find(|act| act.id == id).cloned() else { return };
        if self.has_ended(id) {
            return;
        }
        self.cancel(id);
        // It may be what fills the disk that the record is for. How it ended stays: a kill may come before the record.
        self.mark_end(id, outcome);
        let told = store::update_command(id, outcome, title.to_owned(), now.wall);
        let writes = vec![state::remove(id), told];
        match self.receipt(&act.subject(), outcome, title, detail.clone(), writes) {
            Ok(_) => {}
            Err(RespondError::NotInForce(_)) => return self.abandon(id),
            Err(error) => {
                tracing::error!(%error, %id, "the end of evidence was not recorded; trying again");
                self.unrecorded.push((id, outcome, title.to_owned(), detail));
                self.marker.reset();
                self.record_at = now.boot.saturating_add(SEAL_AGAIN);
                return self.show();
            }
        }
        self.forget(id);
    }

    /// Its end is recorded.
    fn forget(&mut self, id: Uuid) {
        self.held.retain(|act| act.id != id);
        // A thread that still writes to it removes it when it ends.
        self.remove(id);
        self.show();
    }

    fn mark_end(&self, id: Uuid, outcome: Outcome) {
        if let Err(error) = self.context.spool.end(id, outcome) {
            tracing::error!(%error, %id, "evidence cannot be removed from the spool yet; it is tried again");
        }
    }

    fn remove(&self, id: Uuid) {
        if let Err(error) = self.context.spool.remove(id) {
            tracing::error!(%error, %id, "evidence cannot be removed from the spool; the next start tries again");
        }
    }

    fn save(&mut self, now: Moment) {
        self.saved = now.boot;
        for act in &mut self.held {
            act.lease = act.lease.saved(now.boot);
        }
        let writes: Vec<StateWrite> = self.held.iter().map(state::save_lease).collect();
        if !writes.is_empty()
            && let Err(error) = self.write(writes)
        {
            tracing::warn!(%error, "what is left of the leases of evidence was not saved");
        }
    }

    fn answer(&self, subject: &Subject, id: Uuid, outcome: Outcome, title: &str, detail: Value, now: Moment) {
        let write = store::update_command(id, outcome, title.to_owned(), now.wall);
        if let Err(error) = self.receipt(subject, outcome, title, detail, vec![write]) {
            tracing::error!(%error, %id, "a receipt was not sealed");
        }
    }

    /// Seals a receipt with the state that goes with it; gives the size of the ledger then.
    fn receipt(
        &self,
        subject: &Subject,
        outcome: Outcome,
        title: &str,
        detail: Value,
        writes: Vec<StateWrite>,
    ) -> Result<u64, RespondError> {
        if subject.step.is_some() {
            let (subject, title) = (subject.clone(), title.to_owned());
            return (self.context.steps)(StepReceipt { subject, outcome, title, detail, writes });
        }
        let draft = subject.receipt(outcome, None, title, detail)?;
        let sealed = self.context.sealer.seal_durably(vec![draft], writes, SEAL_TIMEOUT)?;
        Ok(sealed.first.saturating_add(sealed.count))
    }

    fn write(&self, writes: Vec<StateWrite>) -> Result<(), RespondError> {
        self.context.sealer.seal_durably(Vec::new(), writes, SEAL_TIMEOUT)?;
        Ok(())
    }

    fn show(&self) {
        let ready = |act: &Preserving| {
            Some(Offer { id: act.id, total: act.sealed.as_ref()?.sealed_bytes, after: act.after })
        };
        let offers = self.held.iter().filter_map(ready).filter(|offer| !self.has_ended(offer.id)).collect();
        self.offering.show(offers);
        self.context.status.set_evidence(&self.held);
    }
}
