//! The Picket agent: watches one host, seals what it finds, ships it, and carries out signed commands.
//!
//! Findings flow one way, **sense → detect → ledger → uplink**; commands the other, **uplink → respond →
//! ledger**. See `ARCHITECTURE.md`.
#![deny(unsafe_code)]

pub mod bounded;
pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod detect;
pub mod doctor;
pub mod enrolment;
pub mod glob;
pub mod guard;
#[cfg(any(test, fuzzing))]
pub mod hostile;
pub mod instructions;
pub mod layout;
pub mod ledger;
pub mod machine;
pub mod netlink;
pub mod noted;
pub mod replay;
pub mod respond;
pub mod sense;
pub mod status;
#[allow(unsafe_code, reason = "the one module that makes raw system calls")]
pub mod sys;
pub mod thread_self;
pub mod turn;
pub mod uplink;
