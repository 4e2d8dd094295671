//! `collector trust`.

use std::io::Read as _;
use std::path::Path;

use picket_protocol::dsse::ENVELOPE_BYTES_MAX;
use serde_json::Value;

use super::args::Trust;
use super::output::{Output, table, text_of};
use super::{CliError, client};
use crate::server::admin::Request;

pub fn run(directory: &Path, arguments: Trust, output: &Output) -> Result<(), CliError> {
    match arguments {
        Trust::Install { file } => {
            let envelope = read(&file)?;
            let row = client::ask(directory, Request::TrustInstall { envelope })?;
            output.show(&row, |row| {
                format!("Trust root {} of {} is in force", text_of(row, "version"), text_of(row, "tenant"))
            });
        }
        Trust::Show { tenant } => {
            let mut all = client::ask(directory, Request::Trusts)?;
            if let (Some(rows), Some(tenant)) = (all.as_array_mut(), &tenant) {
                rows.retain(|row| row.get("tenant").and_then(Value::as_str) == Some(tenant.as_str()));
            }
            output.show(&all, |all| rows(all.as_array().map_or(&[], Vec::as_slice)));
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<String, CliError> {
    let usage = |error: &dyn std::fmt::Display| CliError::Usage(format!("{}: {error}", file.display()));
    let mut text = String::new();
    let limit = u64::try_from(ENVELOPE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let opened = std::fs::File::open(file).map_err(|e| usage(&e))?;
    opened.take(limit).read_to_string(&mut text).map_err(|e| usage(&e))?;
    Ok(text)
}

fn rows(trusts: &[Value]) -> String {
    let row = |row: &Value| {
        let keys = row.pointer("/root/keys").and_then(Value::as_object).map_or(0, serde_json::Map::len);
        let threshold = row.pointer("/root/root/threshold").map(Value::to_string).unwrap_or_default();
        let roles = row.pointer("/root/roles").and_then(Value::as_object);
        let roles = roles.map(|roles| roles.keys().cloned().collect::<Vec<_>>().join(","));
        let cell = |name: &str| text_of(row, name);
        let shown = picket_protocol::finding::printable(&roles.unwrap_or_default()).into_owned();
        vec![cell("tenant"), cell("version"), cell("expires"), keys.to_string(), threshold, shown]
    };
    let rows: Vec<Vec<String>> = trusts.iter().map(row).collect();
    table(&["TENANT", "VERSION", "EXPIRES", "KEYS", "ROOT THRESHOLD", "ROLES"], &rows)
}
