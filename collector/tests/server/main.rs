//! The collector against real TLS clients over loopback: a small agent of the tests speaks the protocol, well
//! and badly.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod clients;
mod enrolment;
mod faults;
mod fleet;
mod forks;
mod processes;
mod receipts;
mod renewal;
mod streaming;
