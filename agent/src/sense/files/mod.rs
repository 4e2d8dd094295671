//! The file sensor.
