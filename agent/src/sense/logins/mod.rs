//! The login sensor.
