//! The login sensor on real files, real rotations, a real journald.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and tells")]

mod databases;
mod journal;
mod killed;
mod ledger;
mod rotation;
mod sensor;
mod services;
