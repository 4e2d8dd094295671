//! The uplink as it is: the real process in its real sandbox, against a small collector of the test's own
//! that can be as honest or as hostile as a test wants.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests: what does not hold shall fail them"
)]

mod collector;
mod enrol;
mod host;
mod link;
mod names;
mod proxy;
mod sandbox;
mod unused;
