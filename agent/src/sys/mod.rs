//! Raw system calls, each behind a safe face. The only module of the agent where `unsafe` is allowed.

mod spawn;
mod stop;
mod user;

pub use spawn::{ConfinedChild, spawn_confined};
pub use stop::Stop;
pub use user::{Account, AccountError};
