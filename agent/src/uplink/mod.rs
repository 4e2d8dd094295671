//! The TLS pipe, in its own process.
//!
//! Two halves live here. In the **core**: [`link`] starts and supervises the uplink process, and carries out
//! what [`session`], a pure state machine, decides. In the **uplink process** ([`process`]): TLS, proxy,
//! back-off, renewal, behind a sandbox. Between them a Unix socketpair with the messages of [`ipc`].
//!
//! The uplink can drop what it carries, which is noticed; it can forge nothing, because records are sealed
//! and commands are signed on the far sides of both ends.

pub mod ipc;
pub mod link;
pub mod sandbox;
pub mod status;
pub mod syscalls;

pub use link::{CommandSink, LedgerSource, LinkConfig, LinkHandle, SourceError, start};
pub use status::{LinkReport, LinkState, LinkStatus};
