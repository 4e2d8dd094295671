//! Commands that could not be written down in time, on a full disk for one, and so are not done. The writer keeps trying, and may write one down long
//! after that: then its id is spent and the vendor was told that it is being carried out, so it is answered for as failed. One that is never
//! written down is no trace of anything; the collector sends it again.

use std::collections::VecDeque;
use std::time::Duration;

use picket_protocol::command::Outcome;
use picket_protocol::record::Draft;
use serde_json::Value;
use uuid::Uuid;

use super::super::store::{self, NewCommand};
use super::{Engine, Moment, RespondError, SEAL_TIMEOUT, Subject};
use crate::ledger::SealError;

/// Ids that are remembered; of more the oldest are answered for at the next start.
const GIVEN_UP_MAX: usize = 256;
/// How often it is looked whether one was written down.
const LOOK: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct GivenUp(VecDeque<Uuid>);

impl GivenUp {
    /// When to look again.
    pub(super) fn next_look(&self) -> Option<Duration> {
        (!self.0.is_empty()).then_some(LOOK)
    }
}

impl Engine {
    /// Writes down a command that is to be carried out.
    pub(super) fn accept(
        &mut self,
        id: Uuid,
        drafts: Vec<Draft>,
        row: NewCommand,
    ) -> Result<(), RespondError> {
        match self.context.sealer.seal_durably(drafts, vec![store::insert_command(row)], SEAL_TIMEOUT) {
            Ok(_) => {
                self.given_up.0.retain(|given_up| *given_up != id);
                Ok(())
            }
            Err(error) => {
                if matches!(error, SealError::Timeout | SealError::Storage(_)) {
                    self.given_up.0.push_back(id);
                    if self.given_up.0.len() > GIVEN_UP_MAX {
                        self.given_up.0.pop_front();
                    }
                }
                Err(error.into())
            }
        }
    }

    /// Answers for those that were written down after all.
    pub(super) fn answer_for_given_up(&mut self, now: Moment) -> Result<(), RespondError> {
        if self.given_up.0.is_empty() {
            return Ok(());
        }
        let title = "Not done, because it could not be written down in time";
        let (mut drafts, mut writes, mut answered) = (Vec::new(), Vec::new(), Vec::new());
        for row in self.store.unfinished()? {
            let Some(id) = row.id.filter(|id| self.given_up.0.contains(id)) else { continue };
            let subject = Subject {
                id: row.id,
                step: None,
                signers: row.signers,
                envelope_sha256: row.envelope_sha256,
            };
            drafts.push(subject.receipt(Outcome::Failed, None, title, Value::Null)?);
            writes.push(store::update_command(id, Outcome::Failed, title.to_owned(), now.wall));
            answered.push(id);
        }
        if drafts.is_empty() {
            return Ok(());
        }
        self.seal(drafts, writes)?;
        self.given_up.0.retain(|id| !answered.contains(id));
        Ok(())
    }
}
