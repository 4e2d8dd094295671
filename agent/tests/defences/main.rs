//! The defences sensor against the real kernel: each test in network and mount namespaces of its own, where rules are
//! flushed, places are mounted over, settings are weakened and packets are listened to. What the kernel has only once
//! (audit, modules, the clock, access control) is not touched: its reading is tested beside the code, its meaning
//! in the detector's tests.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up, or lacks what it looks for, has failed"
)]

mod firewall;
mod lab;
mod mounts;
mod network;
mod services;
mod settings;
