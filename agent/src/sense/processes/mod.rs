//! Processes: who did what a sensor saw.

mod actor;
mod process;

use std::sync::Arc;

pub use actor::{Actor, Ancestor};
pub use process::{KnownBy, Process, Program, Users};

/// Shared hold on what is known of processes; cheap to clone. The default knows nobody.
#[derive(Clone, Debug, Default)]
pub struct Processes {}

impl Processes {
    /// Takes up all that the kernel has told until now. To be called once for a batch of observations, after these
    /// were read: whatever a process did, the table hears of the process before.
    pub fn catch_up(&self) {}

    /// The process of that number, running or gone some seconds ago; none when it is not known.
    pub fn get(&self, _pid: u32) -> Option<Arc<Process>> {
        None
    }
}
