//! The host sensor: heartbeats.
