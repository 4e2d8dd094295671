//! Logs that fall silent: growth in, and which log that used to grow steadily does not any more. Pure.
//!
//! **A habit** is learned for each family of logs (`syslog` and all it is rotated to), from its growth alone: in which of
//! the last 24 hours it grew, its longest pause of the last weeks, and which program wrote. Only a log that grew in
//! nearly all of these hours is watched for silence; ordinary idle logs never are.
//!
//! **Silent** is a log whose writer has ended, is not there again, and left nobody who holds the log open
//! ([`Thresholds::grace`] is for restarts and upgrades); or one that is silent several times as long as it ever was,
//! while others speak, after a habit of more than a week ([`Thresholds::learn`]: weekends are in it).
//! Silence counts only while the agent runs and the host is awake. A log that goes on under another name in the same
//! directory (by date, by weekday) hands its habit on and is not silent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

/// Families of logs whose habit is kept; as many as logs are followed.
const HABITS_MAX: usize = 1_024;
/// Processes of one program that are remembered as writers: a server has some workers.
const WRITERS_MAX: usize = 4;
/// The same program wrote so often before its end means anything: not the one line of a command.
const WRITES_MIN: u32 = 4;
/// Writes beyond which they count no more, so that whoever takes over in earnest is the writer after as many of his own.
const WRITES_MAX: u32 = 16;
/// Spans that a habit looks back.
const SPANS: u32 = 24;
/// Logs that a silence names as speaking.
const SPEAKING_MAX: usize = 5;

/// When is silence. Each with the reason for its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// What a habit counts in: an hour, since cron writes at least that often.
    pub span: Duration,
    /// Of the last 24 spans, in how many a steady log grew: 20. A nightly job does not, nor what rests at night.
    pub active: u32,
    /// How long a writer that ended may take to come back: 2 min, longer than any restart or upgrade.
    pub grace: Duration,
    /// How long a log is known before a pause alone means anything: 8 days.
    pub learn: Duration,
    /// So many times its longest pause: 4.
    pub pauses: u32,
    /// And at least: 15 min.
    pub pause_min: Duration,
    /// How often steady logs are looked after: 60 s.
    pub check: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            span: Duration::from_secs(3_600),
            active: 20,
            grace: Duration::from_secs(120),
            learn: Duration::from_secs(8 * 86_400),
            pauses: 4,
            pause_min: Duration::from_secs(900),
            check: Duration::from_secs(60),
        }
    }
}

/// Both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The wall clock.
    pub wall: Timestamp,
    /// How long the agent has run while the host was awake.
    pub awake: Duration,
}

/// A process that wrote.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began, in ticks since boot; none when it had ended before that was looked at.
    pub ticks: Option<u64>,
}

/// What a process runs, and in which container.
pub type Program<'a> = (&'a Text, Option<&'a str>);

/// Who writes a log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Writer {
    /// The program.
    pub program: Text,
    /// The container that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its processes, the one that wrote last at the end.
    pub processes: Vec<Process>,
    /// How much more often growth was seen to be its than another's, at most 16.
    pub writes: u32,
}

/// What is known of the writer of a log that is quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody was named.
    Unknown,
    /// It runs, or runs again, or another process holds the log open for writing.
    Lives,
    /// It has ended, its program does not run, and nobody holds the log.
    Gone,
}

