//! The protocol against what others published: every vector here was made by somebody else, and each test
//! names the document or test suite that it was taken from.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod ed25519;
mod envelope;
mod notes;
mod trees;

fn unhex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0, "an even number of digits");
    let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(pair).collect()
}

fn unhex32(text: &str) -> [u8; 32] {
    unhex(text).try_into().expect("32 bytes")
}
