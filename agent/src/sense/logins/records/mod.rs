//! The utmp family: binary records of who came, who was refused, and who is in.

pub mod entry;

pub use entry::{RECORD_BYTES, Record};
