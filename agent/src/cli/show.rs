//! `agent show`: one finding in full.

use picket_protocol::finding::{Entity, Finding, Observed, printable};
use serde_json::Value;

use super::client::{ClientError, ask_once};
use super::output::{Style, Tone, second};
use super::{Exit, Global, client, output};
use crate::detect::files::FileEvidence;
use crate::detect::files::diff::Diff;
use crate::sense::processes::Actor;
use crate::status::Request;
use crate::status::show::{Shown, show};

/// What else was part of an act is shown up to so many lines.
const OTHERS_MAX: usize = 20;

/// Show one finding in full: what happened, who did it, what differs
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agent show 5b1c07e2\n  agent show 019aa2f0-77b1-7c3e-9b1a-2f645b1c07e2 --diff\n  agent show 5b1c07e2 --json"
)]
pub(super) struct Arguments {
    /// Its id, or the beginning or end of it, as `agent findings` shows it at the end of each line
    id: String,
    /// With all that differs in the text of the file, as far as its former text is kept; secrets are left out
    #[arg(long)]
    diff: bool,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let layout = client::layout(&loaded.config);
    let Arguments { id, diff } = arguments;
    let (shown, exit) = match ask_once(&layout.socket(), &Request::Show { id: id.clone(), diff }) {
        Ok(shown) => (shown, Exit::Fine),
        // Root may read the database itself.
        Err(ClientError::NotRunning(_)) => match show(&layout, &id, diff) {
            Ok(shown) => (shown, Exit::Degraded),
            Err(message) => {
                output::error(&format!("the agent is not running; {message}"));
                return Exit::Failing;
            }
        },
        Err(error) => return error.report(),
    };
    if exit == Exit::Degraded {
        output::error("the agent is not running; this is read from its database");
    }
    if global.json {
        output::json(&shown);
    } else {
        print(&shown, Style::of_stdout());
    }
    exit
}

fn print(shown: &Shown, style: Style) {
    let body = shown.record.get("body").cloned().unwrap_or(Value::Null);
    let Ok(finding) = serde_json::from_value::<Finding>(body) else {
        output::json(&shown.record);
        return;
    };
    output::line(&style.paint(Tone::Strong, &printable(&finding.title)));
    let row = |name: &str, value: &str| {
        output::line(&format!("  {}  {}", style.paint(Tone::Faint, &format!("{name:<10}")), printable(value)))
    };
    row("id", &finding.id.to_string());
    row("rule", &finding.rule);
    row("severity", finding.severity.as_str());
    row("when", &when(&finding.observed));
    finding.entities.iter().filter_map(entity).for_each(|(name, value)| {
        row(name, &value);
    });
    if !finding.attack.is_empty() {
        row("ATT&CK", &finding.attack.join(", "));
    }
    if let Some(cause) = &finding.explained_by {
        row("explained", cause);
    }
    let session = finding.evidence.get("session").and_then(|session| session.get("by")?.as_str());
    if let Some(session) = session {
        row("session", session);
    }
    let evidence = serde_json::from_value::<FileEvidence>(finding.evidence.clone());
    let Ok(evidence) = evidence else {
        output::line(&style.paint(Tone::Faint, "  evidence"));
        output::json(&finding.evidence);
        return;
    };
    row("who", &evidence.actor.as_ref().map_or_else(|| "not known".to_owned(), who));
    row("fact", &evidence.fact);
    evidence.meaning.iter().skip(1).for_each(|said| {
        row("also", &said.words);
    });
    for line in others(&finding.evidence) {
        row("with it", &line);
    }
    let diff = shown.diff.as_ref().or(evidence.diff.as_ref());
    if let Some(diff) = diff {
        print_diff(diff, style);
    }
    if let Some(note) = shown.diff_note.as_ref().or(evidence.diff_note.as_ref()) {
        row("no diff", note);
    }
    if shown.diff.is_none() && diff.is_some_and(|diff| diff.cut) {
        output::line(&style.paint(Tone::Faint, "  more of it with --diff"));
    }
}

/// What else was part of the act, a line for each of the first.
fn others(evidence: &Value) -> Vec<String> {
    let list = |name: &str| evidence.get(name).and_then(Value::as_array).into_iter().flatten();
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let titles = list("also").map(|also| text(also, "title"));
    let objects = list("objects").map(|object| {
        let path = object.get("path")?;
        text(path, "text").or_else(|| path.as_str().map(str::to_owned))
    });
    let mut lines: Vec<String> = titles.chain(objects).flatten().collect();
    if lines.len() > OTHERS_MAX {
        let more = lines.len() - OTHERS_MAX;
        lines.truncate(OTHERS_MAX);
        lines.push(format!("{more} more: --json shows them all"));
    }
    lines
}

fn when(observed: &Observed) -> String {
    let last = second(observed.last);
    match observed.count {
        0 | 1 => last,
        count => format!("{} to {last}, {count} times", second(observed.first)),
    }
}

fn entity(entity: &Entity) -> Option<(&'static str, String)> {
    match entity {
        Entity::File { path } => Some(("file", path.text.clone())),
        Entity::User { name, .. } => Some(("account", name.text.clone())),
        Entity::Address { address, .. } => Some(("address", address.to_string())),
        _ => None,
    }
}

/// The process on one line.
fn who(actor: &Actor) -> String {
    let text = |text: &Option<picket_protocol::finding::Text>| text.as_ref().map(|text| text.text.clone());
    let program = text(&actor.command_line).or_else(|| text(&actor.executable)).unwrap_or_default();
    let user = actor.uid.map(|uid| format!(", uid {uid}")).unwrap_or_default();
    let login = actor.login_uid.map(|uid| format!(", logged in as uid {uid}")).unwrap_or_default();
    let container = actor.container.as_ref().map(|name| format!(", in container {name}")).unwrap_or_default();
    format!("{program} (pid {}{user}{login}{container})", actor.pid)
}

fn print_diff(diff: &Diff, style: Style) {
    for line in diff.text.lines() {
        let tone = match line.as_bytes().first() {
            Some(b'+') => Tone::Good,
            Some(b'-') => Tone::Bad,
            Some(b'@') => Tone::Faint,
            _ => Tone::Plain,
        };
        let line = line.replace('\t', "    ");
        output::line(&format!("    {}", style.paint(tone, &printable(&line))));
    }
    if diff.cut {
        let all = format!("    … {} lines added and {} removed in all", diff.added, diff.removed);
        output::line(&style.paint(Tone::Faint, &all));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_part_of_the_act_is_listed_and_the_rest_counted() {
        let objects: Vec<Value> = (0..30).map(|n| json!({ "path": format!("/srv/{n}") })).collect();
        let evidence = json!({ "also": [{ "title": "A" }], "objects": objects });
        let lines = others(&evidence);
        assert_eq!((lines.len(), lines[0].as_str(), lines[1].as_str()), (21, "A", "/srv/0"));
        assert_eq!(lines[20], "11 more: --json shows them all");
        assert_eq!(others(&json!({ "objects": [{ "path": { "text": "x", "bytes": "eA==" } }] })), ["x"]);
        assert_eq!(others(&Value::Null), Vec::<String>::new());
    }
}
