//! The file sensor on real files. Needs root: fanotify, device nodes and mounts.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod cases;
mod lab;
