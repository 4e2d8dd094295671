//! Wakes a thread that polls descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd: readable from [`Wake::ring`] to [`Wake::clear`], seen by every clone.
#[derive(Clone, Debug)]
pub struct Wake(Arc<OwnedFd>);

impl Wake {
    /// Fails only when no descriptor is left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Wakes the thread, or keeps it from going to sleep.
    pub fn ring(&self) {
        // Fails only when the counter is full, and then the thread is awake.
        let _awake = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Answers all rings so far.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // Fails only when it was not rung.
        let _rung = rustix::io::read(&*self.0, &mut count);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
