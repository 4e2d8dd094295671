//! `agent replay --pcap`.

use std::io;
use std::path::Path;

use super::open;
use super::print::Printer;
use crate::cli::Exit;
use crate::cli::output::{self, count};
use crate::replay::capture::Capture;
use crate::replay::network::NetworkReplay;

pub(super) fn run(path: &Path, mut replay: NetworkReplay, json: bool) -> Exit {
    let source = match open(path) {
        Ok(source) => source,
        Err(error) => {
            output::error(&format!("{}: {error}", path.display()));
            return Exit::Failing;
        }
    };
    let mut capture = Capture::new(source);
    let mut printer = Printer::new(io::stdout().lock(), json);
    let read = capture.read(&mut |captured| replay.packet(&captured, &mut |finding| printer.timed(finding)));
    let ended = read.and_then(|read| {
        // What was read before a fault counts as well.
        replay.finish(&mut |finding| printer.timed(finding))?;
        printer.close(&sentence(&replay, capture.tally.left_out))?;
        Ok(read)
    });
    match ended {
        Ok(Ok(())) => Exit::Fine,
        Ok(Err(fault)) => {
            output::error(&format!("{} {fault}", path.display()));
            Exit::Failing
        }
        // Nobody reads any more: that is an end like any other.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Fine,
        Err(error) => {
            output::error(&format!("cannot write: {error}"));
            Exit::Failing
        }
    }
}

fn sentence(replay: &NetworkReplay, left_out: u64) -> String {
    let tally = replay.tally;
    let mut text = format!("{} packets, {} findings", count(tally.packets), count(tally.findings));
    if tally.malformed > 0 {
        text.push_str(&format!(", {} packets malformed", count(tally.malformed)));
    }
    if left_out > 0 {
        text.push_str(&format!(", {} packets of unknown links or without a time left out", count(left_out)));
    }
    if let Some(address) = replay.guessed {
        text.push_str(&format!("; {address} was taken for the host's address (--local says which it is)"));
    }
    text
}
