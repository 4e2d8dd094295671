//! The ledger through its public face, on real directories: its life, what it forgets, what it proves, and
//! how it meets damaged, foreign, full and read-only state.

mod faults;
mod forgetting;
mod life;
mod support;
mod verify;
