//! Detectors: observations in, findings out. Pure and deterministic: no clock, no I/O, no randomness; time
//! and finding ids are arguments, so a capture or a log can be replayed through the very same code.

pub mod acts;
pub mod defences;
pub mod files;
pub mod listener;
pub mod logins;
pub mod logs;
pub mod mass_change;
pub mod neighbour;
pub mod network;
pub mod packages;
pub mod packets;
pub mod sessions;
pub mod silence;
pub mod web;
