//! `agent net`: the health of the line, as the kernel counts it: bandwidth, losses, round trips, who talks, who listens.

use std::path::Path;
use std::time::Duration;

use picket_protocol::finding::printable;

use super::output::{Style, Tone};
use super::terminal::Terminal;
use super::{Exit, Global, client, output};
use crate::sense::network::line::Figures;
use crate::status::Request;

mod rates;
mod text;

use rates::Rates;
use text::{History, lines};

/// Between two readings.
const INTERVAL: Duration = Duration::from_secs(1);

/// Show the health of the line: bandwidth and losses by interface, TCP segments sent again, round trips, top talkers, listening ports with their programs
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It looks for a second, unless told otherwise. Figures of TCP are of this host's own network namespace.\n\n\
    Exit codes: 0 all is well; 1 there is trouble (errors, drops, a full accept queue, more than 5 % sent again), or something \
    cannot be told; 2 the agent does not run; 3 usage\n\n\
    Examples:\n  agent net\n  agent net --watch\n  agent net --seconds 10 --json"
)]
pub(super) struct Arguments {
    /// Draw it live, with curves of the last minute; q or Ctrl-C ends it. Needs a terminal
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// How long to look
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3_600), conflicts_with = "watch")]
    seconds: u64,
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
    let rates = match between(&socket, Duration::from_secs(arguments.seconds)) {
        Ok(rates) => rates,
        Err(error) => return error.report(),
    };
    if global.json {
        output::json(&rates);
    } else {
        let style = Style::of_stdout();
        for line in lines(&rates, None, usize::MAX) {
            if !output::line(line.render(usize::MAX, style).trim_end()) {
                break;
            }
        }
    }
    exit(&rates)
}

fn ask(socket: &Path) -> Result<Figures, client::ClientError> {
    client::ask_once(socket, &Request::Net {})
}

fn between(socket: &Path, length: Duration) -> Result<Rates, client::ClientError> {
    let first = ask(socket)?;
    loop {
        std::thread::park_timeout(length);
        let second = ask(socket)?;
        // Where reading costs much the last answer may be given again.
        if second.time != first.time {
            return Ok(Rates::between(&first, &second));
        }
    }
}

fn exit(rates: &Rates) -> Exit {
    if rates.trouble.is_empty() && rates.missing.is_empty() { Exit::Fine } else { Exit::Degraded }
}

/// Draws until it is told to end, or the agent is gone.
fn watch(socket: &Path) -> Exit {
    let mut before = match ask(socket) {
        Ok(figures) => figures,
        Err(error) => return error.report(),
    };
    let terminal = match Terminal::take() {
        Ok(Some(terminal)) => terminal,
        Ok(None) => {
            output::error("--watch needs a terminal");
            return Exit::Usage;
        }
        Err(error) => {
            output::error(&format!("the terminal cannot be drawn on: {error}"));
            return Exit::Failing;
        }
    };
    let (style, mut history) = (Style::of_stdout(), History::default());
    let ended = loop {
        if terminal.wait(INTERVAL) {
            break Ok(());
        }
        let now = match ask(socket) {
            Ok(now) => now,
            Err(error) => break Err(error),
        };
        // Where reading costs much the last answer may be given again: the next one is waited for.
        if now.time == before.time {
            continue;
        }
        let rates = Rates::between(&before, &now);
        before = now;
        history.push(&rates);
        if terminal.draw(&screen(&rates, &history, style)).is_err() {
            break Ok(());
        }
    };
    drop(terminal);
    match ended {
        Ok(()) => Exit::Fine,
        Err(error) => error.report(),
    }
}

/// As much of it as the terminal holds.
fn screen(rates: &Rates, history: &History, style: Style) -> Vec<String> {
    let (width, height) = Terminal::size();
    let all = lines(rates, Some(history), width);
    let room = height.saturating_sub(1).max(1);
    let hidden = all.len().saturating_sub(room);
    let mut screen: Vec<String> = all.iter().take(room).map(|line| line.render(width, style)).collect();
    let rest = if hidden > 0 { format!("{hidden} more lines; ") } else { String::new() };
    screen.push(style.paint(Tone::Faint, &printable(&format!("{rest}q ends"))));
    screen
}
