//! The detector of the file sensor: changes in, findings out, through the stages of this module.
//!
//! Pure: time and identifiers are given. What a stage must not forget when the agent dies it asks to be written,
//! in the same transaction as the findings and the baseline row of the change.

use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::Finding;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::acceptance::Acceptance;
use super::agent::AgentFiles;
use super::quiet::{self, Quiet};
use crate::detect::acts::Stage as Acts;
use crate::detect::logs::Logs;
use crate::detect::mass_change::canary::Canaries;
use crate::detect::mass_change::{Habits, MassChange, Seen, Thresholds};
use crate::detect::packages::hands::{self, KnownHand};
use crate::detect::packages::proof::Answer;
use crate::detect::packages::window::Window;
use crate::detect::packages::{Stage as Packages, tools};
use crate::ledger::StateWrite;
use crate::respond::own_acts::By;
use crate::sense::files::change::FileChange;
use crate::sense::files::logs::LogChange;

/// What came of an observation, or of time going by.
#[derive(Default)]
pub struct Outcome {
    /// Findings to seal.
    pub findings: Vec<Finding>,
    /// State to write with them.
    pub writes: Vec<StateWrite>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Detector {
    mass: MassChange,
    /// Files that nobody has a reason to touch.
    pub canaries: Canaries,
    /// Where files come and go all day.
    pub quiet: Arc<Quiet>,
    /// What is the agent's own.
    pub agent: AgentFiles,
    /// Explains what package managers did.
    pub packages: Packages,
    /// Gathers what is one act.
    pub acts: Acts,
    /// The tool behind the change that is observed next, where one is known.
    pub hand: Option<KnownHand>,
    /// Planned work, open or over.
    pub window: Option<Window>,
    /// Set while changes are looked at that somebody accepts.
    pub acceptance: Option<Acceptance>,
    /// The commands by which the agent itself did what is observed next.
    pub own: Option<By>,
    logs: Logs,
}

impl Detector {
    /// A detector that remembers what programs are in the habit of.
    pub fn new(thresholds: Thresholds, habits: Habits) -> Self {
        Self { mass: MassChange::new(thresholds, habits), ..Self::default() }
    }

    /// Observes a change.
    pub fn observe(
        &mut self,
        change: &FileChange,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Outcome {
        // A package manager replaces hundreds of files: what it does not account for comes out as it is.
        let is_quiet = self.quiet.covers(&change.path);
        let own = self.own.take();
        let passing = own.is_some() || (is_quiet && quiet::is_passing(&change.path));
        let seen = if passing || self.packages.may_be_unpacking(change) {
            Seen::default()
        } else {
            self.mass.observe(change, now, new_id)
        };
        let finding = super::finding(change, new_id());
        let finding = finding.filter(|finding| !is_quiet || quiet::says_something(change, finding));
        let mut finding = self.agent.judge(change, finding);
        if let Some(finding) = &mut finding {
            if let (Some(id), Some(evidence)) = (seen.part_of, finding.evidence.as_object_mut()) {
                evidence.insert("part_of".to_owned(), id.to_string().into());
            }
            if let Some(by) = &own {
                by.explain(finding);
            }
            tools::explain(change, finding);
            if let Some(hand) = &self.hand {
                hands::explain(finding, hand);
            }
        }
        let finding = self.canaries.judge(change, finding);
        // What is accepted, or the agent's own, waits for no other explanation.
        let settled = self.acceptance.is_some() || own.is_some();
        let (finding, acted) = match settled {
            true => (finding, Outcome::default()),
            false => self.acts.observe(change, finding, self.packages.may_hold(change), now),
        };
        let (finding, mut writes) = match settled {
            true => (finding, Vec::new()),
            false => self.packages.observe(change, finding, now),
        };
        writes.extend(acted.writes);
        writes.extend(self.habit_writes());
        let findings = finding.into_iter().chain(acted.findings).chain(seen.findings).collect();
        self.explained(Outcome { findings, writes })
    }

    /// Takes in what the package databases say of all that waits.
    pub fn answer(&mut self, answer: Answer, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid) -> Outcome {
        let outcome = self.packages.answer(answer, now, new_id);
        self.explained(outcome)
    }

    /// Observes what a log came to.
    pub fn observe_log(
        &mut self,
        change: &LogChange,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Outcome {
        let findings = self.logs.observe(change, now, new_id).into_iter().collect();
        self.explained(Outcome { findings, writes: Vec::new() })
    }

    /// Changes whose findings wait to be explained.
    pub fn held(&self) -> usize {
        self.packages.waiting() + self.acts.waiting()
    }

    /// Gives what is due by the clock.
    pub fn tick(&mut self, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid) -> Outcome {
        let mut findings = self.mass.tick(now, new_id);
        findings.extend(self.logs.tick(now));
        let mut writes = self.habit_writes();
        let acted = self.acts.tick(now);
        findings.extend(acted.findings);
        writes.extend(acted.writes);
        self.explained(Outcome { findings, writes })
    }

    /// How long until [`Detector::tick`] has something to give; none while nothing is held.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        let acts = self.acts.due_in(now);
        self.mass.due_in(now).into_iter().chain(self.logs.due_in(now)).chain(acts).min()
    }

    fn habit_writes(&mut self) -> Vec<StateWrite> {
        self.mass.take_habits().map(write_habits).into_iter().collect()
    }

    /// Planned work explains what happened while it went on, and whoever accepts changes what he accepts.
    fn explained(&mut self, mut outcome: Outcome) -> Outcome {
        if let Some(window) = &self.window {
            outcome.findings.iter_mut().for_each(|finding| window.explain(finding));
        }
        if let Some(acceptance) = &mut self.acceptance {
            outcome.findings.iter_mut().for_each(|finding| acceptance.explain(finding));
        }
        outcome
    }
}

/// A habit without a state is forgotten.
fn write_habits(rows: Vec<(String, String)>) -> StateWrite {
    Box::new(move |transaction| {
        for (key, state) in &rows {
            let mut statement = if state.is_empty() {
                transaction.prepare_cached("DELETE FROM file_habit WHERE key = ?1 AND ?2 = ''")?
            } else {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO file_habit (key, state) VALUES (?1, ?2)")?
            };
            statement.execute([key, state])?;
        }
        Ok(())
    })
}
