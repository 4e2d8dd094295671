//! `agent neighbours`: who has which address on the segments of this host.

use picket_protocol::finding::printable;
use picket_protocol::time::Timestamp;

use super::client::ask;
use super::output::{Style, Tone, ago};
use super::{Exit, Global, client, output};
use crate::detect::neighbour::Shown;
use crate::status::Request;

/// Show who has which address on this host's segments: link-layer address, since when, how often it changed hands
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agent neighbours\n  agent neighbours --interface eth0\n  agent neighbours --contested\n  agent neighbours --json"
)]
pub(super) struct Arguments {
    /// Only those on this interface
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Only addresses that two claim
    #[arg(long)]
    contested: bool,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let socket = client::layout(&loaded.config).socket();
    let mut neighbours: Vec<Shown> = Vec::new();
    let timeout = Some(std::time::Duration::from_secs(60));
    let answer = ask(&socket, &Request::Neighbours {}, timeout, |item| {
        neighbours.extend(serde_json::from_str::<Shown>(item.get()));
        true
    });
    if let Err(error) = answer {
        return error.report();
    }
    neighbours.retain(|shown| {
        arguments.interface.as_ref().is_none_or(|interface| shown.interface == *interface)
            && (!arguments.contested || shown.state == "contested")
    });
    if global.json {
        for shown in &neighbours {
            if !output::json(shown) {
                break;
            }
        }
        return Exit::Fine;
    }
    if neighbours.is_empty() {
        output::line("no neighbour is known yet");
        return Exit::Fine;
    }
    let (style, now) = (Style::of_stdout(), crate::clock::now());
    let width = neighbours.iter().map(|shown| shown.address.to_string().len()).max().unwrap_or(7);
    let header =
        format!("{:<width$}  {:<17}  {:<15}  first and last seen", "address", "link-layer", "interface");
    let mut open = output::line(&style.paint(Tone::Faint, &header));
    for shown in &neighbours {
        open = open && show(shown, width, now, style);
    }
    Exit::Fine
}

fn show(shown: &Shown, width: usize, now: Timestamp, style: Style) -> bool {
    let address = format!("{:<width$}", shown.address.to_string());
    let interface = match shown.vlan {
        0 => printable(&shown.interface).into_owned(),
        vlan => format!("{} vlan {vlan}", printable(&shown.interface)),
    };
    let mut line = format!(
        "{}  {}  {interface:<15}  {}, {}",
        style.paint(Tone::Strong, &address),
        shown.mac,
        ago(shown.first_seen, now),
        ago(shown.last_seen, now)
    );
    for role in &shown.roles {
        line.push_str(&format!(", {}", style.paint(Tone::Good, &printable(role))));
    }
    if shown.changes > 0 {
        let former: Vec<String> = shown.former.iter().map(|former| former.mac.to_string()).collect();
        let times = if shown.changes == 1 { "once".to_owned() } else { format!("{} times", shown.changes) };
        line.push_str(&format!(", changed {times}, before at {}", former.join(", ")));
    }
    if shown.state == "contested" {
        line.push_str(&format!(", {}", style.paint(Tone::Warning, "contested")));
    }
    output::line(&line)
}
