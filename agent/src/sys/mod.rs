//! Raw system calls, each behind a safe face. The only module of the agent where `unsafe` is allowed.

mod stop;

pub use stop::Stop;
