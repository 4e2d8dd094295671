//! `agent status`: how the agent fares, in one screen.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use picket_protocol::finding::printable;
use picket_protocol::time::Timestamp;

use super::output::{Style, Tone, ago, bytes, count, length};
use super::{Exit, Global, client, output};
use crate::config::format_duration;
use crate::guard::GuardState;
use crate::sense::host::Usage;
use crate::sense::{SensorReport, SensorState, SourceReport};
use crate::status::{Protection, Request, StatusReport};
use crate::uplink::{LinkReport, LinkState};

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Show how the agent fares
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agent status\n  agent status --watch\n  agent status --json")]
pub(super) struct Arguments {
    /// Refresh in place until interrupted; needs a terminal
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let socket = client::layout(&loaded.config).socket();
    if arguments.watch {
        return watch(&socket);
    }
    let report: StatusReport = match client::ask_once(&socket, &Request::Status {}) {
        Ok(report) => report,
        Err(error) => {
            if global.json {
                output::json(&serde_json::json!({ "running": false, "error": error.to_string() }));
            }
            return error.report();
        }
    };
    if global.json {
        output::json(&report);
    } else {
        output::line(render(&report, crate::clock::now(), Style::of_stdout()).trim_end());
    }
    exit(&report)
}

fn exit(report: &StatusReport) -> Exit {
    match report.protection {
        Protection::On => Exit::Fine,
        Protection::Degraded => Exit::Degraded,
        Protection::Failing => Exit::Failing,
    }
}

/// Draws over what was drawn before; ends with the terminal or by a signal.
fn watch(socket: &Path) -> Exit {
    if !std::io::stdout().is_terminal() {
        output::error("--watch needs a terminal");
        return Exit::Usage;
    }
    let style = Style::of_stdout();
    let mut screen = "\x1b[2J".to_owned();
    loop {
        let text = match client::ask_once::<StatusReport>(socket, &Request::Status {}) {
            Ok(report) => render(&report, crate::clock::now(), style),
            Err(error) => style.paint(Tone::Bad, &printable(&error.to_string())),
        };
        // To the top, each line clears what was behind it, and the rest is cleared at the end.
        let _written =
            write!(screen, "\x1b[H{}\x1b[K\x1b[J", text.trim_end().replace('\n', "\x1b[K\n")).is_ok();
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(screen.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            return Exit::Fine;
        }
        drop(stdout);
        screen.clear();
        std::thread::park_timeout(WATCH_INTERVAL);
    }
}

/// The screen. Everything that came from outside is made printable here.
fn render(report: &StatusReport, now: Timestamp, style: Style) -> String {
    let mut screen = Screen { text: String::new(), style, now };
    screen.head(report);
    for (name, sensor) in &report.sensors {
        screen.sensor(name, sensor);
    }
    screen.ledger(report);
    screen.collector(report);
    screen.commands(report);
    screen.cost(report);
    screen.text
}

struct Screen {
    text: String,
    style: Style,
    now: Timestamp,
}

impl Screen {
    fn line(&mut self, label: &str, rest: &str) {
        let label = self.style.paint(Tone::Strong, &format!("{label:<11}"));
        // Writing to a String cannot fail.
        let _written = writeln!(self.text, "{label} {rest}").is_ok();
    }

    fn head(&mut self, report: &StatusReport) {
        let (tone, word) = match report.protection {
            Protection::On => (Tone::Good, "on"),
            Protection::Degraded => (Tone::Warning, "degraded"),
            Protection::Failing => (Tone::Bad, "failing"),
        };
        let word = self.style.paint(tone, word);
        self.line("protection", &word);
        for reason in &report.reasons {
            let reason = self.style.paint(tone, &format!("- {}", printable(reason)));
            self.line("", &reason);
        }
        let host = match (&report.agent, &report.tenant) {
            (Some(agent), Some(tenant)) => format!("{agent} of {tenant}"),
            _ => "not enrolled".to_owned(),
        };
        let up = length(Duration::from_secs(report.uptime_seconds));
        self.line("agent", &format!("{host}; version {}, up {up}", printable(&report.version)));
        if let Some(key) = &report.enrolled_key {
            self.line("", &format!("ledger key at enrolment {key}"));
        }
        // Why it is not on stands among the reasons.
        if report.guard.state == GuardState::On {
            self.line("guard", &printable(&super::guard::words(&report.guard)));
        }
    }

