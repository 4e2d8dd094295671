//! Text for people: colour only on a terminal, nothing from outside unescaped.

use std::io::{IsTerminal as _, Write as _};

use picket_protocol::finding::printable;

/// How something is meant; decides its colour where there is colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As the terminal writes.
    Plain,
    /// All is well.
    Good,
    /// Somebody should look.
    Warning,
    /// It does not work.
    Bad,
    /// Less important.
    Faint,
    /// A heading.
    Strong,
}

/// Writes text in tones, or plainly.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// Colour when stdout is a terminal and `NO_COLOR` is unset.
    pub fn of_stdout() -> Self {
        let unset = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour: unset && std::io::stdout().is_terminal() }
    }

    /// Never colour.
    pub fn plain() -> Self {
        Self { colour: false }
    }

    /// `text` in `tone`. The text must be safe to print; see [`printable`].
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31;1",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Prints one line of error to stderr.
pub fn error(text: &str) {
    eprintln!("agent: {}", printable(text));
}

/// Prints `value` as indented JSON; false when stdout is closed.
pub fn json(value: &impl serde::Serialize) -> bool {
    let Ok(text) = serde_json::to_string_pretty(value) else { return false };
    line(&text)
}

/// Prints one line; false when stdout is closed (`agent findings | head`), which ends the output quietly.
pub fn line(text: &str) -> bool {
    writeln!(std::io::stdout().lock(), "{text}").is_ok()
}
