//! Processes: who did what a sensor saw.

mod actor;

pub use actor::{Actor, Ancestor};
