//! `kill-process`: ends the one process that the order names by number, beginning and content of its program, or nobody.
//! There is nothing to undo, and so no lease. What is beneath it goes on: freeze it first where that matters.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

use super::{Plan, Surroundings};
use crate::respond::freeze_tree::Stopped;
use crate::respond::processes::{NAMED_MAX, Named, count, named, signal, told, whose};
use crate::respond::receipt::safe;
use crate::sense::processes::{Life, life, living};

/// How long the kernel may take.
const ENDED_WITHIN: Duration = Duration::from_secs(2);
/// Pause between two looks, on kernels before 5.3.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What killing it would do.
///
/// # Errors
/// When it is another process, or one that is never ended.
pub fn plan(process: Named<'_>, surroundings: &Surroundings) -> Result<Plan, String> {
    let (_held, found) = hold(process, surroundings)?;
    let all: Vec<Life> = living().into_iter().filter_map(life).collect();
    let beneath: Vec<&Life> = all.iter().filter(|life| life.parent == found.pid && life.runs()).collect();
    let who = whose(found.pid);
    let mut lines = vec![format!(
        "Process {} ({}, {who}) is killed, for good, and what only its memory holds is lost.",
        found.pid,
        safe(&found.name)
    )];
    if !beneath.is_empty() {
        let names: Vec<String> = beneath.iter().take(NAMED_MAX).map(|life| told(life)).collect();
        lines.push(format!("What it has started goes on: {}, {}.", count(beneath.len()), names.join(", ")));
    }
    let beneath: Vec<Stopped> = beneath.into_iter().map(Stopped::of).collect();
    let data = json!({
        "processes": named(&[found]), "sha256": process.sha256, "of": who, "goes_on": named(&beneath),
    });
    Ok(Plan { lines, data })
}

/// Kills it; gives what is to be told.
///
/// # Errors
/// When it is another process, one that is never ended, or it does not end.
pub fn kill(process: Named<'_>, surroundings: &Surroundings) -> Result<(String, Value), String> {
    let (opened, found) = hold(process, surroundings)?;
    let sent = match &opened {
        Some(opened) => pidfd_send_signal(opened, Signal::KILL),
        None => {
            signal(&found, Signal::KILL);
            Ok(())
        }
    };
    sent.map_err(|error| format!("process {} cannot be killed: {error}", process.pid))?;
    let left = Timespec { tv_sec: i64::try_from(ENDED_WITHIN.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    match &opened {
        // What has ended is looked at below.
        Some(opened) => drop(poll(&mut [PollFd::new(opened, PollFlags::IN)], Some(&left))),
        None => wait(process.pid),
    }
    if life(process.pid).is_some_and(|life| found.is(&life) && life.runs()) {
        return Err(format!("process {} has not ended yet: the kernel does not let go of it", process.pid));
    }
    let title = format!("Process {} ({}) is killed", process.pid, safe(&found.name));
    Ok((title, json!({ "processes": named(&[found]), "sha256": process.sha256 })))
}

/// The process, and a descriptor of it where the kernel has such: whoever has the number now has it as long as that is open, so that all
/// that is found is of whom is hit.
fn hold(process: Named<'_>, surroundings: &Surroundings) -> Result<(Option<OwnedFd>, Stopped), String> {
    let is_gone = || format!("there is no process {}", process.pid);
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw).ok_or_else(is_gone)?;
    let opened = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(opened) => Some(opened),
        // Kernels before 5.3.
        Err(Errno::NOSYS) => None,
        Err(Errno::SRCH) => return Err(is_gone()),
        Err(error) => return Err(format!("process {} cannot be held: {error}", process.pid)),
    };
    let found = process.find(surroundings.booted)?;
    Ok((opened, found))
}

fn wait(pid: u32) {
    let until = crate::clock::since_boot().saturating_add(ENDED_WITHIN);
    while life(pid).is_some_and(|life| life.runs()) && crate::clock::since_boot() < until {
        std::thread::sleep(LOOK_AGAIN);
    }
}
