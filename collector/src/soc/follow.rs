//! Receipts as they come: `soc watch`, and what `soc send --wait` waits for. The collector is asked again and again for
//! what lies behind the last receipt; when it or the network goes away, it is asked where it broke off.

use std::time::{Duration, Instant};

use picket_protocol::finding::printable;
use picket_protocol::identity::AgentId;
use uuid::Uuid;

use super::args::WatchArguments;
use super::client::{Client, GONE, TOO_MANY, with_query};
use super::error::SocError;
use super::hosts::resolve_optional;
use super::period::parse_period;
use super::receipts::{RECEIPT_COLUMNS, fetch, plan, row};
use super::screen::Cell;
use super::{Session, notice};
use crate::api::types::{Delivery, Receipt, ReceiptPage};

/// Rows in one request, and with their whole bodies: what the API gives at most then.
const PAGE_ROWS: usize = 1_000;
const PAGE_ROWS_FULL: usize = 100;
/// Most receipts of one command that are printed before the live ones: three of each of its hosts, and some.
const BEFORE_LIVE_MAX: usize = 40_000;
/// Pause between two looks, at first and after ten seconds.
const LOOK_FIRST: Duration = Duration::from_millis(100);
const LOOK_LATER: Duration = Duration::from_secs(1);
const FIRST: Duration = Duration::from_secs(10);
/// How often a command is looked at even when no receipt comes: hosts that never answer let it expire.
const COMMAND_EVERY: Duration = Duration::from_secs(5);

/// Hosts of a command whose state is a long answer.
const LARGE: usize = 200;

const WIDTHS: [usize; 6] = [20, 24, 12, 12, 36, 400];