    fn sensor(&mut self, name: &str, sensor: &SensorReport) {
        let (tone, word) = state_word(sensor.state);
        let mut rest =
            format!("{} {:<9}", self.style.paint(tone, &format!("{word:<9}")), printable(&sensor.rung));
        rest.push_str(&match sensor.last_event {
            Some(time) => format!(" last event {}", ago(time, self.now)),
            None => " no event yet".to_owned(),
        });
        for (counter, value) in sensor.counters.iter().filter(|(_, value)| **value > 0).take(4) {
            let _written = write!(rest, ", {} {}", count(*value), printable(counter)).is_ok();
        }
        self.line(&printable(name), rest.trim_end());
        let (still, telling): (Vec<_>, Vec<_>) = sensor.sources.iter().partition(|source| is_still(source));
        for source in telling {
            self.source(source);
        }
        self.still(&still, SensorState::Running, "nothing read yet");
        self.still(&still, SensorState::Disabled, "not there yet");
    }

    /// Sources of which there is nothing to tell share a line.
    fn still(&mut self, sources: &[&SourceReport], state: SensorState, what: &str) {
        let names = sources.iter().filter(|source| source.state == state);
        let names: Vec<_> = names.map(|source| printable(&source.source)).collect();
        if !names.is_empty() {
            let (tone, word) = state_word(state);
            let word = self.style.paint(tone, &format!("{word:<9}"));
            self.line("", &format!("{word} {what}: {}", names.join(", ")));
        }
    }

    fn source(&mut self, source: &SourceReport) {
        let (tone, word) = state_word(source.state);
        let mut rest =
            format!("{} {}", self.style.paint(tone, &format!("{word:<9}")), printable(&source.source));
        if let Some(time) = source.last_event {
            let _written = write!(rest, ", last event {}", ago(time, self.now)).is_ok();
        }
        if let Some(lag) = source.lag_ms {
            let _written = write!(rest, ", {} behind", length_ms(lag)).is_ok();
        }
        if source.read > 0 {
            let _written = write!(rest, ", {} read", count(source.read)).is_ok();
        }
        if !source.reason.is_empty() {
            let _written = write!(rest, ": {}", printable(&source.reason)).is_ok();
        }
        self.line("", &rest);
    }

    fn ledger(&mut self, report: &StatusReport) {
        let ledger = &report.ledger;
        let kept = ledger.report.acknowledged_bytes.saturating_add(ledger.report.waiting_bytes);
        let waiting = match ledger.unacknowledged {
            0 => "all acknowledged".to_owned(),
            waiting => format!("{} not yet acknowledged", count(waiting)),
        };
        let size = count(ledger.report.size);
        self.line("ledger", &format!("{size} records, {waiting}; {} kept", bytes(kept)));
    }

    fn collector(&mut self, report: &StatusReport) {
        let Some(link) = &report.link else {
            let waits = report.join.as_ref().filter(|join| join.waits && !join.address.is_empty());
            let none = || "none: run sudo agent enroll 'picket1.…'".to_owned();
            let text = waits.map_or_else(none, |join| {
                format!("{} not enrolled there yet: the join string waits", printable(&join.address))
            });
            self.line("collector", &text);
            return;
        };
        let address = printable(&link.address).into_owned();
        let state = self.link_state(link);
        self.line("collector", &format!("{address} {state}"));
        let heard = link
            .last_contact
            .map_or("never heard of".to_owned(), |time| format!("last contact {}", ago(time, self.now)));
        let cosigned = report.cosignature.map_or("nothing cosigned yet".to_owned(), |cosignature| {
            format!("{} records cosigned {}", count(cosignature.size), ago(cosignature.time, self.now))
        });
        self.line("", &format!("{heard}; {cosigned}"));
    }

    fn link_state(&self, link: &LinkReport) -> String {
        match link.state {
            LinkState::Connected => {
                let since =
                    link.connected_since.map_or(String::new(), |time| format!(" {}", ago(time, self.now)));
                self.style.paint(Tone::Good, &format!("connected{since}"))
            }
            LinkState::Forked => self.style.paint(Tone::Bad, "knows another history: nothing is sent"),
            LinkState::Starting | LinkState::Connecting | LinkState::Stopped => {
                let next = link.next_retry.map_or(String::new(), |time| {
                    format!(", next attempt in {}", length(time.since(self.now)))
                });
                self.style.paint(Tone::Warning, &format!("not connected{next}"))
            }
        }
    }

