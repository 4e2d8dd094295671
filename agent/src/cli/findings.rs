//! `agent findings`: what the agent found on this host.

use picket_protocol::finding::{Finding, Severity, printable};
use picket_protocol::record::{Gap, Kind, Lifecycle, Record};
use picket_protocol::time::Timestamp;

use super::client::{ClientError, ask};
use super::output::{Style, Tone, second};
use super::{Exit, Global, client, output};
use crate::config::parse_duration;
use crate::layout::Layout;
use crate::ledger::Reader;
use crate::status::message::FINDINGS_MAX;
use crate::status::{FindingQuery, Request};

/// Characters of a record that is no finding; `--json` gives all.
const OTHER_CHARS_MAX: usize = 160;

/// Show what the agent found on this host
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agent findings --severity medium --since 2h\n  agent findings --rule login. --follow\n  agent findings --all   (also heartbeats, receipts, changes of keys and of the agent itself)\n  agent findings --json --limit 1000   (one sealed record a line)"
)]
pub(super) struct Arguments {
    /// Only of this rule, or of a family when it ends in a dot (`login.`)
    #[arg(long)]
    rule: Option<String>,
    /// Only at least this severe: info, low, medium, high, critical
    #[arg(long, default_value = "info", value_parser = severity)]
    severity: Severity,
    /// Only since a time (2026-11-21T08:00:00Z) or for a while (30m, 2h, 7d)
    #[arg(long, value_parser = since)]
    since: Option<Timestamp>,
    /// Most findings, the newest ones
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    limit: u64,
    /// Go on with each new one until interrupted
    #[arg(long)]
    follow: bool,
    /// Show every sealed record: all that is sent to the collector
    #[arg(long)]
    all: bool,
}

/// Characters of an id that tell findings of one host apart.
const SHORT_ID_CHARS: usize = 8;

fn severity(text: &str) -> Result<Severity, String> {
    Severity::parse(text).ok_or_else(|| "one of info, low, medium, high, critical".to_owned())
}

fn since(text: &str) -> Result<Timestamp, String> {
    let wanted = || "a time such as 2026-11-21T08:00:00Z, or a while such as 2h".to_owned();
    let before = |while_ago: std::time::Duration| {
        let nanos = i64::try_from(while_ago.as_nanos()).unwrap_or(i64::MAX);
        Timestamp::from_nanos(crate::clock::now().nanos().saturating_sub(nanos))
    };
    Timestamp::parse(text).or_else(|| parse_duration(text).map(before)).ok_or_else(wanted)
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let layout = client::layout(&loaded.config);
    let query = FindingQuery {
        rule: arguments.rule,
        severity: arguments.severity,
        since: arguments.since,
        limit: usize::try_from(arguments.limit).unwrap_or(FINDINGS_MAX),
        follow: arguments.follow,
        all: arguments.all,
    };
    let style = Style::of_stdout();
    let show = |record: &str| show(record, global.json, style);
    let timeout = if query.follow { None } else { Some(std::time::Duration::from_secs(60)) };
    match ask(&layout.socket(), &Request::Findings(query.clone()), timeout, |item| show(item.get())) {
        Ok(_) => Exit::Fine,
        Err(ClientError::NotRunning(_)) if !query.follow => offline(&layout, &query, show),
        Err(error) => error.report(),
    }
}

/// The agent does not run: root may read its database.
fn offline(layout: &Layout, query: &FindingQuery, show: impl Fn(&str) -> bool) -> Exit {
    let records = Reader::open(&layout.database()).and_then(|reader| reader.records(&query.filter()));
    match records {
        Ok(records) => {
            output::error("the agent is not running; this is read from its database");
            for record in records.iter().rev() {
                if !show(&String::from_utf8_lossy(&record.bytes)) {
                    break;
                }
            }
            Exit::Degraded
        }
        Err(error) => {
            output::error(&format!("the agent is not running, and its database cannot be read: {error}"));
            Exit::Failing
        }
    }
}

fn show(record: &str, json: bool, style: Style) -> bool {
    if json {
        return output::line(record);
    }
    let Ok(parsed) = Record::parse(record.as_bytes()) else { return output::line(&printable(record)) };
    match parsed.body::<Finding>() {
        Ok(finding) if parsed.kind == Kind::Finding => show_finding(&finding, style),
        _ => output::line(&other(&parsed, style)),
    }
}

fn show_finding(finding: &Finding, style: Style) -> bool {
    let tone = match finding.severity {
        Severity::Info => Tone::Faint,
        Severity::Low => Tone::Plain,
        Severity::Medium => Tone::Warning,
        Severity::High | Severity::Critical => Tone::Bad,
    };
    let severity = style.paint(tone, &format!("{:<8}", finding.severity.as_str()));
    let rule = printable(&finding.rule).into_owned();
    let drill = if finding.drill { "[drill] " } else { "" };
    let title = printable(&finding.title).into_owned();
    let id = style.paint(Tone::Faint, &short_id(finding));
    output::line(&format!("{}  {severity} {rule:<22} {drill}{title}  {id}", second(finding.observed.last)))
}

/// The end of a finding's id, by which `agent show` finds it.
fn short_id(finding: &Finding) -> String {
    let id = finding.id.to_string();
    id.get(id.len().saturating_sub(SHORT_ID_CHARS)..).unwrap_or_default().to_owned()
}

/// A record that is no finding, on one line: its kind in the place of the rule.
fn other(record: &Record<'_>, style: Style) -> String {
    let text = match record.kind {
        Kind::Lifecycle => record.body().map(|lifecycle: Lifecycle| lifecycle.title),
        Kind::Gap => record.body().map(|gap: Gap| {
            format!(
                "The bytes of {} records were given up ({} to {}): {}",
                gap.count, gap.first, gap.last, gap.reason
            )
        }),
        _ => Ok(record.body.get().to_owned()),
    };
    let text = text.unwrap_or_else(|_| record.body.get().to_owned());
    let short: String = printable(&text).chars().take(OTHER_CHARS_MAX).collect();
    format!(
        "{}  {} {:<22} {short}",
        second(record.time),
        style.paint(Tone::Faint, "-       "),
        record.kind.as_str()
    )
}