/// Which receipts, as the API takes it.
pub(super) type Filters = Vec<(&'static str, Option<String>)>;

/// `soc watch [COMMAND]`.
pub(super) async fn watch(session: &mut Session, arguments: WatchArguments) -> Result<u8, SocError> {
    let patience = arguments.timeout.as_deref().map(parse_period).transpose().map_err(SocError::Usage)?;
    let (_, client) = session.connect()?;
    let agent = resolve_optional(&client, arguments.host.as_deref()).await?;
    if let Some(command) = arguments.command {
        return until_settled(session, &client, command, agent, patience).await;
    }
    let filters = vec![("host", agent.map(|agent| agent.to_string())), ("tenant", arguments.tenant)];
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let mut live = Live::start(session, &client, filters, limit, !session.json).await?;
    loop {
        if live.print_later(session).await? == 0 {
            live.pause(None).await;
        }
    }
}

/// Prints the receipts of a command until all its hosts (or only one of them) have said the last word: 0 when each did
/// it, 1 when one refused, failed, reverted it or let it expire, 2 when `patience` ends before.
pub(super) async fn until_settled(
    session: &mut Session,
    client: &Client,
    id: Uuid,
    only: Option<AgentId>,
    patience: Option<Duration>,
) -> Result<u8, SocError> {
    let begin = Instant::now();
    let filters = vec![("command", Some(id.to_string())), ("host", only.map(|agent| agent.to_string()))];
    let mut live = Live::start(session, client, filters, BEFORE_LIVE_MAX, false).await?;
    let (mut looked, mut news, mut progress) = (None::<Instant>, true, Progress::default());
    loop {
        // A last look before giving up: the last word may just have come.
        let over = patience.is_some_and(|patience| begin.elapsed() >= patience);
        let due = over || looked.is_none_or(|looked| looked.elapsed() >= progress.look_every(news));
        let detail = if due { live.guarded(fetch(client, id).await)? } else { None };
        if detail.is_some() {
            (looked, news) = (Some(Instant::now()), false);
        }
        // After the look at the command, so that every receipt that it speaks of is printed.
        news |= live.print_later(session).await? > 0;
        if let Some(detail) = detail {
            progress = Progress::of(&detail.deliveries, only);
            if progress.hosts == 0 {
                return Err(SocError::Usage("that host is not among the command's".to_owned()));
            }
            if progress.open == 0 {
                if detail.summary.action == plan::ACTION && !session.json {
                    plan::list(session, client, &live.filters).await?;
                }
                return Ok(u8::from(progress.bad));
            }
        }
        if over {
            // The collector was away all the time when it told of no host.
            let open = if progress.hosts == 0 { "some".to_owned() } else { progress.open.to_string() };
            notice(&format!("{open} hosts have not said the last word; soc watch {id} goes on"));
            return Ok(2);
        }
        live.pause(patience.map(|patience| patience.saturating_sub(begin.elapsed()))).await;
    }
}

/// The newest `limit` receipts, newest first, and the place behind which later ones are.
pub(super) async fn newest(
    client: &Client,
    filters: &Filters,
    limit: usize,
) -> Result<(Vec<Receipt>, String), SocError> {
    let full = filters.iter().any(|(name, value)| *name == "full" && value.is_some());
    let page_rows = if full { PAGE_ROWS_FULL } else { PAGE_ROWS };
    let (mut rows, mut live, mut cursor) = (Vec::new(), None, None);
    loop {
        let left = limit.saturating_sub(rows.len());
        let wanted = left.clamp(1, page_rows).to_string();
        let page = page(client, filters, &[("limit", Some(wanted)), ("cursor", cursor.take())]).await?;
        let live = live.get_or_insert(page.live).clone();
        rows.extend(page.items.into_iter().take(left));
        cursor = page.next;
        if cursor.is_none() || rows.len() >= limit {
            return Ok((rows, live));
        }
    }
}

async fn page(
    client: &Client,
    filters: &Filters,
    more: &[(&'static str, Option<String>)],
) -> Result<ReceiptPage, SocError> {
    client.get(&with_query("/receipts", &[filters.as_slice(), more].concat())).await
}

/// How far a command is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Hosts that are looked at.
    hosts: usize,
    /// Those of which something is still to come.
    open: usize,
    /// One did not do it.
    bad: bool,
}

impl Progress {
    fn of(deliveries: &[Delivery], only: Option<AgentId>) -> Self {
        let mut progress = Self::default();
        for delivery in deliveries.iter().filter(|delivery| only.is_none_or(|agent| delivery.agent == agent))
        {
            let expired = delivery.state == "expired";
            let settled = expired || (delivery.state == "answered" && !delivery.interim);
            progress.hosts += 1;
            progress.open += usize::from(!settled);
            progress.bad |=
                expired || matches!(delivery.outcome.as_deref(), Some("refused" | "failed" | "reverted"));
        }
        progress
    }

    /// When the command is worth another look: after news soon, unless it is a large one, whose answer is long.
    fn look_every(&self, news: bool) -> Duration {
        match (news, self.hosts) {
            (false, _) => COMMAND_EVERY,
            (true, 0..=LARGE) => Duration::ZERO,
            (true, _) => LOOK_LATER,
        }
    }
}

/// Receipts that match, from a place on.
struct Live<'a> {
    client: &'a Client,
    filters: Filters,
    place: String,
    /// The collector was away at the last look; the operator was told.
    lost: bool,
    /// When something came last.
    active: Instant,
}

impl<'a> Live<'a> {
    /// Prints the newest `limit` receipts, oldest first, under a head where one is wanted, and goes on behind them.
    async fn start(
        session: &mut Session,
        client: &'a Client,
        filters: Filters,
        limit: usize,
        head: bool,
    ) -> Result<Self, SocError> {
        let (rows, place) = newest(client, &filters, limit).await?;
        if head {
            let heads: Vec<Cell> = RECEIPT_COLUMNS.iter().map(|column| Cell::new(column.head)).collect();
            session.screen.row(&WIDTHS, &heads)?;
        }
        rows.iter().rev().try_for_each(|receipt| print(session, receipt))?;
        Ok(Self { client, filters, place, lost: false, active: Instant::now() })
    }

    /// Prints all that came since, and tells how many that were; none when the collector is away.
    async fn print_later(&mut self, session: &mut Session) -> Result<usize, SocError> {
        let mut printed = 0;
        while let Some(items) = self.later().await? {
            items.iter().try_for_each(|receipt| print(session, receipt))?;
            printed += items.len();
            if items.len() < PAGE_ROWS {
                break;
            }
        }
        if printed > 0 {
            self.active = Instant::now();
        }
        Ok(printed)
    }

    /// A page of what came since; nothing when the collector is away.
    async fn later(&mut self) -> Result<Option<Vec<Receipt>>, SocError> {
        let more = [("after", Some(self.place.clone())), ("limit", Some(PAGE_ROWS.to_string()))];
        let page = page(self.client, &self.filters, &more).await;
        if let Err(SocError::Refused { status: GONE, .. }) = &page {
            // A failure here is met again, and told, by the next look.
            if let Ok((_, place)) = newest(self.client, &self.filters, 0).await {
                self.place = place;
            }
        }
        let Some(page) = self.guarded(page)? else { return Ok(None) };
        self.place = page.live;
        Ok(Some(page.items))
    }

    /// Nothing, and a word to the operator, for failures that pass by themselves; others are for the caller.
    fn guarded<T>(&mut self, result: Result<T, SocError>) -> Result<Option<T>, SocError> {
        let error = match result {
            Ok(value) => {
                if std::mem::take(&mut self.lost) {
                    notice("connected again; going on where it broke off");
                }
                return Ok(Some(value));
            }
            Err(SocError::Refused { status: GONE, message, .. }) => {
                format!("{}; going on with what is new", printable(&message))
            }
            Err(error @ (SocError::Failing(_) | SocError::Refused { status: TOO_MANY, .. })) => {
                format!("{error}; asking again …")
            }
            Err(error) => return Err(error),
        };
        if !std::mem::replace(&mut self.lost, true) {
            notice(&error);
        }
        Ok(None)
    }

    async fn pause(&self, most: Option<Duration>) {
        let pause = if self.active.elapsed() < FIRST && !self.lost { LOOK_FIRST } else { LOOK_LATER };
        tokio::time::sleep(most.map_or(pause, |most| pause.min(most))).await;
    }
}

fn print(session: &mut Session, receipt: &Receipt) -> Result<(), SocError> {
    if session.json {
        session.screen.json_line(receipt)?
    } else {
        session.screen.row(&WIDTHS, &row(receipt))?
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(number: u128, state: &str, outcome: Option<&str>, interim: bool) -> Delivery {
        let (state, outcome) = (state.to_owned(), outcome.map(str::to_owned));
        Delivery { agent: AgentId(Uuid::from_u128(number)), state, sent: None, outcome, interim }
    }

    #[test]
    fn a_host_is_done_with_its_last_word_or_when_it_can_say_none_any_more() {
        let cases = [
            ("queued", None, false, (1, false)),
            ("sent", None, false, (1, false)),
            ("expired", None, false, (0, true)),
            ("answered", Some("received"), true, (1, false)),
            ("answered", Some("applied"), true, (1, false)),
            ("answered", Some("applied"), false, (0, false)),
            ("answered", Some("confirmed"), false, (0, false)),
            ("answered", Some("refused"), false, (0, true)),
            ("answered", Some("failed"), false, (0, true)),
            ("answered", Some("reverted"), false, (0, true)),
            ("answered", Some("expired"), false, (0, false)),
            ("answered", Some("released"), false, (0, false)),
        ];
        for (state, outcome, interim, (open, bad)) in cases {
            let other = delivery(2, "queued", None, false);
            let both = [delivery(1, state, outcome, interim), other];
            let one = Progress::of(&both, Some(AgentId(Uuid::from_u128(1))));
            assert_eq!(one, Progress { hosts: 1, open, bad }, "{state} {outcome:?}");
            assert_eq!(Progress::of(&both, None), Progress { hosts: 2, open: open + 1, bad });
        }
    }
}
