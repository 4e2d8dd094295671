//! The vendor's side: verifies what agents send, cosigns it, stores it, and relays signed commands.
#![forbid(unsafe_code)]

pub mod api;
pub mod backup;
pub mod cli;
mod owner;
pub mod server;
pub mod soc;
pub mod store;
