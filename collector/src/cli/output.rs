//! What `collector` prints. Text that may come from outside is made printable first.

use std::io::Write as _;

use picket_protocol::finding::printable;
use serde_json::{Value, json};

/// Text for people, or JSON for programs.
pub struct Output {
    /// JSON.
    pub json: bool,
}

impl Output {
    /// Prints `value` as JSON, or the lines that `text` makes of it.
    pub fn show(&self, value: &Value, text: impl FnOnce(&Value) -> String) {
        let all = if self.json { value.to_string() } else { text(value) };
        let mut out = std::io::stdout().lock();
        // Who closed the pipe does not want to know.
        drop(writeln!(out, "{}", all.trim_end_matches('\n')));
    }

    /// As [`Output::show`], on stderr: where what was asked for goes to standard output.
    pub fn note(&self, value: &Value, text: impl FnOnce(&Value) -> String) {
        let all = if self.json { value.to_string() } else { text(value) };
        drop(writeln!(std::io::stderr().lock(), "{}", all.trim_end_matches('\n')));
    }

    /// Prints an error on stderr.
    pub fn error(&self, text: &str) {
        let mut out = std::io::stderr().lock();
        let line = if self.json {
            json!({"error": text}).to_string()
        } else {
            format!("collector: {}", text.lines().map(printable).collect::<Vec<_>>().join("\n  "))
        };
        drop(writeln!(out, "{line}"));
    }
}

/// A member as printable text; empty when it is not there.
pub fn text_of(value: &Value, member: &str) -> String {
    match value.get(member) {
        Some(Value::String(text)) => printable(text).into_owned(),
        Some(Value::Null) | None => String::new(),
        Some(other) => printable(&other.to_string()).into_owned(),
    }
}

/// Rows in columns that are as wide as they need to be.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain(head.get(at).map(|cell| cell.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}
