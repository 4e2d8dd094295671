//! Wires the parts of the core process together and runs them.
