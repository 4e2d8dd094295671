//! The TLS pipe, in its own process.
