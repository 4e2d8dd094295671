//! The network sensor: what goes over the interfaces of this host, counted where it passes.
//!
//! **Promise.** Every packet is counted once, by class, interface and direction, with who sends most and how many send, at a
//! cost for the agent that does not grow with a flood. Where that is not possible here, what is lost or sampled is
//! counted and shown.
//!
//! **How.** The best rung of a [`ladder`] counts. On `tap` a program of ours is the filter of one packet socket that sees all
//! interfaces: it counts in arrays that user space reads without a system call, and hands on a bounded number of
//! attempts that may be part of a scan, each with its answer. On `ring` and `pnet` packets come to user space and are counted here. The kernel's own
//! counters are read on every rung as the second witness.
//!
//! **Limits.** The arrays take at most 8 MiB on any machine (`layout::Sizes`), the ring half a MiB on `tap` and 8 MiB on
//! `ring`. Interfaces beyond 64 (fewer on machines with many processors) are counted together as `other`. It is this network
//! namespace that is seen: containers are seen at the host's end of their cables.

mod connections;
mod connects;
mod counts;
mod datalink;
mod detectors;
pub(crate) mod interfaces;
pub mod ladder;
mod layout;
mod learned;
pub mod line;
pub mod listeners;
pub mod neighbours;
mod own;
mod program;
mod sampling;
mod senders;
pub(crate) mod sockets;
mod summaries;
pub mod talkers;
#[cfg(test)]
mod testing;
mod witness;
mod worker;

use crate::config::NetworkConfig;
use crate::sense::{SensorContext, SensorError, SensorHandle};

pub use ladder::{Rung, probe};
pub use learned::SCHEMA;

/// Starts the sensor's thread on the best rung that works, or on the one that the configuration names. Gives who sends most as well.
///
/// # Errors
/// When no thread can be started, or interfaces cannot be heard of.
pub fn start(
    config: &NetworkConfig,
    context: SensorContext,
) -> Result<(SensorHandle, talkers::Talkers), SensorError> {
    let (rungs, opened) = ladder::open(config.rung);
    let slots = opened.counts.as_ref().map_or(layout::INTERFACES, counts::Counts::slots);
    let interfaces = interfaces::Interfaces::open(slots)
        .map_err(|source| SensorError::System { doing: "hear of network interfaces", source })?;
    context.status.update(|report| report.ladder = rungs);
    let seed = ladder::seed().unwrap_or_default();
    let mut detectors = detectors::Detectors::new(config.thresholds, seed, context.watch.clone());
    restore(&mut detectors, &context.database);
    let talkers = detectors.talkers.clone();
    let worker = worker::Worker::new(context, opened, interfaces, detectors);
    let mut handle = SensorHandle::default();
    handle.spawn("network", move || worker.run())?;
    Ok((handle, talkers))
}

/// Goes on with what the last run has learned; what of it cannot be read is told and learned anew.
fn restore(detectors: &mut detectors::Detectors, database: &std::path::Path) {
    match learned::read(database) {
        Ok((rows, damaged)) => {
            let damaged = damaged + detectors.restore(rows, crate::clock::now());
            if damaged > 0 {
                tracing::warn!(
                    damaged,
                    "network: what the last run has learned cannot be read in part and is learned anew"
                );
            }
        }
        Err(error) => {
            tracing::warn!(%error, "network: what the last run has learned cannot be read and is learned anew");
        }
    }
}
