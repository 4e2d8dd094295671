//! Floods and scans: what the kernel counted, or a capture holds, in; findings out.
//!
//! The sensor does not look at packets one by one: they are counted where they pass, in tables of fixed size, and every
//! 100 ms a [`Summary`] of deltas comes here. So the cost does not grow with a flood. A [`Counter`] makes the same summaries from packets, for the
//! rung that has no maps in the kernel, and for captures. Of single packets only a bounded sample of connection attempts is looked
//! at, as [`Probe`]s.

pub mod class;
pub mod counter;
pub mod flood;
pub mod probe;
pub mod scan;
pub mod summary;
pub mod thresholds;
mod words;

pub use class::Class;
pub use counter::Counter;
pub use flood::FloodDetector;
pub use probe::{Answer, Probe, ProbeKind, Stealth};
pub use scan::ScanDetector;
pub use summary::{
    Connections, Count, Direction, KernelDelta, ListenerLoad, Spread, Summary, Talker, Target, Traffic,
    TtlSpread,
};
pub use thresholds::Thresholds;
