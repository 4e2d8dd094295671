//! `soc hosts`, and how a host is named on the command line.

use picket_protocol::identity::AgentId;

use super::Session;
use super::args::HostsArguments;
use super::client::{Client, with_query};
use super::error::SocError;
use super::period::show_period;
use super::screen::{Cell, Column, Paint, short_time};
use crate::api::types::{Host, HostPage, Whoami};

/// Most hosts that are fetched for one list.
const HOSTS_MAX: usize = 200_000;

const COLUMNS: [Column; 7] = [
    Column { head: "NAME", width_max: 28 },
    Column { head: "STATE", width_max: 9 },
    Column { head: "LAST SEEN", width_max: 12 },
    Column { head: "TENANT", width_max: 16 },
    Column { head: "AGENT", width_max: 36 },
    Column { head: "RECORDS", width_max: 12 },
    Column { head: "VERSION", width_max: 16 },
];

/// `soc hosts [HOST] [--tenant]`.
pub(super) async fn list(session: &mut Session, arguments: HostsArguments) -> Result<u8, SocError> {
    let (_, client) = session.connect()?;
    if let Some(name) = &arguments.host {
        let host = resolve(&client, name).await?;
        return show(session, &host);
    }
    let hosts = all(&client, arguments.tenant).await?;
    if session.json {
        hosts.iter().try_for_each(|host| session.screen.json_line(host))?;
        return Ok(0);
    }
    if hosts.is_empty() {
        session.screen.line("No host is enrolled yet.")?;
        return Ok(0);
    }
    let rows: Vec<_> = hosts.iter().map(|host| row(host, session.now)).collect();
    session.screen.table(&COLUMNS, &rows)?;
    Ok(0)
}

/// All hosts that the operator may see, of one tenant where one is given; at most [`HOSTS_MAX`].
pub(super) async fn all(client: &Client, tenant: Option<String>) -> Result<Vec<Host>, SocError> {
    let mut hosts = Vec::new();
    let mut cursor = None;
    loop {
        let pairs =
            [("tenant", tenant.clone()), ("cursor", cursor.take()), ("limit", Some("1000".to_owned()))];
        let page: HostPage = client.get(&with_query("/hosts", &pairs)).await?;
        hosts.extend(page.items);
        cursor = page.next;
        if cursor.is_none() || hosts.len() >= HOSTS_MAX {
            return Ok(hosts);
        }
    }
}

/// `soc whoami`.
pub(super) async fn whoami(session: &mut Session) -> Result<u8, SocError> {
    let (_, client) = session.connect()?;
    let whoami: Whoami = client.get("/whoami").await?;
    if session.json {
        session.screen.json(&whoami)?;
        return Ok(0);
    }
    session.screen.field("operator", &whoami.operator)?;
    session.screen.field("role", &whoami.role)?;
    session.screen.field("token until", whoami.expires.map_or("no end".to_owned(), short_time))?;
    session.screen.field("witness key", &whoami.witness)?;
    Ok(0)
}

/// The one host that `name` means: an agent id, a unique prefix of one, or a unique host name.
///
/// # Errors
/// When it means none or several.
pub(super) async fn resolve(client: &Client, name: &str) -> Result<Host, SocError> {
    if let Some(agent) = AgentId::parse(name) {
        return client.get(&format!("/hosts/{agent}")).await;
    }
    let page: HostPage = client.get(&with_query("/hosts", &[("match", Some(name.to_owned()))])).await?;
    let shown = picket_protocol::finding::printable(name);
    let mut hosts = page.items;
    match (hosts.pop(), hosts.is_empty()) {
        (Some(host), true) => Ok(host),
        (Some(last), false) => {
            let all = hosts.iter().chain([&last]).take(10);
            let list: Vec<String> =
                all.map(|host| format!("  {}  {}", host.agent, one_line(&host.hostname))).collect();
            Err(SocError::Usage(format!("{shown:?} means several hosts:\n{}", list.join("\n"))))
        }
        (None, _) => Err(SocError::Bad(format!(
            "no host is called {shown:?}, and no agent id begins so (at least 4 characters of it are needed)"
        ))),
    }
}

/// Resolves where a host was named at all.
pub(super) async fn resolve_optional(
    client: &Client,
    name: Option<&str>,
) -> Result<Option<AgentId>, SocError> {
    match name {
        Some(name) => Ok(Some(resolve(client, name).await?.agent)),
        None => Ok(None),
    }
}

fn one_line(text: &str) -> String {
    picket_protocol::finding::printable(text).into_owned()
}

fn row(host: &Host, now: picket_protocol::time::Timestamp) -> Vec<Cell> {
    vec![
        Cell::new(&host.hostname),
        Cell::new(&host.state).paint(state_paint(&host.state)),
        Cell::new(format!("{} ago", show_period(now.since(host.last_seen)))),
        Cell::new(host.tenant.as_str()),
        Cell::new(host.agent.to_string()),
        Cell::new(host.size.to_string()),
        Cell::new(&host.version),
    ]
}

fn state_paint(state: &str) -> Paint {
    match state {
        "connected" => Paint::Green,
        "away" => Paint::Yellow,
        "silent" => Paint::Red,
        "forked" => Paint::RedBold,
        _ => Paint::Dim,
    }
}

fn show(session: &mut Session, host: &Host) -> Result<u8, SocError> {
    if session.json {
        session.screen.json(host)?;
        return Ok(0);
    }
    let screen = &mut session.screen;
    let seen =
        format!("{} ({} ago)", short_time(host.last_seen), show_period(session.now.since(host.last_seen)));
    screen.field("host", &host.hostname)?;
    screen.field("agent", host.agent.to_string())?;
    screen.field("tenant", host.tenant.as_str())?;
    screen.field_cell("state", &Cell::new(&host.state).paint(state_paint(&host.state)))?;
    if !host.reason.is_empty() {
        screen.field("because", &host.reason)?;
    }
    screen.field("last seen", seen)?;
    screen.field("version", &host.version)?;
    screen.field("enrolled", short_time(host.enrolled))?;
    screen.field("certificate", format!("until {}", short_time(host.certificate_expires)))?;
    screen.field("records", host.size.to_string())?;
    screen.field("enrolled key", host.enrolled_key.to_string())?;
    screen.field("ledger key", host.ledger_key.to_string())?;
    if let Some(facts) = &host.facts {
        super::show::tree(screen, "facts", facts)?;
    }
    Ok(0)
}
