//! `soc receipts --verify`: whether each receipt is sealed in the ledger of its host. The proof is checked on this machine, with keys
//! that are pinned here: a collector that makes a receipt up, changes what one says, or shows one as another host's is found out.

use std::collections::BTreeMap;

use picket_protocol::bundle::{Bundle, Proven};
use picket_protocol::command::Receipt as Sealed;
use picket_protocol::identity::AgentId;
use picket_protocol::record::{Kind, Record};

use super::Session;
use super::client::{Client, MISSING};
use super::config::SocConfig;
use super::error::SocError;
use super::proof::{Keys, Verdict};
use super::receipts::{RECEIPT_COLUMNS, row};
use super::screen::{Cell, Column, Paint};
use super::show::keys_of;
use crate::api::types::Receipt;

/// Prints receipts, each with what its proof came to: 0 when all are sealed by hosts whose commands they answer, else 1.
pub(super) async fn list(
    session: &mut Session,
    config: &SocConfig,
    client: &Client,
    receipts: Vec<Receipt>,
) -> Result<u8, SocError> {
    let (mut keys, mut rows, mut code) = (BTreeMap::new(), Vec::new(), 0);
    for receipt in receipts {
        let proved = prove(session, config, client, &receipt, &mut keys).await?;
        let holds = proved.is_ok() && !receipt.foreign;
        code |= u8::from(!holds);
        if session.json {
            let proof = serde_json::json!({ "verified": proved.is_ok(), "why": proved.err() });
            session.screen.json_line(&serde_json::json!({ "receipt": receipt, "proof": proof }))?;
            continue;
        }
        let proof = match proved {
            Ok(()) => Cell::new("verified").paint(Paint::Green),
            Err(why) => Cell::new(format!("NOT VERIFIED: {why}")).paint(Paint::RedBold),
        };
        rows.push(std::iter::once(proof).chain(row(&receipt)).collect());
    }
    if !session.json && rows.is_empty() {
        session.screen.line("No receipt matches.")?;
    } else if !session.json {
        let columns: Vec<Column> =
            std::iter::once(Column { head: "PROOF", width_max: 100 }).chain(RECEIPT_COLUMNS).collect();
        session.screen.table(&columns, &rows)?;
    }
    Ok(code)
}

/// Whether the host's ledger holds this receipt; the inner error is why it does not.
async fn prove(
    session: &Session,
    config: &SocConfig,
    client: &Client,
    receipt: &Receipt,
    known: &mut BTreeMap<AgentId, Keys>,
) -> Result<Result<(), String>, SocError> {
    let path = format!("/receipts/{}/{}/bundle", receipt.agent, receipt.seq);
    let bytes = match client.get_bytes(&path).await {
        Ok(bytes) => bytes,
        Err(SocError::Refused { status: MISSING, message, .. }) => return Ok(Err(message)),
        Err(error) => return Err(error),
    };
    let bundle = match Bundle::parse(&bytes) {
        Ok(bundle) => bundle,
        Err(error) => return Ok(Err(format!("the collector gave {error}"))),
    };
    let keys = match known.get(&receipt.agent) {
        Some(keys) => keys.clone(),
        None => keys_of(session, config, client, receipt.agent).await?,
    };
    known.insert(receipt.agent, keys.clone());
    let verdict = Verdict::of(bundle, keys);
    Ok(verdict.outcome.and_then(|proven| is_about(&verdict.claimed, &proven, receipt)))
}

/// A true proof of something else is no proof of this receipt.
fn is_about(bundle: &Bundle, proven: &Proven, receipt: &Receipt) -> Result<(), String> {
    if (bundle.agent, bundle.seq) != (receipt.agent, receipt.seq) {
        return Err("the proof is of another record".to_owned());
    }
    let record = Record::parse(&proven.record).map_err(|error| error.to_string())?;
    let sealed: Option<Sealed> = record.body().ok().filter(|_| record.kind == Kind::Receipt);
    let sealed = sealed.ok_or("the proven record is no receipt")?;
    let says = (sealed.command, sealed.outcome.as_str());
    if says == (receipt.command, receipt.outcome.as_str()) {
        return Ok(());
    }
    let command = sealed.command.map_or_else(|| "no command".to_owned(), |id| format!("command {id}"));
    Err(format!("the sealed receipt says {} of {command}", sealed.outcome.as_str()))
}
