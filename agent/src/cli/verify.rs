//! `agent verify`: checks the whole ledger on this host, offline.

use std::io::{IsTerminal as _, Write as _};

use super::output::count;
use super::{Exit, Global, client, output};
use crate::enrolment::Enrolment;
use crate::ledger::{Anchors, Reader, VerifyReport};

/// Check every record, the tree, all signatures and the collector's cosignature, on this host alone
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sudo agent verify\n  sudo agent verify --json")]
pub(super) struct Arguments {}

pub(super) fn run(global: &Global, _arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let layout = client::layout(&loaded.config);
    if !layout.database().exists() {
        output::error(&format!(
            "there is no ledger at {}, or only root may see it",
            layout.database().display()
        ));
        return Exit::Failing;
    }
    let enrolment = Enrolment::load(&layout.enrolment()).ok();
    let anchors = Anchors {
        enrolled_key: enrolment.as_ref().map(|enrolment| enrolment.enrolled_key),
        witness: enrolment.as_ref().and_then(|enrolment| enrolment.witness_key().ok()),
    };
    let mut progress = Progress::new();
    let checked = Reader::open(&layout.database())
        .and_then(|reader| reader.verify(&anchors, |done, all| progress.show(done, all)));
    progress.clear();
    match checked {
        Ok(report) => {
            print(&report, global.json);
            if report.is_sound() { Exit::Fine } else { Exit::Failing }
        }
        Err(error) => {
            output::error(&format!("the ledger cannot be checked: {error}"));
            Exit::Failing
        }
    }
}

fn print(report: &VerifyReport, json: bool) {
    if json {
        let mut value = serde_json::json!(report);
        if let Some(object) = value.as_object_mut() {
            object.insert("verified".to_owned(), report.is_sound().into());
        }
        output::json(&value);
        return;
    }
    let verdict = if report.is_sound() { "verified" } else { "NOT SOUND" };
    output::line(&format!(
        "{verdict}: {} records ({} kept, {} by hash alone), {} checkpoints, {} keys",
        count(report.size),
        count(report.kept),
        count(report.forgotten),
        count(report.checkpoints),
        count(report.keys),
    ));
    output::line(&match report.cosigned_at {
        Some(time) => format!(
            "cosigned by the collector: {} records at {}",
            count(report.cosigned),
            output::second(time)
        ),
        None => "cosigned by the collector: nothing that can be checked here".to_owned(),
    });
    for problem in &report.problems {
        output::line(&format!("  {}", picket_protocol::finding::printable(&problem.to_string())));
    }
    let listed = u64::try_from(report.problems.len()).unwrap_or(u64::MAX);
    if report.problems_total > listed {
        output::line(&format!("  and {} more", count(report.problems_total - listed)));
    }
}

/// A line on a terminal's stderr that counts.
struct Progress {
    shown: bool,
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { shown: false, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, done: u64, all: u64) {
        if self.terminal {
            self.shown = true;
            // A terminal that has gone needs no progress.
            let _written = write!(std::io::stderr(), "\r{} of {} records", count(done), count(all)).is_ok();
        }
    }

    fn clear(&self) {
        if self.shown {
            let _written = write!(std::io::stderr(), "\r\x1b[K").is_ok();
        }
    }
}
