//! `soc findings`: a page of them, and with `--follow` the live ones, without a gap between the two and
//! without losing or repeating one when the collector or the network goes away in between.

use std::time::Duration;

use picket_protocol::finding::{Severity, printable};

use super::args::FindingsArguments;
use super::client::{Client, GONE, TOO_MANY, with_query};
use super::error::SocError;
use super::events::{Event, EventReader};
use super::hosts::resolve_optional;
use super::period::parse_past;
use super::screen::{Cell, Column, Screen};
use super::{Session, notice};
use crate::api::types::{FindingPage, FindingSummary};

/// Rows in one request: what the API gives at most with `full`.
const PAGE_ROWS: u32 = 100;
/// Rows without `--limit`, and before the live ones.
const LIMIT_DEFAULT: u32 = 50;
const LIMIT_BEFORE_LIVE: u32 = 10;
/// A live stream says something at least every 10 s; beyond this it is taken for dead.
const QUIET_MAX: Duration = Duration::from_secs(30);
/// Pause before the first and the longest before further attempts to connect again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

const COLUMNS: [Column; 6] = [
    Column { head: "TIME", width_max: 20 },
    Column { head: "SEVERITY", width_max: 8 },
    Column { head: "HOST", width_max: 20 },
    Column { head: "RULE", width_max: 24 },
    Column { head: "ID", width_max: SHORT_ID },
    Column { head: "TITLE", width_max: 400 },
];
/// Widths for live rows, whose fellows are not known yet.
const LIVE_WIDTHS: [usize; 6] = [20, 8, 16, 20, SHORT_ID, 400];
/// The last characters of an id, which `soc show` takes for the whole.
const SHORT_ID: usize = 12;

