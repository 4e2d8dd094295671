//! Runs a recorded log through the parsers and detectors that the agent runs.
//!
//! Time is the lines' own: the detectors are told the time of each event, and what falls due in between is raised
//! first; at the end of the log everything that was still open is raised. Nothing is kept but what the detectors keep, so a
//! log of any length is read in the same memory.

use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::Finding;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

pub mod capture;
pub mod clock;
pub mod lines;
pub mod network;

use crate::detect::logins::{Detector, Thresholds};
use crate::sense::logins::journal::Entry;
use crate::sense::logins::line::Line;
use crate::sense::logins::parse::rules::ServiceRules;
use crate::sense::logins::parse::{Parsers, Scratch};
use crate::sense::logins::{LoginEvent, Origin, Place, Source};
use clock::LineClock;

/// Findings that one tick may raise; more come with the next.
const FINDINGS_MAX: usize = 1_024;
/// What the detectors would store is thrown away after so many events: it is made when it is taken.
const FORGET_EVERY: u64 = 4_096;
/// After the end, time goes on for so long that every window has closed: detectors of slow attempts look back some weeks.
const AFTERWARDS: Duration = Duration::from_secs(60 * 86_400);
/// Steps that time takes meanwhile.
const AFTERWARDS_STEPS: u32 = 4_096;

/// What comes of a log.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// An event and the line that it stands in.
    Event(u64, &'a LoginEvent),
    /// A finding.
    Finding(&'a Finding),
}

/// What became of lines, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Lines read, those that were too long included.
    pub lines: u64,
    /// Longer than the bound, and left out.
    pub too_long: u64,
    /// Entries of the journal whose sender was not what it claimed to be.
    pub untrusted: u64,
    /// Events.
    pub events: u64,
    /// Findings told.
    pub findings: u64,
}

/// Why a line led to nothing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// The service whose rules were tried.
    pub service: String,
    /// Line of the rule in its file; 0 where the parser is no rule file.
    pub rule: usize,
    /// Bytes of the message that it took.
    pub bytes: usize,
    /// What it wanted next.
    pub expected: String,
}

/// Reads lines, one after the other.
pub struct Replay {
    parsers: Arc<Parsers>,
    /// The only service to read by; none for whichever a line is from.
    only: Option<usize>,
    detector: Detector,
    clock: LineClock,
    scratch: Scratch,
    line: u64,
    ids: u64,
    /// The second in which was last looked for what is due.
    ticked: i64,
    /// Counts.
    pub tally: Tally,
}

impl Replay {
    /// Reads by the parser called `only`, or by all; none when there is no such parser.
    pub fn new(
        parsers: Arc<Parsers>,
        only: Option<&str>,
        thresholds: Thresholds,
        clock: LineClock,
    ) -> Option<Self> {
        let only = match only {
            Some(name) => Some(parsers.heads().position(|service| service.name == name)?),
            None => None,
        };
        let detector = Detector::new(thresholds);
        let (scratch, tally) = (Scratch::default(), Tally::default());
        Some(Self { parsers, only, detector, clock, scratch, line: 0, ids: 0, ticked: i64::MIN, tally })
    }

    /// A line that was too long to be read.
    pub fn too_long(&mut self) {
        self.line += 1;
        self.tally.lines += 1;
        self.tally.too_long += 1;
    }

