//! The TLS pipe, in its own process.
//!
//! Two halves live here. In the **core**: [`link`] starts and supervises the uplink process, and carries out
//! what [`session`], a pure state machine, decides. In the **uplink process** ([`process`]): TLS, proxy,
//! back-off, renewal, behind a sandbox. Between them a Unix socketpair with the messages of [`ipc`].
//!
//! The uplink can drop what it carries, which is noticed; it can forge nothing, because records are sealed
//! and commands are signed on the far sides of both ends.

pub mod backoff;
mod beside;
pub mod certificate;
mod child;
pub mod core_end;
pub mod credentials;
pub mod dial;
mod driver;
pub mod enrolling;
pub mod evidence;
pub mod examine;
pub mod ipc;
pub mod joining;
pub mod link;
pub mod pending;
pub mod process;
pub mod proxy;
pub mod rate;
pub mod relay;
pub mod renewing;
mod reports;
pub mod sandbox;
pub mod session;
mod source;
pub mod status;
pub mod syscalls;
pub mod tls;
pub mod way;

pub use evidence::{EvidenceSource, Upload};
pub use link::{
    CommandSink, LedgerSource, LinkConfig, LinkHandle, SourceError, StartError, start, uplink_account,
};
pub use source::LedgerLink;
pub use status::{LinkReport, LinkState, LinkStatus};
