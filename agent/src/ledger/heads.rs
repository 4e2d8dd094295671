//! How others learn at once that the ledger has grown.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

/// How far the ledger is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Durable records.
    pub size: u64,
    /// How many of them the collector has cosigned.
    pub acknowledged: u64,
}

/// A shared hold on the newest [`Head`]; cheap to clone.
///
/// Any number of threads may [`Heads::wait_beyond`]. The descriptor is for one reader that polls other
/// things as well: it becomes readable with each commit and stays so until [`Heads::clear`].
#[derive(Clone, Debug)]
pub struct Heads(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    head: Mutex<Head>,
    grown: Condvar,
    event: OwnedFd,
}

impl Heads {
    pub(super) fn new(head: Head) -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { head: Mutex::new(head), grown: Condvar::new(), event })))
    }

    pub(super) fn publish(&self, head: Head) {
        *self.0.head.lock().unwrap_or_else(PoisonError::into_inner) = head;
        self.0.grown.notify_all();
        // Fails only when the counter is full, and then the descriptor is readable already.
        let _readable = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
    }

    /// The newest head.
    pub fn head(&self) -> Head {
        *self.0.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the ledger has more than `size` records or `timeout` has passed; gives the newest head.
    pub fn wait_beyond(&self, size: u64, timeout: Duration) -> Head {
        let deadline = Instant::now() + timeout;
        let mut head = self.0.head.lock().unwrap_or_else(PoisonError::into_inner);
        while head.size <= size {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            head = self.0.grown.wait_timeout(head, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *head
    }

    /// Makes the descriptor unreadable until the next commit. Call it before reading the head, not after.
    pub fn clear(&self) {
        // Fails only when there was nothing to clear.
        let _empty = rustix::io::read(&self.0.event, &mut [0u8; 8]);
    }
}

impl AsFd for Heads {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