/// A log that is silent.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Silence {
    /// It has not grown since.
    pub since: Timestamp,
    /// Seconds of silence, while the agent ran and the host was awake.
    pub seconds: u64,
    /// The longest pause that it was known to make, in seconds.
    pub longest_pause_seconds: u64,
    /// Its writer has ended.
    pub writer_ended: bool,
    /// Who wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<Writer>,
    /// Others that grew meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub speaking: Vec<Text>,
    /// It is written again: the silence is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Habit {
    /// When it was first seen to grow.
    since: Timestamp,
    /// When it last grew.
    last: Timestamp,
    /// When it began to grow after its last long pause.
    run: Timestamp,
    /// The span of `last`; in bit n of `active`: it grew n spans before.
    span: i64,
    active: u32,
    /// The longest pauses, in milliseconds, of this stretch of seven times 24 spans and of the one before.
    pauses: [u64; 2],
    stretch: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    writer: Option<Writer>,
    /// It was told to be silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<Silence>,
    /// When it last grew in this run of the agent; the beginning of the run when it did not.
    #[serde(skip)]
    awake: Duration,
    /// Since when its writer is known to be gone.
    #[serde(skip)]
    gone: Option<Duration>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Silences {
    thresholds: Thresholds,
    habits: BTreeMap<PathBuf, Habit>,
    changed: BTreeSet<PathBuf>,
}

impl Silences {
    /// From rows as [`Silences::take_changes`] gives them; what cannot be read is learned anew.
    pub fn restore(thresholds: Thresholds, rows: impl IntoIterator<Item = (PathBuf, String)>) -> Self {
        let read = |(log, state): (PathBuf, String)| Some((log, serde_json::from_str(&state).ok()?));
        let habits = rows.into_iter().filter_map(read).take(HABITS_MAX).collect();
        Self { thresholds, habits, changed: BTreeSet::new() }
    }

    /// What changed since the last time; none for what is forgotten.
    pub fn take_changes(&mut self) -> Vec<(PathBuf, Option<String>)> {
        let row = |log: PathBuf| {
            let state = self.habits.get(&log).and_then(|habit| serde_json::to_string(habit).ok());
            (log, state)
        };
        std::mem::take(&mut self.changed).into_iter().map(row).collect()
    }