    fn commands(&mut self, report: &StatusReport) {
        let commands = &report.commands;
        let trust = match &commands.trust_root {
            Some(trust) => format!("trust root {} until {}", trust.version, output::day(trust.expires)),
            None => "no trust root: none is obeyed".to_owned(),
        };
        let held = commands.held_seconds.map_or(String::new(), |seconds| {
            format!("; held back for {}", length(Duration::from_secs(seconds)))
        });
        let counts = format!("{} obeyed, {} refused", count(commands.obeyed), count(commands.refused));
        self.line("commands", &format!("{counts}; {trust}{held}"));
        for running in &commands.running {
            let time = length(Duration::from_secs(running.seconds));
            self.line("", &format!("{} {} running for {time}", printable(&running.action), running.id));
        }
        for playbook in &commands.playbooks {
            let what = format!(
                "{}, {} steps; sudo agent release {}",
                printable(&playbook.name),
                playbook.steps.len(),
                playbook.id
            );
            let what = self.style.paint(Tone::Warning, &what);
            self.line("playbook", &what);
            for step in &playbook.steps {
                self.line("", &super::commands::step_line(step));
            }
        }
        // Those of playbooks are among their steps.
        for act in commands.in_force.iter().filter(|act| act.playbook.is_none()) {
            let left = length(Duration::from_secs(act.seconds_left));
            let what = format!("{}, {left} left; sudo agent release {}", printable(&act.action), act.id);
            let what = self.style.paint(Tone::Warning, &what);
            self.line("in force", &what);
            let signers = printable(&act.signers.join(", ")).into_owned();
            self.line("", &format!("signed by {signers}; {}", printable(&act.reason)));
        }
        for frozen in &commands.frozen {
            let left = length(Duration::from_secs(frozen.seconds_left));
            let what = format!("{} processes are stopped, {left} left; sudo agent release", frozen.processes);
            let what = self.style.paint(Tone::Warning, &what);
            self.line("frozen", &what);
            self.line("", &printable(&frozen.cause));
        }
        for advice in &commands.advice {
            let left = length(Duration::from_secs(advice.seconds_left));
            let message = printable(&advice.message.replace('\n', " ")).into_owned();
            let message = self.style.paint(Tone::Warning, &message);
            self.line("advice", &message);
            let signers = printable(&advice.signers.join(", ")).into_owned();
            self.line("", &format!("signed by {signers}; {left} left; sudo agent ack {}", advice.id));
        }
    }

    fn cost(&mut self, report: &StatusReport) {
        let uptime = report.uptime_seconds.max(1);
        let part = |(role, usage): (&String, &Usage)| {
            let (memory, kind) = usage.pss_bytes.map_or((usage.rss_bytes, "RSS"), |pss| (pss, "PSS"));
            // Hundredths of a percent of one core, since the start.
            let share = usage.cpu_milliseconds.saturating_mul(10) / uptime;
            format!("{} {} {kind}, {}.{:02} % CPU", printable(role), bytes(memory), share / 100, share % 100)
        };
        let parts: Vec<String> = report.processes.iter().map(part).collect();
        self.line("cost", &parts.join("; "));
    }
}

/// Whether there is no more to tell of a source than that it is there, or that it is not.
fn is_still(source: &SourceReport) -> bool {
    let untold = source.read == 0 && source.last_event.is_none();
    match source.state {
        SensorState::Running => untold && source.reason.is_empty(),
        SensorState::Disabled => untold && source.reason == SourceReport::ABSENT,
        _ => false,
    }
}

fn state_word(state: SensorState) -> (Tone, &'static str) {
    match state {
        SensorState::Running => (Tone::Good, "running"),
        SensorState::Starting => (Tone::Warning, "starting"),
        SensorState::Degraded => (Tone::Warning, "degraded"),
        SensorState::Disabled => (Tone::Faint, "off"),
        SensorState::Failed => (Tone::Bad, "failed"),
    }
}

fn length_ms(milliseconds: u64) -> String {
    if milliseconds < 1_000 {
        return format!("{milliseconds} ms");
    }
    length(Duration::from_millis(milliseconds))
}

/// How long something lasts, for [`super::hold_commands`].
pub(super) fn held(seconds: Option<u64>) -> String {
    match seconds {
        Some(seconds) => {
            format!("commands are held back for {}", format_duration(Duration::from_secs(seconds)))
        }
        None => "commands are obeyed again".to_owned(),
    }
}
