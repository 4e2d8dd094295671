//! The sensor of neighbours: frames by which the hosts of a segment find each other, and the kernel's own table of them.
//! What they mean is decided in [`crate::detect::neighbour`].
//!
//! Two witnesses: a packet socket with a filter in the kernel (`filter`) shows every forged frame; rtnetlink shows what the kernel
//! believed, and tells of interfaces, addresses and default routes. Either works alone, with less to say. Both wake the
//! thread only when there is something: idle it costs nothing. Above 5,000 frames a second the filter lets only a
//! random part through, which is counted for the whole, and the status says so; the kernel's table is heard in full.
//!
//! Frames are looked at where the host has its addresses: not on ports of a bridge or a bond, whose master shows them,
//! and not inside VLAN tags, whose own interface shows them. Everything is of the agent's own network namespace.

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock;
use crate::detect::neighbour::{Detector, Shown, Thresholds};
use crate::sense::{RungProbe, SensorContext, SensorError, SensorHandle, SensorProbe, SensorState};
use crate::sys::FrameSocket;

mod filter;
pub(crate) mod kernel;
mod store;
mod worker;

pub use store::SCHEMA;
use worker::Worker;

/// Shared hold on what is known of neighbours; cheap to clone. The default knows nobody.
#[derive(Clone, Debug, Default)]
pub struct Neighbours(Option<Arc<Mutex<Detector>>>);

impl Neighbours {
    /// All that are known.
    pub fn list(&self) -> Vec<Shown> {
        let Some(detector) = &self.0 else { return Vec::new() };
        detector.lock().unwrap_or_else(PoisonError::into_inner).neighbours()
    }
}

/// Tries both sources once.
pub fn probe() -> SensorProbe {
    let frames = FrameSocket::open(&filter::program(1)).map(|_| "every frame, with who sent it".to_owned());
    let table = kernel::listen().map(|_| "what the kernel believes, and its default routes".to_owned());
    let rungs = [("frames", frames), ("netlink", table)].map(|(rung, tried)| RungProbe {
        rung: rung.to_owned(),
        usable: tried.is_ok(),
        reason: tried.unwrap_or_else(|error| error.to_string()),
    });
    SensorProbe { sensor: "neighbours".to_owned(), rungs: rungs.to_vec() }
}

/// Starts the sensor's thread.
///
/// # Errors
/// When neither source works, or the rows of the last run cannot be read.
pub fn start(
    thresholds: Thresholds,
    context: SensorContext,
) -> Result<(SensorHandle, Neighbours), SensorError> {
    let ladder = probe().rungs;
    let usable = ladder.iter().any(|rung| rung.usable);
    context.status.update(|report| {
        report.ladder = ladder;
        report.state = SensorState::Running;
    });
    if !usable {
        return Err(SensorError::NoRung);
    }
    let mut detector = Detector::new(thresholds, clock::now());
    let damaged = detector.restore(store::rows(&context.database)?);
    if damaged > 0 {
        tracing::warn!(damaged, "neighbours: rows of the last run cannot be read and are taken anew");
    }
    let shared = Arc::new(Mutex::new(detector));
    let worker = Worker::new(context, Arc::clone(&shared));
    let mut handle = SensorHandle::default();
    handle.spawn("neighbours", move || worker.run())?;
    Ok((handle, Neighbours(Some(shared))))
}