    /// A log of the family grew. Gives what was told of its silence, when that is over now.
    pub fn grew(&mut self, log: &Path, by: Option<(Program<'_>, Process)>, at: At) -> Option<Silence> {
        let stretch_of = |span: i64| span.div_euclid(i64::from(7 * SPANS));
        let span = span_of(at.wall, self.thresholds.span);
        if !self.habits.contains_key(log) {
            self.make_room();
            let habit = Habit {
                since: at.wall,
                last: at.wall,
                run: at.wall,
                span,
                active: 1,
                pauses: [0; 2],
                stretch: stretch_of(span),
                writer: None,
                told: None,
                awake: at.awake,
                gone: None,
            };
            self.habits.insert(log.to_path_buf(), habit);
        }
        let thresholds = self.thresholds;
        let habit = self.habits.get_mut(log)?;
        let pause = at.awake.saturating_sub(habit.awake);
        if pause > thresholds.long_pause(habit) {
            habit.run = at.wall;
        }
        match stretch_of(span).saturating_sub(habit.stretch) {
            0 => {}
            1 => habit.pauses = [0, habit.pauses[0]],
            _ => habit.pauses = [0, habit.pauses.iter().copied().max().unwrap_or(0)],
        }
        habit.stretch = stretch_of(span);
        // A silence that was told was none of its pauses.
        let told = habit.told.take();
        if told.is_none() {
            habit.pauses[0] = habit.pauses[0].max(millis(pause));
        }
        let spans = u32::try_from(span.saturating_sub(habit.span)).unwrap_or(0);
        habit.active = habit.active.checked_shl(spans).unwrap_or(0) | 1;
        // A clock that was set back begins a new habit of hours.
        if span < habit.span {
            habit.active = 1;
            habit.since = at.wall;
        }
        (habit.span, habit.last, habit.awake, habit.gone) = (span, at.wall, at.awake, None);
        if let Some((program, process)) = by {
            habit.write(program, process);
        }
        self.changed.insert(log.to_path_buf());
        told.map(|told| Silence { over: true, seconds: pause.as_secs(), ..told })
    }

    /// It is no log any more, or what became of it was told.
    pub fn forget(&mut self, log: &Path) {
        if self.habits.remove(log).is_some() {
            self.changed.insert(log.to_path_buf());
        }
    }

    /// Logs that are steady, so that their silence would be told.
    pub fn steady(&self) -> usize {
        self.habits.values().filter(|habit| self.thresholds.is_steady(habit) && habit.told.is_none()).count()
    }

    /// Steady logs that are quiet now, with their writers.
    pub fn quiet(&self, at: At) -> Vec<(PathBuf, Option<Writer>)> {
        let is_quiet = |habit: &Habit| {
            let silent = at.awake.saturating_sub(habit.awake);
            self.thresholds.is_steady(habit) && habit.told.is_none() && silent >= self.thresholds.grace
        };
        let quiet = self.habits.iter().filter(|(_, habit)| is_quiet(habit));
        quiet.map(|(log, habit)| (log.clone(), habit.writer.clone())).collect()
    }

    /// Whether a quiet log is silent, now that is known what became of its writer.
    pub fn judge(&mut self, log: &Path, holder: Holder, at: At) -> Option<Silence> {
        let thresholds = self.thresholds;
        let habit = self.habits.get_mut(log)?;
        let often = habit.writer.as_ref().is_some_and(|writer| writer.writes >= WRITES_MIN);
        habit.gone = match holder {
            Holder::Gone if often => Some(habit.gone.unwrap_or(at.awake)),
            _ => None,
        };
        let ended = habit.gone.is_some_and(|gone| at.awake.saturating_sub(gone) >= thresholds.grace);
        let silent = at.awake.saturating_sub(habit.awake);
        let long = silent > thresholds.long_pause(habit)
            && habit.last.since(habit.since) >= thresholds.learn
            && at.wall > habit.since;
        if !ended && !long {
            return None;
        }
        if self.goes_on_elsewhere(log) {
            return None;
        }
        let speaking = self.speaking(log, silent, at);
        if !ended && speaking.is_empty() {
            return None;
        }
        let habit = self.habits.get_mut(log)?;
        let silence = Silence {
            since: habit.last,
            seconds: silent.as_secs(),
            longest_pause_seconds: habit.longest().as_secs(),
            writer_ended: ended,
            writer: habit.writer.clone(),
            speaking,
            over: false,
        };
        habit.told = Some(silence.clone());
        self.changed.insert(log.to_path_buf());
        Some(silence)
    }

    /// Another log of the directory began to grow when this one ceased: it is the same, by another name.
    fn goes_on_elsewhere(&mut self, log: &Path) -> bool {
        let Some(habit) = self.habits.get(log).cloned() else { return false };
        let slack = self.thresholds.span / 6;
        let program = |habit: &Habit| habit.writer.as_ref().map(|writer| writer.program.clone());
        let follows = |(other, next): &(&PathBuf, &Habit)| {
            let same =
                program(next).is_none() || program(&habit).is_none() || program(next) == program(&habit);
            other.as_path() != log
                && other.parent() == log.parent()
                && same
                && next.run.plus(slack) >= habit.last
                && next.last > habit.last
        };
        let Some(heir) = self.habits.iter().find(follows).map(|(heir, _)| heir.clone()) else { return false };
        self.forget(log);
        if let Some(next) = self.habits.get_mut(&heir) {
            let spans = u32::try_from(next.span.saturating_sub(habit.span)).unwrap_or(SPANS);
            next.active |= habit.active.checked_shl(spans).unwrap_or(0);
            next.since = next.since.min(habit.since);
            next.pauses = [next.pauses[0].max(habit.pauses[0]), next.pauses[1].max(habit.pauses[1])];
            self.changed.insert(heir);
        }
        true
    }

    /// Others that grew in the later half of the silence: one that is steady, or two of any kind.
    fn speaking(&self, log: &Path, silent: Duration, at: At) -> Vec<Text> {
        let half = silent / 2;
        let spoke = |(other, habit): &(&PathBuf, &Habit)| {
            other.as_path() != log
                && at.awake.saturating_sub(habit.awake) < half
                && habit.awake > Duration::ZERO
        };
        let speaking: Vec<(&PathBuf, &Habit)> = self.habits.iter().filter(spoke).collect();
        let enough = speaking.len() > 1 || speaking.iter().any(|(_, habit)| self.thresholds.is_steady(habit));
        let names = speaking.iter().take(SPEAKING_MAX).map(|(other, _)| super::text(other));
        if enough { names.collect() } else { Vec::new() }
    }

    /// The one that grew longest ago goes.
    fn make_room(&mut self) {
        if self.habits.len() >= HABITS_MAX
            && let Some((oldest, _)) = self.habits.iter().min_by_key(|(_, habit)| habit.last)
        {
            let oldest = oldest.clone();
            self.forget(&oldest);
        }
    }
}

impl Thresholds {
    fn is_steady(&self, habit: &Habit) -> bool {
        let all = (1_u32 << SPANS) - 1;
        (habit.active & all).count_ones() >= self.active
    }

