//! The file sensor on real files. Needs root: fanotify, device nodes and mounts.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up, or lacks what it looks for, has failed"
)]

mod attributes;
mod cases;
mod edits;
mod everyday;
mod faults;
mod filesystems;
mod foreign;
mod hands;
mod host;
mod kinds;
mod lab;
mod logs;
mod mass;
mod meaning;
mod model;
mod namespaces;
mod packages;
mod quiet;
mod silence;
mod snaps;
mod who;
