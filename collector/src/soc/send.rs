//! `soc send`: posts a signed command, and with `--wait` follows what becomes of it on each host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use picket_protocol::identity::AgentId;

use super::args::SendArguments;
use super::client::Client;
use super::error::SocError;
use super::period::parse_period;
use super::receipts::{fetch, row};
use super::{Session, draft, notice, trust};
use crate::api::types::{CommandSummary, Receipt};

/// Pause between two looks at the receipts, at first and after the first ten seconds.
const LOOK_FIRST: Duration = Duration::from_millis(100);
const LOOK_LATER: Duration = Duration::from_secs(1);
const FIRST: Duration = Duration::from_secs(10);

const WIDTHS: [usize; 6] = [20, 24, 12, 12, 36, 400];

/// `soc send FILE [--wait]`.
pub(super) async fn send(session: &mut Session, arguments: &SendArguments) -> Result<u8, SocError> {
    let patience = parse_period(&arguments.timeout).map_err(SocError::Usage)?;
    let envelope = trust::read_envelope(&arguments.file)?;
    let command = draft::peek(&envelope)?;
    if envelope.signatures().is_empty() {
        return Err(SocError::Usage(format!(
            "{} is not signed: every agent would refuse it (soc sign)",
            arguments.file.display()
        )));
    }
    let (_, client) = session.connect()?;
    let bytes = serde_json::to_vec(&envelope).map_err(|error| SocError::Failing(error.to_string()))?;
    let posted: CommandSummary = client.post("/commands", bytes).await?;
    if session.json {
        session.screen.json_line(&posted)?;
    } else {
        session.screen.line(&format!("Command {} is on its way to {} hosts.", posted.id, posted.hosts))?;
    }
    if !arguments.wait {
        return Ok(0);
    }
    let due: BTreeSet<AgentId> = command.hosts.iter().copied().collect();
    wait(session, &client, posted.id, due, patience).await
}

/// 0 when every host did it, 1 when one refused or failed, 2 when one did not answer in time.
async fn wait(
    session: &mut Session,
    client: &Client,
    id: uuid::Uuid,
    mut due: BTreeSet<AgentId>,
    patience: Duration,
) -> Result<u8, SocError> {
    let begin = Instant::now();
    let (mut seen, mut bad) = (BTreeMap::<(AgentId, u64), ()>::new(), false);
    while !due.is_empty() {
        let detail = fetch(client, id).await?;
        for receipt in detail.receipts.iter().rev() {
            if seen.insert((receipt.agent, receipt.seq), ()).is_none() {
                print(session, receipt)?;
                due.remove(&receipt.agent);
            }
        }
        for delivery in detail.deliveries.iter().filter(|delivery| due.contains(&delivery.agent)) {
            bad |= delivery.state == "expired";
        }
        due.retain(|agent| {
            !detail
                .deliveries
                .iter()
                .any(|d| d.agent == *agent && matches!(d.state.as_str(), "answered" | "expired"))
        });
        bad |= detail.deliveries.iter().any(|d| matches!(d.outcome.as_deref(), Some("refused" | "failed")));
        if !due.is_empty() {
            if begin.elapsed() >= patience {
                notice(&format!("{} hosts have not answered; soc command show {id} tells later", due.len()));
                return Ok(2);
            }
            let pause = if begin.elapsed() < FIRST { LOOK_FIRST } else { LOOK_LATER };
            tokio::time::sleep(pause.min(patience.saturating_sub(begin.elapsed()))).await;
        }
    }
    Ok(u8::from(bad))
}

fn print(session: &mut Session, receipt: &Receipt) -> Result<(), SocError> {
    if session.json {
        session.screen.json_line(receipt)?
    } else {
        session.screen.row(&WIDTHS, &row(receipt))?
    }
    Ok(())
}
