//! The login sensor on real files, real rotations, a real journald.

mod journal;
mod ledger;
mod rotation;
mod sensor;
