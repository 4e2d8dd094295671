//! The ledger: seal, keep, hand out, forget. SQLite, one writer.
//!
//! The writer thread takes [`Entry`]s from a bounded queue and commits what has gathered in one transaction
//! (at most 1,024 records): records, tree, signed checkpoint, and the state that the sender gave with them.
//! A sensor's position therefore never runs ahead of, or falls behind, the findings it led to.

mod sealer;

pub use sealer::{Entry, SealError, Sealed, Sealer, StateWrite};
