//! The defences sensor against the real kernel: each test in network and mount namespaces of its own, where rules are
//! flushed, places are mounted over, settings are weakened and packets are listened to; a real systemd in namespaces of
//! its own, whose services are stopped; and the machine's one audit, which is put back as it was. What this
//! machine cannot do for real is read as other kernels show it (`recorded`): its kernel is built without modules and runs without
//! SELinux and AppArmor, and lockdown can only be raised for good. BPF programs are loaded for real in the sensor's unit tests. The
//! clock of a real agent is set by libfaketime in the end-to-end tests: the machine's own would disturb every other test.
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
