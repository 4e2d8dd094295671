//! What the kernel refuses, in words for people.

use std::error::Error;

/// Characters of an explanation.
const EXPLAINED_CHARS: usize = 400;

/// An error with its causes, on one line: what the verifier says is long, and its end matters.
pub fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ");
    match line.char_indices().rev().nth(EXPLAINED_CHARS) {
        Some((at, _)) => format!("…{}", line.get(at..).unwrap_or_default()),
        None => line,
    }
}
