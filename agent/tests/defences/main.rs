//! The defences sensor against the real kernel: each test in network and mount namespaces of its own, where rules are
//! flushed, places are mounted over, settings are weakened and packets are listened to; a real systemd in namespaces of
//! its own, whose services are stopped; and the machine's one audit, which is put back as it was. Modules, the clock
//! and access control are not touched: their reading is tested beside the code, their meaning in the detector's tests.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up, or lacks what it looks for, has failed"
)]

mod audit;
mod firewall;
mod lab;
mod mounts;
mod network;
mod recorded;
mod services;
mod settings;
mod systemd;
