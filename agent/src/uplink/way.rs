//! The core's end of [`super::examine`]: has an uplink process go the way to the collector, and gives what it told within
//! a bounded time, however the network hangs.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::UplinkConfig;
use crate::layout::Layout;

use super::child::Process;
use super::ipc::{Examined, IpcError, Message, Notice, Settings, Step, Task};
use super::uplink_account;

/// For one step; the longest is a name server that does not answer.
const STEP_WAIT: Duration = Duration::from_secs(15);

/// How far the way went.
#[derive(Debug, Default)]
pub struct Way {
    /// The steps that were told of, in their order.
    pub steps: Vec<Examined>,
    /// Why there are no more, where that is no step's own failure: the process could not be used, or a step hung.
    pub broken: Option<String>,
}

impl Way {
    /// What was told of a step.
    pub fn step(&self, step: Step) -> Option<&Examined> {
        self.steps.iter().find(|told| told.step == step)
    }
}

/// Goes the way to `address` once. `program` is started as `<program> uplink`.
pub fn go(layout: &Layout, uplink: &UplinkConfig, address: &str, program: &Path) -> Way {
    let settings = Settings {
        task: Task::Examine {
            key: layout.tls_key(),
            certificate: layout.tls_certificate(),
            ca: layout.ca_certificate(),
        },
        address: address.to_owned(),
        proxy: uplink.proxy.clone(),
        backoff_max_ms: 0,
        failures: 0,
        known: Vec::new(),
    };
    let mut way = Way::default();
    let started = uplink_account(&uplink.user)
        .map_err(|error| error.to_string())
        .and_then(|account| Process::start(program, account, settings).map_err(|error| error.to_string()));
    match started {
        Err(why) => way.broken = Some(format!("the uplink process does not start: {why}")),
        Ok(mut process) => {
            if let Err(why) = follow(&mut process, &mut way) {
                way.broken = Some(why);
            }
            // It has said what it had to say, or hangs: either way it is of no use any more.
            let _ended = process.end().is_ok();
        }
    }
    way
}

fn follow(process: &mut Process, way: &mut Way) -> Result<(), String> {
    let failed = |error: IpcError| format!("the uplink process: {error}");
    let mut until = Instant::now() + STEP_WAIT;
    loop {
        process.flush().map_err(failed)?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let after = way.steps.last().map_or("starting it", |told| after(told.step));
            return Err(format!("{after} took longer than {} s", STEP_WAIT.as_secs()));
        }
        let events = if process.is_idle() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let wait = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0) + 1, tv_nsec: 0 };
        match poll(&mut [PollFd::new(&*process, events)], Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(std::io::Error::from(error).into())),
        }
        let messages = match process.read() {
            Ok(messages) => messages,
            // That is how it ends when it has told everything.
            Err(IpcError::Closed) if !way.steps.is_empty() => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for message in messages {
            match message {
                Message::Notice(Notice::Examined(told)) => {
                    way.steps.push(told);
                    until = Instant::now() + STEP_WAIT;
                }
                Message::Notice(Notice::Failed { reason }) => return Err(reason),
                _ => {}
            }
        }
    }
}

/// What comes after a step, in words.
fn after(step: Step) -> &'static str {
    match step {
        Step::Keys => "looking its name up",
        Step::Name => "connecting",
        Step::Connection => "the proxy's tunnel or the TLS handshake",
        Step::Proxy => "the TLS handshake",
        Step::Tls | Step::Answer => "the collector's answer",
    }
}
