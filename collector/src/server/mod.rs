//! The running collector: the listener, the sessions of agents, the silence watch and the admin socket.

pub mod admin;
pub mod authority;
pub mod certificate;
pub mod chain;
pub mod config;
mod connection;
pub mod data_dir;
pub mod door;
pub mod enrol;
pub mod evidence;
mod fence;
pub mod limits;
pub mod listener;
pub mod meters;
pub mod metrics;
pub mod run;
pub mod session;
pub mod shared;
pub mod state;
pub mod tls;
pub mod watch;
pub mod wire;
pub mod witness;

pub use shared::{ServerInfo, Shared, SubmitError};
pub use witness::Witness;
