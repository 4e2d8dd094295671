//! `soc send`: posts a signed command, and with `--wait` follows what becomes of it on each host.

use super::args::SendArguments;
use super::error::SocError;
use super::period::parse_period;
use super::{Session, draft, follow, trust};
use crate::api::types::CommandSummary;

/// `soc send FILE [--wait]`.
pub(super) async fn send(session: &mut Session, arguments: &SendArguments) -> Result<u8, SocError> {
    let patience = parse_period(&arguments.timeout).map_err(SocError::Usage)?;
    let envelope = trust::read_envelope(&arguments.file)?;
    draft::peek(&envelope)?;
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
    follow::until_settled(session, &client, posted.id, None, Some(patience)).await
}
