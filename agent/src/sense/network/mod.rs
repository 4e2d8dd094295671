//! The network sensor: floods, scans and forged neighbours, seen where packets pass.

#[expect(dead_code, reason = "the sensor's thread, which reads them, follows")]
mod counts;
#[expect(dead_code, reason = "as above")]
mod layout;
pub mod neighbours;
#[expect(dead_code, reason = "as above")]
mod program;
#[cfg(test)]
mod testing;
