//! Verify and carry out commands.
