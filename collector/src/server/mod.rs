//! The running collector: the listener, the sessions of agents, the silence watch and the admin socket.

pub mod shared;

pub use shared::{ServerInfo, Shared, SubmitError};
