//! The local socket: what `agent status` and the like ask, and who may ask it.
//!
//! One request a connection: a line of JSON ([`Request`]), answered by lines of JSON ([`Reply`]), the last of
//! which is an answer or an error. The socket is `0660 root:picket` (`0600` where there is no such group), so
//! that the kernel keeps others away; what changes something is done for root alone, by the peer credentials.

mod accept;
mod connect;
mod guard;
pub mod message;
pub mod metrics;
mod person;
pub use person::own as own_person;
mod quieten;
mod report;
mod server;
pub mod show;
pub mod spending;
mod textfile;
pub mod window;

pub use connect::{ACCEPT_TIMEOUT, connect};
pub use message::{FindingQuery, HOLD_SECONDS_MAX, Reply, Request};
pub use report::{Cosignature, LedgerStatus, Protection, Sources, StatusReport};
pub use server::Server;
pub use textfile::Textfile;
