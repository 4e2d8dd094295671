//! A collector's state in one file, and back: `collector backup` and `collector restore`. What is in it, and in which form, is
//! written in [`picket_protocol::backup`].
//!
//! A backup is taken beside the running collector and shows it as it was at one moment. Under its name stands a whole backup or
//! nothing; it is 0600, since it holds the keys that every enrolled host trusts. The certificate of the server and its key are not
//! in it: a restored collector issues itself new ones, which agents take, since they know the CA.
//!
//! A restore writes nothing outside of a directory that is empty, and nothing in it counts before all of the archive has been
//! read and held against its manifest.

mod error;
mod restore;
mod write;

pub use error::BackupError;
pub use restore::{Restored, restore};
pub use write::{Taken, Target, back_up, remove_leftover};
