//! `collector host`.

use std::path::Path;

use serde_json::{Value, json};

use super::args::Host;
use super::output::{Output, table, text_of};
use super::{CliError, client};
use crate::server::admin::Request;

pub fn run(directory: &Path, arguments: Host, output: &Output) -> Result<(), CliError> {
    match arguments {
        Host::List { tenant } => {
            let hosts = json!(list(directory, tenant.as_ref())?);
            output.show(&hosts, |hosts| rows(hosts.as_array().map_or(&[], Vec::as_slice)));
        }
        Host::Show { id } => {
            let host = client::ask(directory, Request::Host { agent: id })?;
            output.show(&host, details);
        }
        Host::Revoke { id, reason } => {
            let host = client::ask(directory, Request::Revoke { agent: id, reason })?;
            output.show(&host, |host| {
                format!("{} ({}) is revoked", text_of(host, "agent"), text_of(host, "hostname"))
            });
        }
    }
    Ok(())
}

fn list(
    directory: &Path,
    tenant: Option<&picket_protocol::identity::Tenant>,
) -> Result<Vec<Value>, CliError> {
    let (mut hosts, mut after) = (Vec::new(), None);
    loop {
        let mut page = client::ask(directory, Request::Hosts { tenant: tenant.cloned(), after })?;
        if let Some(Value::Array(items)) = page.get_mut("hosts").map(Value::take) {
            hosts.extend(items);
        }
        after = page.get("next").and_then(Value::as_u64);
        if after.is_none() {
            return Ok(hosts);
        }
    }
}

fn state_of(host: &Value) -> String {
    let flag = |name: &str| host.get(name).and_then(Value::as_bool).unwrap_or(false);
    match text_of(host, "state").as_str() {
        "active" if flag("silent") => "silent".to_owned(),
        "active" if flag("connected") => "connected".to_owned(),
        "active" => "away".to_owned(),
        other => other.to_owned(),
    }
}

fn rows(hosts: &[Value]) -> String {
    let row = |host: &Value| {
        let cell = |name: &str| text_of(host, name);
        vec![
            cell("agent"),
            cell("tenant"),
            cell("hostname"),
            state_of(host),
            cell("size"),
            cell("last_seen"),
            cell("version"),
        ]
    };
    let rows: Vec<Vec<String>> = hosts.iter().map(row).collect();
    table(&["AGENT", "TENANT", "HOSTNAME", "STATE", "RECORDS", "LAST SEEN", "VERSION"], &rows)
}

fn details(host: &Value) -> String {
    let mut lines = vec![format!("{} {}", text_of(host, "agent"), state_of(host))];
    for member in [
        "tenant",
        "hostname",
        "version",
        "state_reason",
        "enrolled",
        "last_seen",
        "size",
        "committed",
        "certificate_expires",
        "ledger_key",
        "enrolled_key",
        "facts",
    ] {
        let text = text_of(host, member);
        if !text.is_empty() {
            lines.push(format!("  {:<20} {text}", member.replace('_', " ")));
        }
    }
    lines.join("\n")
}
