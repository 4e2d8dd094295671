//! `collector operator`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::args::Operator;
use super::output::{Output, table, text_of};
use super::{CliError, client};
use crate::server::admin::Request;
use crate::store::Role;

pub fn run(directory: &Path, arguments: Operator, output: &Output) -> Result<(), CliError> {
    match arguments {
        Operator::Add { name, role, expires, soc_config } => {
            add(directory, name, role, expires, soc_config.as_deref(), output)
        }
        Operator::List => {
            let operators = client::ask(directory, Request::Operators)?;
            output.show(&operators, |operators| {
                let row = |operator: &Value| {
                    ["name", "role", "created", "expires"].map(|m| text_of(operator, m)).to_vec()
                };
                let rows: Vec<_> = operators.as_array().into_iter().flatten().map(row).collect();
                table(&["NAME", "ROLE", "SINCE", "UNTIL"], &rows)
            });
            Ok(())
        }
        Operator::Remove { name } => {
            let removed = client::ask(directory, Request::OperatorRemove { name })?;
            output.show(&removed, |removed| format!("{} is removed", text_of(removed, "name")));
            Ok(())
        }
    }
}

fn add(
    directory: &Path,
    name: String,
    role: Role,
    expires: Option<Duration>,
    soc_config: Option<&Path>,
    output: &Output,
) -> Result<(), CliError> {
    if let Some(path) = soc_config
        && path.exists()
    {
        return Err(CliError::Refused(format!("{} exists already", path.display())));
    }
    let seconds = expires.map(|period| period.as_secs());
    let mut added = client::ask(directory, Request::OperatorAdd { name, role, seconds })?;
    let Some(path) = soc_config else {
        output.show(&added, |added| {
            format!(
                "{} may now use the API as {}. Their token, shown once:\n{}",
                text_of(added, "name"),
                text_of(added, "role"),
                text_of(added, "token")
            )
        });
        return Ok(());
    };
    write_config(path, &added).map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))?;
    if let Some(members) = added.as_object_mut() {
        members.remove("token");
        members.insert("soc_config".to_owned(), json!(path));
    }
    output.show(&added, |added| {
        format!(
            "{} may now use the API as {}: soc --config {} whoami",
            text_of(added, "name"),
            text_of(added, "role"),
            path.display()
        )
    });
    Ok(())
}

/// The configuration that `soc` reads, and the CA's certificate beside it.
fn write_config(path: &Path, added: &Value) -> std::io::Result<()> {
    let member = |name: &str| added.get(name).and_then(Value::as_str).unwrap_or_default();
    let ca = ca_path(path);
    create(&ca, 0o644, member("ca").as_bytes())?;
    let ca_name = ca.file_name().and_then(|name| name.to_str()).unwrap_or("ca.crt");
    let text = Zeroizing::new(format!(
        "address = {:?}\nca = {ca_name:?}\ntoken = {:?}\nwitness = {:?}\n",
        member("address"),
        member("token"),
        member("witness")
    ));
    create(path, 0o600, text.as_bytes())
}

fn ca_path(path: &Path) -> PathBuf {
    path.with_extension("ca.crt")
}

fn create(path: &Path, mode: u32, bytes: &[u8]) -> std::io::Result<()> {
    let replaces = mode != 0o600;
    let mut options = OpenOptions::new();
    options.write(true).mode(mode);
    // Only the certificate may be there already: it is no secret and the same each time.
    if replaces {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