    /// Reads a line; whether it led to an event.
    pub fn line<E>(
        &mut self,
        bytes: &[u8],
        tell: &mut impl FnMut(Outcome<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        self.line += 1;
        self.tally.lines += 1;
        let Some(event) = self.read(bytes) else { return Ok(false) };
        self.observe(&event, tell)?;
        Ok(true)
    }

    fn read(&mut self, bytes: &[u8]) -> Option<LoginEvent> {
        let Self { parsers, only, clock, scratch, line, .. } = self;
        let only = only.and_then(|index| parsers.at(index));
        let source = Source::Log;
        let place = Place::Line { line: *line };
        if let Some(head) = Line::parse(bytes) {
            let readers = parsers.readers(head.program);
            let parsed = match only {
                Some(service) if speaks(service, readers.known, &head) => {
                    Some(parsers.read(readers, head.message, scratch)?)
                }
                // A service's own log may begin like syslog's.
                Some(service) if !service.logs.is_empty() => None,
                Some(_) => return None,
                None if readers.known => Some(parsers.read(readers, head.message, scratch)?),
                // So may any, of a program that nobody knows.
                None => parsers.generic(head.message),
            };
            if let Some(parsed) = parsed {
                let origin =
                    Origin { time: clock.of_stamp(head.stamp), pid: head.pid, source, place, sender: None };
                return Some(LoginEvent::new(&parsed, head.message, origin));
            }
        }
        let parsed = match only {
            Some(service) => service.line(bytes, scratch),
            None => parsers.line(bytes, scratch),
        }?;
        let origin = Origin { time: clock.of_written(parsed.time), pid: None, source, place, sender: None };
        Some(LoginEvent::new(&parsed, bytes, origin))
    }

    /// Reads a line of `journalctl -o json`; whether it led to an event.
    pub fn entry<E>(
        &mut self,
        bytes: &[u8],
        tell: &mut impl FnMut(Outcome<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        self.line += 1;
        self.tally.lines += 1;
        let Some(entry) = Entry::parse(bytes) else { return Ok(false) };
        let (Some(identifier), Some(message)) = (entry.identifier(), entry.message()) else {
            return Ok(false);
        };
        let only = self.only.and_then(|index| self.parsers.at(index));
        if only.is_some_and(|service| !service.speaks_as(&identifier)) {
            return Ok(false);
        }
        let Some(parsed) = self.parsers.message(&identifier, &message, &mut self.scratch) else {
            return Ok(false);
        };
        if !entry.is_genuine(&identifier, self.parsers.sender(&identifier)) {
            self.tally.untrusted += 1;
            return Ok(false);
        }
        let sender = entry.sender();
        let time = entry.time().or(self.clock.now()).unwrap_or_default();
        let place = Place::Line { line: self.line };
        let origin = Origin { time, pid: sender.pid, source: Source::Journal, place, sender: Some(sender) };
        let event = LoginEvent::new(&parsed, &message, origin);
        self.observe(&event, tell)?;
        Ok(true)
    }

    fn observe<E>(
        &mut self,
        event: &LoginEvent,
        tell: &mut impl FnMut(Outcome<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let now = self.clock.now_at(event.time);
        self.tick_at(now, tell)?;
        self.tally.events += 1;
        tell(Outcome::Event(self.line, event))?;
        let ids = &mut self.ids;
        let mut next_id = || {
            *ids += 1;
            Uuid::from_u64_pair(0, *ids)
        };
        let findings = self.detector.observe(event, now, &mut next_id);
        if self.tally.events.is_multiple_of(FORGET_EVERY) {
            // What would be stored for a restart is of no use here.
            let _state = self.detector.take_changes();
        }
        self.told(&findings, tell)
    }

    /// What falls due is raised once a second of the lines' time, as the sensor does it after each batch of lines.
    fn tick_at<E>(
        &mut self,
        now: Timestamp,
        tell: &mut impl FnMut(Outcome<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if now.seconds() == self.ticked {
            return Ok(());
        }
        self.ticked = now.seconds();
        self.tick(now, tell)
    }

    fn tick<E>(
        &mut self,
        now: Timestamp,
        tell: &mut impl FnMut(Outcome<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while self.detector.due_in(now) == Some(Duration::ZERO) {
            let findings = self.detector.tick(now, FINDINGS_MAX);
            self.told(&findings, tell)?;
            if findings.len() < FINDINGS_MAX {
                break;
            }
        }
        Ok(())
    }

    /// Lets time pass until nothing is open any more.
    pub fn finish<E>(&mut self, tell: &mut impl FnMut(Outcome<'_>) -> Result<(), E>) -> Result<(), E> {
        let Some(mut now) = self.clock.now() else { return Ok(()) };
        let end = now.plus(AFTERWARDS);
        for _ in 0..AFTERWARDS_STEPS {
            let Some(wait) = self.detector.due_in(now) else { break };
            // At least a second a step: something that is due again at once must not hold time still.
            now = now.plus(wait.max(Duration::from_secs(1)));
            if now > end {
                break;
            }
            self.tick(now, tell)?;
        }
        Ok(())
    }

    fn told<E>(
        &mut self,
        findings: &[Finding],
        tell: &mut impl FnMut(Outcome<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for finding in findings.iter().filter(|finding| !is_event(&finding.rule)) {
            self.tally.findings += 1;
            tell(Outcome::Finding(finding))?;
        }
        Ok(())
    }

    /// How far each parser got with a line that led to nothing, the furthest first.
    pub fn explain(&self, bytes: &[u8]) -> Vec<Explanation> {
        let head = Line::parse(bytes);
        let only = self.only.and_then(|index| self.parsers.at(index));
        let concerned = |service: &&ServiceRules| match (only, head) {
            (Some(only), _) => service.name == only.name,
            (None, Some(head)) => service.speaks_as(head.program) || service.speaks_as(b"*"),
            (None, None) => !service.logs.is_empty(),
        };
        let mut all = Vec::new();
        for service in self.parsers.services().filter(concerned) {
            all.extend(explain_by(service, head.as_ref(), bytes));
        }
        if let (None, Some(head)) = (only, head)
            && !self.parsers.knows(head.program)
        {
            let expected =
                format!("no parser is for the program {:?}", String::from_utf8_lossy(head.program));
            all.insert(0, Explanation { service: "none".to_owned(), rule: 0, bytes: usize::MAX, expected });
        }
        all.sort_by_key(|explanation| std::cmp::Reverse(explanation.bytes));
        for explanation in &mut all {
            explanation.bytes = explanation.bytes.min(bytes.len());
        }
        all
    }
}

fn explain_by(service: &ServiceRules, head: Option<&Line<'_>>, bytes: &[u8]) -> Vec<Explanation> {
    let tell = |rule, bytes, expected| Explanation { service: service.name.clone(), rule, bytes, expected };
    if let Some(head) = head.filter(|head| !service.speaks_as(head.program) && !service.speaks_as(b"*")) {
        let expected = format!(
            "a line of {}, not of {:?}",
            service.programs.join(" or "),
            String::from_utf8_lossy(head.program)
        );
        return vec![tell(0, 0, expected)];
    }
    if service.builtin.is_some() {
        return vec![tell(0, 0, "not a message about a login, by the parser that is built in".to_owned())];
    }
    let reached = service.explain(head.map_or(bytes, |head| head.message), head.is_none());
    reached.into_iter().map(|(bytes, rule, expected)| tell(rule, bytes, expected)).collect()
}

/// Whether the line is one of the service's programs, or of none that has a parser (is `known`) where the service reads all.
fn speaks(service: &ServiceRules, known: bool, head: &Line<'_>) -> bool {
    service.speaks_as(head.program) || (!known && service.speaks_as(b"*"))
}

/// Whether a finding says no more than the event that it is about, which was told already.
fn is_event(rule: &str) -> bool {
    matches!(
        rule,
        "login.success"
            | "login.failure"
            | "login.invalid-user"
            | "login.probe"
            | "login.logout"
            | "privilege.success"
            | "privilege.failure"
            | "web.request"
    )
}

/// The lines that a finding is about, as far as its evidence has them, in order.
pub fn lines_of(finding: &Finding) -> Vec<u64> {
    let evidence = &finding.evidence;
    let places =
        evidence.get("places").and_then(|places| places.as_array()).map(Vec::as_slice).unwrap_or_default();
    let event = evidence.get("event").and_then(|event| event.get("place"));
    let mut lines: Vec<u64> =
        places.iter().chain(event).filter_map(|place| place.get("line")?.as_u64()).collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}
