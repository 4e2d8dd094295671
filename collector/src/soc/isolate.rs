//! `soc isolate`: writes the command that cuts hosts off, and shows how far it reaches before anybody signs it.

use std::path::{Path, PathBuf};

use picket_protocol::command::{Action, Command};

use super::args::IsolateArguments;
use super::error::SocError;
use super::radius::Radius;
use super::{Session, draft, trust};

/// Ends of ids in file names: as many characters as lists show of them.
const ID_END: usize = 12;

/// `soc isolate HOST…`.
pub(super) async fn isolate(session: &mut Session, arguments: IsolateArguments) -> Result<u8, SocError> {
    let lease = draft::lease(&arguments.lease)?;
    let action = draft::dry(Action::Isolate {}, arguments.dry_run)?;
    let command = draft::compose(session, action, lease, &arguments.hosts, &arguments.text).await?;
    let name = if arguments.dry_run { "plan" } else { "isolate" };
    write(session, &command, name, arguments.trust.as_deref(), arguments.output).await
}

/// Writes a command, and shows how far it reaches; to `<name>-<end of its id>.json` where no file is named.
pub(super) async fn write(
    session: &mut Session,
    command: &Command,
    name: &str,
    trust: Option<&Path>,
    output: Option<PathBuf>,
) -> Result<u8, SocError> {
    let given = trust.map(|path| trust::peek(&trust::read_envelope(path)?)).transpose()?;
    let radius = Radius::of(session, command, given).await;
    let file = output.unwrap_or_else(|| default_file(name, command));
    draft::write_command(&file, command)?;
    if session.json {
        session.screen.json(&radius.to_json(command, &file))?;
        return Ok(0);
    }
    super::sign::print_command(&mut session.screen, command, session.now, super::sign::NETWORKS_SHOWN_MAX)?;
    radius.print(session, command)?;
    let (shown, times) = (file.display(), radius.fewest(command));
    let by = times.map_or_else(String::new, |times| format!(" (by {times} of the operators)"));
    session.screen.line(&format!(
        "\nWrote {shown}, unsigned. Next: soc sign {shown} --key FILE{by}; soc send {shown} --wait"
    ))?;
    Ok(0)
}

fn default_file(name: &str, command: &Command) -> PathBuf {
    let id = command.id.to_string();
    PathBuf::from(format!("{name}-{}.json", id.get(id.len().saturating_sub(ID_END)..).unwrap_or(&id)))
}
