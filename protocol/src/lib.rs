//! What a Picket agent and a collector must agree on: records and findings, the transparency log that
//! seals them, signed commands, and the frames that carry all of it.
//!
//! This crate is pure: no I/O, no clock, no randomness, no async. Time and entropy are arguments. Every
//! decoder treats its input as written by an attacker: lengths are bounded before anything is allocated,
//! and each failure says what was wrong.
#![forbid(unsafe_code)]

pub mod action;
pub mod age;
pub mod backup;
pub mod bundle;
pub mod checkpoint;
pub mod command;
pub mod crypto;
pub mod dsse;
pub mod evidence;
pub mod finding;
pub mod frame;
pub mod identity;
pub mod join;
pub mod json;
pub mod message;
pub mod metrics;
pub mod note;
pub mod playbook;
pub mod record;
pub mod renewal;
pub mod signer;
pub mod ssh;
pub mod sshsig;
pub mod tar;
pub mod time;
pub mod tree;
pub mod trust;
pub mod wire;