/// The filters as the API takes them.
pub(super) struct Filters(Vec<(&'static str, Option<String>)>);

impl Filters {
    fn path(&self, path: &str, more: &[(&'static str, Option<String>)]) -> String {
        with_query(path, &[self.0.as_slice(), more].concat())
    }
}

/// `soc findings …`.
pub(super) async fn list(session: &mut Session, arguments: FindingsArguments) -> Result<u8, SocError> {
    let now = session.now;
    let when = |text: &Option<String>| -> Result<Option<String>, SocError> {
        let time = text.as_deref().map(|text| parse_past(text, now)).transpose().map_err(SocError::Usage)?;
        Ok(time.map(|time| time.to_string()))
    };
    let (since, until) = (when(&arguments.since)?, when(&arguments.until)?);
    if let Some(word) = &arguments.severity {
        let known = Severity::ALL.map(Severity::as_str).join(", ");
        Severity::parse(word).ok_or_else(|| {
            SocError::Usage(format!("{:?} is no severity; one of {known} is", printable(word)))
        })?;
    }
    let (_, client) = session.connect()?;
    let agent = resolve_optional(&client, arguments.host.as_deref()).await?;
    let filters = Filters(vec![
        ("host", agent.map(|agent| agent.to_string())),
        ("tenant", arguments.tenant),
        ("rule", arguments.rule),
        ("severity", arguments.severity),
        ("since", since),
        ("until", until),
        ("full", session.json.then(|| "true".to_owned())),
    ]);
    let limit = arguments.limit.unwrap_or(if arguments.follow { LIMIT_BEFORE_LIVE } else { LIMIT_DEFAULT });
    let (mut rows, live) = newest(&client, &filters, limit).await?;
    rows.reverse();
    if arguments.follow {
        return follow(session, &client, &filters, &rows, live).await;
    }
    if session.json {
        rows.iter().try_for_each(|row| session.screen.json_line(row))?;
    } else if rows.is_empty() {
        session.screen.line("No finding matches.")?;
    } else {
        let rows: Vec<_> = rows.iter().map(row).collect();
        session.screen.table(&COLUMNS, &rows)?;
    }
    Ok(0)
}

/// The newest `limit` findings, newest first, and the cursor from which the live ones go on.
pub(super) async fn newest(
    client: &Client,
    filters: &Filters,
    limit: u32,
) -> Result<(Vec<FindingSummary>, String), SocError> {
    let (mut rows, mut live, mut cursor) = (Vec::new(), None, None);
    loop {
        let left = limit.saturating_sub(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        let wanted = left.clamp(1, PAGE_ROWS).to_string();
        let path = filters.path("/findings", &[("limit", Some(wanted)), ("cursor", cursor.take())]);
        let page: FindingPage = client.get(&path).await?;
        let live = live.get_or_insert(page.live).clone();
        rows.extend(page.items.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)));
        cursor = page.next;
        if cursor.is_none() || rows.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Ok((rows, live));
        }
    }
}

/// No filters at all.
pub(super) fn unfiltered() -> Filters {
    Filters(Vec::new())
}

async fn follow(
    session: &mut Session,
    client: &Client,
    filters: &Filters,
    rows: &[FindingSummary],
    mut cursor: String,
) -> Result<u8, SocError> {
    if !session.json {
        let heads: Vec<Cell> = COLUMNS.iter().map(|column| Cell::new(column.head)).collect();
        session.screen.row(&LIVE_WIDTHS, &heads)?;
    }
    for finding in rows {
        print(&mut session.screen, session.json, finding)?;
    }
    let path = filters.path("/findings/stream", &[]);
    let (mut pause, mut lost) = (PAUSE_MIN, false);
    loop {
        let before = cursor.clone();
        let error = match stream(session, client, &path, &mut cursor, &mut lost).await {
            Ok(()) => "the collector ended the stream".to_owned(),
            Err(SocError::Refused { status: GONE, message, .. }) => {
                // A failure here is met again, and told, by the next attempt.
                if let Ok((_, live)) = newest(client, filters, 0).await {
                    cursor = live;
                }
                format!("{}; going on with what is new", printable(&message))
            }
            // Too many streams, or too many failures from this address: both pass.
            Err(error @ SocError::Refused { status: TOO_MANY, .. }) => error.to_string(),
            Err(error @ (SocError::Refused { .. } | SocError::Output(_) | SocError::Usage(_))) => {
                return Err(error);
            }
            Err(error) => error.to_string(),
        };
        if !lost {
            notice(&format!("{error}; connecting again …"));
            lost = true;
        }
        pause = if cursor == before { (pause * 2).min(PAUSE_MAX) } else { PAUSE_MIN };
        tokio::time::sleep(pause).await;
    }
}

/// Prints what one connection brings. The cursor moves only with what was printed.
async fn stream(
    session: &mut Session,
    client: &Client,
    path: &str,
    cursor: &mut String,
    lost: &mut bool,
) -> Result<(), SocError> {
    let mut answer = client.stream(path, cursor).await?;
    if std::mem::take(lost) {
        notice("connected again; going on where it broke off");
    }
    let mut reader = EventReader::default();
    while let Some(piece) = answer.piece(QUIET_MAX).await? {
        let events = reader.push(&piece).map_err(|error| SocError::Failing(error.to_string()))?;
        for event in events {
            take(session, &event)?;
            if !event.id.is_empty() {
                cursor.clone_from(&event.id);
            }
        }
    }
    Ok(())
}

fn take(session: &mut Session, event: &Event) -> Result<(), SocError> {
    match event.name.as_str() {
        "finding" => {
            let finding = serde_json::from_str(&event.data)
                .map_err(|error| SocError::Failing(format!("the stream holds no finding: {error}")))?;
            print(&mut session.screen, session.json, &finding)
        }
        "error" => {
            Err(SocError::Failing(format!("the collector broke the stream off: {}", printable(&event.data))))
        }
        // `position` only moves the cursor; others are for newer readers.
        _ => Ok(()),
    }
}

fn print(screen: &mut Screen, json: bool, finding: &FindingSummary) -> Result<(), SocError> {
    if json {
        screen.json_line(finding)?
    } else {
        screen.row(&LIVE_WIDTHS, &row(finding))?
    }
    Ok(())
}

fn row(finding: &FindingSummary) -> Vec<Cell> {
    let id = finding.id.to_string();
    let short = id.get(id.len().saturating_sub(SHORT_ID)..).unwrap_or(&id).to_owned();
    let title = if finding.drill { format!("[drill] {}", finding.title) } else { finding.title.clone() };
    vec![
        Cell::time(finding.time),
        Cell::severity(finding.severity),
        Cell::new(&finding.hostname),
        Cell::new(&finding.rule),
        Cell::new(short),
        Cell::new(title),
    ]
}
