//! Properties of every codec and rule: what is written reads back, what is changed no longer verifies, and
//! whatever arrives, nothing panics. The decoders on wholly hostile bytes are the business of `tests/corpus.rs`
//! and of the fuzz targets.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod bundles;
mod codecs;
mod commands;
mod evidence;
mod frames;
mod generate;
mod metrics;
mod names;
mod signed;
mod sshsig;
mod trees;
mod trust;
