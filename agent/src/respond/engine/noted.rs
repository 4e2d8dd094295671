//! What local root said of the vendor's commands while the agent did not run ([`held`]): it holds from the start on, and as long as the file is there;
//! it is recorded as soon as that is possible.

use std::time::Duration;

use picket_protocol::finding::Severity;
use serde_json::json;

use super::super::held::{self, Note};
use super::super::lease::{Lease, SAVE_INTERVAL};
use super::super::receipt::lifecycle;
use super::super::store;
use super::{Engine, Moment, Person, RespondError};

/// What is known of the note.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// One that is recorded and whose file is still there.
    recorded: Option<Note>,
    /// When it was last tried to record one.
    tried: Option<Duration>,
}

impl Engine {
    pub(super) fn is_noted(&self) -> bool {
        self.context.layout.held_offline().symlink_metadata().is_ok()
    }

    /// Before a command is judged: one may have been made while the agent was starting, or what was given up be written since.
    pub(super) fn look_at_hold(&mut self, now: Moment) {
        if !self.is_noted() && !self.unsettled.is_open() {
            return;
        }
        match self.store.hold() {
            Ok(hold) => self.hold = hold.map(|lease| lease.resume(&self.context.boot, now.boot)),
            Err(error) => tracing::error!(%error, "it cannot be read whether commands are held back"),
        }
    }

    /// Before something newer is recorded: where a note stands that would hold against it if the agent died right after, it is exchanged. Gives
    /// the one that stood there. Where commands are to be obeyed again it stays until that is recorded.
    pub(super) fn exchange_note(
        &self,
        person: &Person,
        lease: Option<&Lease>,
        now: Moment,
    ) -> Result<Option<Note>, RespondError> {
        let path = self.context.layout.held_offline();
        let before = if self.is_noted() { held::read(&path).ok().flatten() } else { None };
        if let (Some(_), Some(lease)) = (&before, lease) {
            let note = Note { by: person.clone(), time: now.wall, lease: Some(lease.clone()) };
            held::keep(&path, &note).map_err(RespondError::Note)?;
        }
        Ok(before)
    }

    /// What was to take its place was not recorded.
    pub(super) fn put_note_back(&self, before: Option<&Note>) {
        let Some(before) = before else { return };
        if let Err(error) = held::keep(&self.context.layout.held_offline(), before) {
            tracing::error!(%error, "what local root said of commands while the agent did not run cannot be kept as it was");
        }
    }

    /// Records it, if there is one.
    pub(super) fn record_note(&mut self, now: Moment) -> Result<(), RespondError> {
        let path = self.context.layout.held_offline();
        let soon = |tried: Duration| now.boot.saturating_sub(tried) < SAVE_INTERVAL;
        if !self.is_noted() || self.noted.tried.is_some_and(soon) {
            return Ok(());
        }
        // The last attempt may be written yet.
        if self.noted.tried.is_some() && self.unsettled.is_open() {
            return Ok(());
        }
        self.noted.tried = Some(now.boot);
        let note = match held::read(&path) {
            Ok(Some(note)) => note,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::error!(%error, "what local root said of commands while the agent did not run cannot be read; say it again: agent hold-commands");
                return Ok(());
            }
        };
        if self.noted.recorded.as_ref() != Some(&note) {
            self.seal_note(&note, now)?;
            self.noted.recorded = Some(note);
        }
        // Root may have said something newer while this was recorded, which is to be recorded as well.
        if held::read(&path).is_ok_and(|newer| newer.is_some() && newer != self.noted.recorded) {
            self.noted = Noted::default();
            return Ok(());
        }
        held::forget(&path).map_err(RespondError::Note)?;
        self.noted = Noted::default();
        Ok(())
    }

    fn seal_note(&mut self, note: &Note, now: Moment) -> Result<(), RespondError> {
        let lease = note.lease.clone().map(|lease| lease.resume(&self.context.boot, now.boot));
        self.hold.clone_from(&lease);
        let end = |lease: Lease| (lease.boot, lease.ends.as_millis());
        // An earlier attempt may have succeeded after it had been given up.
        if self.store.lease(store::HOLD)?.map(end) == lease.clone().map(end) {
            return Ok(());
        }
        let (event, what) = match &lease {
            Some(_) => ("commands-held", "held back"),
            None => ("commands-resumed", "no longer held back"),
        };
        let title = format!("Commands are {what}, as {} said while the agent did not run", note.by);
        let seconds = lease.as_ref().map(|lease| lease.remaining(now.boot).as_secs());
        let detail = json!({ "by": note.by, "said": note.time, "seconds": seconds });
        let draft = lifecycle(Severity::Medium, event, title, detail)?;
        self.seal(vec![draft], vec![store::set_lease(store::HOLD.to_owned(), lease)])
    }
}
