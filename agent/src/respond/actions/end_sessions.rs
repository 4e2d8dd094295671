//! `end-sessions`: what runs in the login sessions of a user is told to go (HUP), and killed when it has not gone within
//! [`GRACE`]. There is nothing to undo, and so no lease.
//!
//! Theirs is what the kernel's audit says that the user's log-in has started, as whomever it runs by now (`loginuid`), and
//! what is in the user's slice of the control groups. Never ended: the first process, the kernel's, the agent and those
//! above it; and of what does not run as the user also sshd's listener, service managers and package managers.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::accounts::{LocalAccount, is_in_slice, text_of};
use super::{Plan, Surroundings};
use crate::respond::freeze_tree::Stopped;
use crate::respond::processes::{NAMED_MAX, Spared, count, named, signal, told, whose};
use crate::respond::receipt::safe;
use crate::sense::processes::{Life, life, living, real_and_effective};

/// How long they have to go by themselves.
pub const GRACE: Duration = Duration::from_secs(2);
/// How long the kernel may take to end who is killed.
const KILLED_WITHIN: Duration = Duration::from_secs(2);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Times that new ones are looked for.
const ROUNDS_MAX: usize = 8;

/// What ending them would do.
///
/// # Errors
/// When there is no such account.
pub fn plan(user: &str, surroundings: &Surroundings) -> Result<Plan, String> {
    let uid = LocalAccount::find(user, surroundings)?.uid;
    let lives = lives_of(uid);
    let session = |life: &Life| text_of(life.pid, "sessionid").trim().parse::<u32>().ok();
    let is_known = |session: &u32| *session != u32::MAX;
    let sessions: BTreeSet<u32> = lives.iter().filter_map(session).filter(is_known).collect();
    let mut lines = match lives.len() {
        0 => vec![format!("{user} has no session now: nothing is ended.")],
        some => {
            let names: Vec<String> = lives.iter().take(NAMED_MAX).map(told).collect();
            let more = if some > NAMED_MAX { " and others" } else { "" };
            let what = format!("{}{more}", names.join(", "));
            vec![
                format!(
                    "What runs in the sessions of {user} (uid {uid}) is ended, for good: {}, {what}.",
                    count(some)
                ),
                format!(
                    "It is told to go (HUP), and killed when it has not gone within {} s.",
                    GRACE.as_secs()
                ),
            ]
        }
    };
    lines.push("The user can log in again: freeze the account before.".to_owned());
    let process = |life: &Life| {
        let name = safe(&String::from_utf8_lossy(&life.name));
        json!({ "pid": life.pid, "name": name, "of": whose(life.pid), "session": session(life).filter(is_known) })
    };
    let processes: Vec<Value> = lives.iter().take(NAMED_MAX).map(process).collect();
    let data = json!({
        "user": user, "uid": uid, "sessions": sessions, "ends": lives.len(), "processes": processes,
    });
    Ok(Plan { lines, data })
}

/// Ends them; gives what is to be told.
///
/// # Errors
/// When there is no such account, or some are left.
pub fn end(user: &str, surroundings: &Surroundings) -> Result<(String, Value), String> {
    let uid = LocalAccount::find(user, surroundings)?.uid;
    let mut ended = of(uid);
    ended.iter().for_each(|process| signal(process, Signal::HUP));
    wait(&ended, GRACE);
    for _ in 0..ROUNDS_MAX {
        // Those that were started meanwhile are among them.
        let left = of(uid);
        if left.is_empty() {
            break;
        }
        left.iter().for_each(|process| signal(process, Signal::KILL));
        wait(&left, KILLED_WITHIN);
        ended.extend(left.into_iter().filter(|process| !ended.contains(process)).collect::<Vec<_>>());
    }
    let left = of(uid);
    if !left.is_empty() {
        return Err(format!("{} of {user}'s sessions could not be ended", count(left.len())));
    }
    let title = match ended.len() {
        0 => format!("{user} had no session"),
        some => format!("The sessions of {user} are ended: {}", count(some)),
    };
    Ok((title, json!({ "user": user, "ended": ended.len(), "processes": named(&ended) })))
}

fn of(uid: u32) -> Vec<Stopped> {
    lives_of(uid).iter().map(Stopped::of).collect()
}

fn lives_of(uid: u32) -> Vec<Life> {
    let all: Vec<Life> = living().into_iter().filter_map(life).collect();
    let spared = Spared::new(&all);
    let is_spared = |life: &Life| match real_and_effective(life.pid) == Some((uid, uid)) {
        // What a user's program is called says nothing.
        true => spared.is_vital(life),
        false => spared.is(life),
    };
    let meant = |life: &&Life| life.runs() && is_of_session(life.pid, uid) && !is_spared(life);
    all.iter().filter(meant).cloned().collect()
}

fn is_of_session(pid: u32, uid: u32) -> bool {
    text_of(pid, "loginuid").trim().parse() == Ok(uid) || is_in_slice(&text_of(pid, "cgroup"), uid)
}

fn wait(processes: &[Stopped], patience: Duration) {
    let until = crate::clock::since_boot().saturating_add(patience);
    let lives = |process: &Stopped| life(process.pid).is_some_and(|life| process.is(&life) && life.runs());
    while processes.iter().any(lives) && crate::clock::since_boot() < until {
        std::thread::sleep(LOOK_AGAIN);
    }
}
