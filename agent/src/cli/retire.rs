//! `agent retire`: what the package's scripts call before the agent is removed.

use picket_protocol::finding::printable;
use serde_json::json;

use super::{Exit, Global, client, output, release};
use crate::core::retire::{self, Note};
use crate::respond::custody::Released;
use crate::respond::offline;
use crate::status::Request;
use crate::uplink::pending;

/// End everything that the agent does to this host, and record and ship that it is removed: the package's scripts do it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The agent goes on until it is stopped, and takes it back at its next start.\n\nExample:\n  sudo agent retire    (apt remove and dnf remove do it by themselves)"
)]
pub(super) struct Arguments {}

pub(super) fn run(global: &Global, _arguments: Arguments) -> Exit {
    if !rustix::process::geteuid().is_root() {
        output::error("only root may do that (try sudo)");
        return Exit::Usage;
    }
    let loaded = global.load_or_usual();
    let layout = client::layout(&loaded.config);
    // An agent that goes is not to come back by itself.
    if let Err(error) = pending::forget(&layout) {
        output::error(&format!("{}: {error}", layout.join_pending().display()));
    }
    let released = client::ask_once::<Released>(&layout.socket(), &Request::Release { id: None });
    let noted = client::ask_once::<Note>(&layout.socket(), &Request::Retire {});
    let (note, left) = match (released, noted) {
        (Ok(released), Ok(note)) => {
            if !global.json {
                release::print(&released);
            }
            (note, released.left())
        }
        // It is dead, or in no state to answer.
        (_, Err(_)) | (Err(_), _) => {
            let (person, boot) = (crate::status::own_person(), crate::machine::boot().unwrap_or_default());
            let report = offline::release(&layout, &boot, person.clone(), crate::clock::now());
            if !global.json {
                release::tell(&report);
            }
            release::remove_metrics(&loaded);
            (retire::say_offline(&loaded, &layout, &person), report.left())
        }
    };
    let note = retire::keep_what_is_held(&layout, note, &left);
    let elsewhere = release::end_elsewhere(&loaded);
    elsewhere.iter().for_each(|problem| output::error(problem));
    let fine = left.is_empty() && elsewhere.is_empty();
    tell(global, &note);
    if fine && note.problem.is_none() { Exit::Fine } else { Exit::Failing }
}

fn tell(global: &Global, note: &Note) {
    if global.json {
        output::json(&json!(note));
        return;
    }
    if let Some(problem) = &note.problem {
        output::error(&format!("the removal could not be recorded: {}", printable(problem)));
    }
    output::line(match (note.seq, note.delivered, note.keep) {
        (_, true, _) => "the removal is recorded, and the collector has confirmed it",
        (Some(_), false, true) => {
            "the removal is recorded; the collector could not be told, so the record stays on this host"
        }
        (Some(_), false, false) => "the removal is recorded on this host",
        (None, ..) => "there is no record of the removal",
    });
}