    /// A pause that is longer than any that the log makes.
    fn long_pause(&self, habit: &Habit) -> Duration {
        habit.longest().saturating_mul(self.pauses).max(self.pause_min)
    }
}

impl Habit {
    fn longest(&self) -> Duration {
        Duration::from_millis(self.pauses.iter().copied().max().unwrap_or(0))
    }

    /// Who writes most is the writer, by a majority vote (Boyer and Moore): what rotates a log, or adds a line to it by hand, takes one
    /// vote and not its place.
    fn write(&mut self, program: Program<'_>, process: Process) {
        let new = || Writer {
            program: program.0.clone(),
            container: program.1.map(str::to_owned),
            processes: Vec::new(),
            writes: 0,
        };
        let writer = match &mut self.writer {
            Some(writer) if (&writer.program, writer.container.as_deref()) == program => writer,
            Some(writer) if writer.writes > 1 => {
                writer.writes = writer.writes.min(WRITES_MAX) - 1;
                return;
            }
            other => other.insert(new()),
        };
        writer.writes = writer.writes.saturating_add(1).min(WRITES_MAX);
        writer.processes.retain(|known| known.pid != process.pid);
        if writer.processes.len() >= WRITERS_MAX {
            writer.processes.remove(0);
        }
        writer.processes.push(process);
    }
}

fn span_of(time: Timestamp, span: Duration) -> i64 {
    time.nanos().div_euclid(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX).max(1))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);

    fn at(awake: Duration) -> At {
        At { wall: Timestamp::from_seconds(1_800_000_000).plus(awake), awake }
    }

    fn process(pid: u32) -> Process {
        Process { pid, ticks: Some(u64::from(pid)) }
    }

    fn log(name: &str) -> PathBuf {
        Path::new("/var/log").join(name)
    }

    /// Lets the logs grow, each in its own rhythm, as the sensor would see it; gives what was judged silent.
    fn live(
        silences: &mut Silences,
        logs: &[(&str, Duration, Duration)],
        until: Duration,
        holder: Holder,
    ) -> Vec<(PathBuf, Duration, Silence)> {
        let (mut told, mut now) = (Vec::new(), Duration::ZERO);
        let program = Text::from_bytes(b"/usr/sbin/rsyslogd");
        while now < until {
            for (name, pause, end) in logs {
                if now < *end && now.as_secs().is_multiple_of(pause.as_secs()) {
                    silences.grew(&log(name), Some(((&program, None), process(7))), at(now));
                }
            }
            for (quiet, _) in silences.quiet(at(now)) {
                let holder = if holder == Holder::Gone && logs.iter().all(|(_, _, end)| *end > now) {
                    Holder::Lives
                } else {
                    holder
                };
                told.extend(silences.judge(&quiet, holder, at(now)).map(|silence| (quiet, now, silence)));
            }
            now += MINUTE;
        }
        told
    }

    #[test]
    fn a_writer_that_ended_is_told_after_its_grace_and_its_return_ends_it() {
        let mut silences = Silences::default();
        let logs = [("auth.log", 30 * MINUTE, 2 * DAY), ("rare.log", 9 * 60 * MINUTE, 2 * DAY)];
        let told = live(&mut silences, &logs, 2 * DAY + 60 * MINUTE, Holder::Gone);
        let [(path, when, silence)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((path, silence.writer_ended), (&log("auth.log"), true));
        assert!(*when >= 2 * DAY && *when <= 2 * DAY + 4 * MINUTE, "{when:?}");
        assert_eq!(silence.writer.as_ref().map(|writer| writer.processes[0].pid), Some(7));
        assert_eq!(silence.longest_pause_seconds, 1_800);
        let over = silences.grew(&log("auth.log"), None, at(3 * DAY)).unwrap();
        assert!(over.over && over.seconds > 80_000);
        assert_eq!(silences.grew(&log("auth.log"), None, at(3 * DAY)), None);
    }

    #[test]
    fn a_restart_within_the_grace_and_one_line_of_a_command_are_nothing() {
        let mut silences = Silences::default();
        let logs = [("auth.log", 5 * MINUTE, 2 * DAY)];
        assert!(live(&mut silences, &logs, 2 * DAY, Holder::Lives).is_empty());
        let later = |minutes| at(2 * DAY + MINUTE * minutes);
        assert_eq!(silences.judge(&log("auth.log"), Holder::Gone, later(1)), None);
        assert_eq!(silences.judge(&log("auth.log"), Holder::Lives, later(2)), None);
        assert_eq!(silences.judge(&log("auth.log"), Holder::Gone, later(4)), None);
        assert!(silences.judge(&log("auth.log"), Holder::Gone, later(6)).is_some());
        // One line by another takes nobody's place.
        let mut silences = Silences::default();
        assert!(live(&mut silences, &logs, 2 * DAY, Holder::Lives).is_empty());
        let other = Text::from_bytes(b"/usr/sbin/logrotate");
        silences.grew(&log("auth.log"), Some(((&other, None), process(8))), at(2 * DAY));
        assert_eq!(silences.judge(&log("auth.log"), Holder::Gone, later(2)), None);
        let silence = silences.judge(&log("auth.log"), Holder::Gone, later(4)).unwrap();
        assert_eq!(silence.writer.unwrap().program.text, "/usr/sbin/rsyslogd");
        // Who goes on does.
        let mut silences = Silences::default();
        assert!(live(&mut silences, &logs, 2 * DAY, Holder::Lives).is_empty());
        for minutes in 0..20 {
            silences.grew(&log("auth.log"), Some(((&other, None), process(8))), later(minutes));
        }
        assert_eq!(silences.judge(&log("auth.log"), Holder::Gone, later(21)), None);
        let silence = silences.judge(&log("auth.log"), Holder::Gone, later(24)).unwrap();
        assert_eq!(silence.writer.unwrap().program.text, "/usr/sbin/logrotate");
        // Each line by a program of its own.
        let mut silences = Silences::default();
        for minutes in 0..2_000 {
            let program = Text::from_bytes(format!("/bin/{minutes}").as_bytes());
            silences.grew(&log("x.log"), Some(((&program, None), process(minutes))), at(MINUTE * minutes));
        }
        for minutes in 2_000..2_060 {
            assert_eq!(silences.judge(&log("x.log"), Holder::Gone, at(MINUTE * minutes)), None);
        }
    }

    #[test]
    fn a_long_pause_while_others_speak_is_told_once_the_habit_is_known() {
        let day = |days: u32| DAY * days;
        let logs = [("auth.log", 20 * MINUTE, day(10)), ("syslog", 5 * MINUTE, day(12))];
        let told = live(&mut Silences::default(), &logs, day(12), Holder::Lives);
        let [(path, when, silence)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((path, silence.writer_ended), (&log("auth.log"), false));
        assert!(*when > day(10) + 60 * MINUTE && *when < day(10) + 85 * MINUTE, "{when:?}");
        assert_eq!(silence.speaking[0].text, "/var/log/syslog");
        // Not when all are silent, nor in the first week.
        let logs = [("auth.log", 20 * MINUTE, day(10)), ("syslog", 5 * MINUTE, day(10))];
        assert!(live(&mut Silences::default(), &logs, day(12), Holder::Lives).is_empty());
        let logs = [("auth.log", 20 * MINUTE, day(5)), ("syslog", 5 * MINUTE, day(7))];
        assert!(live(&mut Silences::default(), &logs, day(7), Holder::Lives).is_empty());
    }

    #[test]
    fn a_log_that_goes_on_under_the_name_of_the_day_is_not_silent() {
        let mut silences = Silences::default();
        let program = Text::from_bytes(b"/usr/bin/postgres");
        for minutes in 0..(20 * 1_440) {
            let now = at(MINUTE * minutes);
            let name = format!("postgresql-{}.log", ["Mon", "Tue", "Wed"][(minutes / 1_440 % 3) as usize]);
            silences.grew(&log(&name), Some(((&program, None), process(9))), now);
            silences.grew(&log("syslog"), None, now);
            for (quiet, _) in silences.quiet(now) {
                assert_eq!(silences.judge(&quiet, Holder::Lives, now), None, "{quiet:?} at {minutes}");
            }
        }
    }

    #[test]
    fn habits_survive_a_restart_and_silence_begins_anew_with_it() {
        let mut silences = Silences::default();
        live(&mut silences, &[("auth.log", 5 * MINUTE, 2 * DAY)], 2 * DAY, Holder::Lives);
        let rows = silences.take_changes().into_iter().map(|(log, state)| (log, state.unwrap()));
        let rows: Vec<(PathBuf, String)> = rows.collect();
        assert!(rows[0].1.len() < 600, "{}", rows[0].1);
        let mut restored = Silences::restore(Thresholds::default(), rows);
        assert_eq!(restored.steady(), 1);
        let start = At { awake: Duration::ZERO, ..at(20 * DAY) };
        assert!(restored.quiet(start).is_empty());
        let later = At { awake: 3 * MINUTE, ..at(20 * DAY + 3 * MINUTE) };
        assert_eq!(restored.quiet(later).len(), 1);
        assert_eq!(restored.judge(&log("auth.log"), Holder::Gone, later), None);
        restored.forget(&log("auth.log"));
        assert_eq!(restored.take_changes(), [(log("auth.log"), None)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_log_is_silent_whose_writer_lives_and_whose_pauses_are_its_own(
            pauses in proptest::collection::vec(1..400_u32, 50..400),
            rounds in 1..12_usize,
            other in 1..60_u32,
        ) {
            let mut silences = Silences::default();
            let (mut now, mut spoke) = (Duration::ZERO, Duration::ZERO);
            for pause in pauses.iter().cycle().take(pauses.len() * rounds) {
                silences.grew(&log("a.log"), None, at(now));
                let next = now + MINUTE * *pause;
                while spoke < next {
                    silences.grew(&log("b.log"), None, at(spoke));
                    spoke += MINUTE * other;
                    for (quiet, _) in silences.quiet(at(spoke.min(next))) {
                        let silence = silences.judge(&quiet, Holder::Lives, at(spoke.min(next)));
                        // Within the first round a pause may be longer than all before, but the habit is not learned.
                        let known = now >= 8 * DAY;
                        let widest = pauses.iter().max().copied().unwrap_or(0);
                        let seen = pauses.iter().take_while(|pause| **pause != widest).sum::<u32>();
                        prop_assert!(
                            silence.is_none() || (known && MINUTE * seen >= now),
                            "{silence:?} at {now:?}"
                        );
                    }
                }
                now = next;
            }
        }
    }
}
