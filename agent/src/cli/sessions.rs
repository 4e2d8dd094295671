//! `agent sessions`: who is logged in and who was, how they came, and what they became.

use picket_protocol::finding::printable;
use picket_protocol::time::Timestamp;

use super::client::ask;
use super::output::{Style, Tone, ago, length};
use super::{Exit, Global, client, output};
use crate::detect::sessions::{End, Privilege, Session};
use crate::status::Request;

/// Show who is logged in and who was lately: from where, by which key, and what they became by su or sudo
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agent sessions\n  agent sessions --live\n  agent sessions --all   (also those of cron and of systemd)\n  agent sessions --json   (one session a line)"
)]
pub(super) struct Arguments {
    /// Only those that last
    #[arg(long)]
    live: bool,
    /// Also sessions that nobody logged in to: of cron, at, systemd
    #[arg(long)]
    all: bool,
    /// Most sessions, the newest ones
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    limit: u64,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let socket = client::layout(&loaded.config).socket();
    let mut sessions: Vec<Session> = Vec::new();
    let timeout = Some(std::time::Duration::from_secs(60));
    let answer = ask(&socket, &Request::Sessions {}, timeout, |item| {
        sessions.extend(serde_json::from_str::<Session>(item.get()));
        true
    });
    if let Err(error) = answer {
        return error.report();
    }
    sessions.retain(|session| {
        (arguments.all || !session.is_of_program()) && (!arguments.live || session.ended.is_none())
    });
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let from = sessions.len().saturating_sub(limit);
    let shown = sessions.get(from..).unwrap_or_default();
    let (style, now) = (Style::of_stdout(), crate::clock::now());
    if !global.json && shown.is_empty() {
        output::line("nobody is logged in, and nobody was since the agent began to look");
    }
    for session in shown {
        let told = if global.json { output::json(session) } else { show(session, now, style) };
        if !told {
            break;
        }
    }
    Exit::Fine
}

fn show(session: &Session, now: Timestamp, style: Style) -> bool {
    let (tone, state) = match (session.ended, session.end) {
        (None, _) => (Tone::Good, "live".to_owned()),
        (Some(_), Some(End::Lost)) => (Tone::Faint, "gone".to_owned()),
        (Some(_), Some(End::Reboot)) => (Tone::Faint, "reboot".to_owned()),
        (Some(_), _) => (Tone::Faint, "ended".to_owned()),
    };
    let user = session.user.as_ref().map_or_else(
        || session.login_uid.map_or_else(|| "?".to_owned(), |uid| format!("uid {uid}")),
        |user| printable(&user.text).into_owned(),
    );
    let mut parts = vec![match session.service.as_str() {
        "" => "unknown service".to_owned(),
        service => printable(service).into_owned(),
    }];
    parts.extend(session.address.map(|address| match session.port {
        Some(port) => format!("from {address} port {port}"),
        None => format!("from {address}"),
    }));
    let how = session.key.as_ref().or(session.method.as_ref());
    parts.extend(how.map(|how| format!("by {}", printable(&how.text))));
    parts.extend(session.tty.as_ref().map(|tty| format!("on {}", printable(&tty.text))));
    parts.extend(session.container.as_ref().map(|name| format!("in container {}", printable(name))));
    let when = match session.ended {
        Some(ended) => format!("{} for {}", ago(session.since, now), length(ended.since(session.since))),
        None if session.found => format!("found running, since {}", ago(session.since, now)),
        None => format!("since {}", ago(session.since, now)),
    };
    let number = session.audit_session.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let state = style.paint(tone, &format!("{state:<6}"));
    let line =
        format!("{state} {number:>5} {} {}; {when}", style.paint(Tone::Strong, &user), parts.join(" "));
    let mut open = output::line(&line);
    for privilege in &session.privileges {
        open = open && output::line(&format!("             {}", words(privilege, now, style)));
    }
    if session.privileges_left_out > 0 {
        let more = format!("             and {} more", session.privileges_left_out);
        open = open && output::line(&style.paint(Tone::Faint, &more));
    }
    open
}

fn words(privilege: &Privilege, now: Timestamp, style: Style) -> String {
    let target = privilege.target.as_ref().map_or("somebody".into(), |target| printable(&target.text));
    let command = privilege.command.as_ref().map(|command| format!(": {}", printable(&command.text)));
    let verb = if privilege.allowed { "became" } else { "was refused the rights of" };
    let tone = if privilege.allowed { Tone::Plain } else { Tone::Warning };
    let when = ago(privilege.time, now);
    let text = format!("{verb} {target} by {}{}, {when}", privilege.service, command.unwrap_or_default());
    style.paint(tone, &text)
}
