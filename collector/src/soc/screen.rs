//! Where `soc` writes: tables fitted to the terminal, colour only on a terminal, and nothing from outside
//! that was not made printable first.

use std::io::{self, IsTerminal as _, Write};

use picket_protocol::finding::{Severity, printable};
use picket_protocol::time::Timestamp;

/// Width when the output is no terminal: wide enough that nothing is cut.
const UNBOUNDED: usize = usize::MAX;
/// Narrowest terminal that tables are fitted to.
const WIDTH_MIN: usize = 40;

/// Standard output, or a buffer in tests.
pub struct Screen {
    out: Box<dyn Write>,
    width: usize,
    colour: bool,
}

/// How a cell is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// As it is.
    Plain,
    /// Less important.
    Dim,
    /// Fine.
    Green,
    /// Look here.
    Yellow,
    /// Bad.
    Red,
    /// Very bad.
    RedBold,
}

/// One cell of a table: text made printable, and its paint.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    /// A cell of text that may come from outside.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self { text: printable(text.as_ref()).into_owned(), paint: Paint::Plain }
    }

    /// With paint.
    #[must_use]
    pub fn paint(mut self, paint: Paint) -> Self {
        self.paint = paint;
        self
    }

    /// A point in time, to the second.
    pub fn time(time: Timestamp) -> Self {
        Self::new(short_time(time))
    }

    /// A severity in its colour.
    pub fn severity(severity: Severity) -> Self {
        let paint = match severity {
            Severity::Info => Paint::Dim,
            Severity::Low => Paint::Plain,
            Severity::Medium => Paint::Yellow,
            Severity::High => Paint::Red,
            Severity::Critical => Paint::RedBold,
        };
        Self::new(severity.as_str()).paint(paint)
    }
}

/// A column: its head, and how wide it is at least and at most before the last one takes the rest.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The head line.
    pub head: &'static str,
    /// Widest that it grows, in characters.
    pub width_max: usize,
}

impl Screen {
    /// Standard output: fitted and coloured when it is a terminal (`NO_COLOR` and `COLUMNS` are honoured).
    pub fn stdout() -> Self {
        let terminal = io::stdout().is_terminal();
        let by_variable = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        let by_terminal =
            || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
        let width =
            if terminal { by_terminal().filter(|width| *width > 0).or(by_variable) } else { by_variable };
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            out: Box::new(io::stdout()),
            width: width.map_or(UNBOUNDED, |width| width.max(WIDTH_MIN)),
            colour: terminal && !no_colour,
        }
    }

    /// Into `out`, of that width.
    #[cfg(test)]
    fn to(out: Box<dyn Write>, width: usize, colour: bool) -> Self {
        Self { out, width, colour }
    }

    /// One line of text of our own; parts from outside must have gone through [`printable`].
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// `label` and a value from outside, aligned; a value of several lines is indented.
    pub fn field(&mut self, label: &str, value: impl AsRef<str>) -> io::Result<()> {
        self.field_cell(label, &Cell::new(value))
    }

    /// Like [`Screen::field`] with paint.
    pub fn field_cell(&mut self, label: &str, cell: &Cell) -> io::Result<()> {
        let text = self.painted(cell, &cell.text);
        self.line(&format!("{label:<12}{text}"))
    }

    /// A value as JSON, indented, its strings made printable by JSON's own escapes and ours.
    pub fn json(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.line(&ascii_controls(&text))
    }

    /// A value as one line of JSON.
    pub fn json_line(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value).map_err(io::Error::other)?;
        self.line(&ascii_controls(&text))?;
        self.out.flush()
    }

    /// Bytes as they are: files asked for on standard output.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }

    /// A table with its head; each row has a cell for each column.
    pub fn table(&mut self, columns: &[Column], rows: &[Vec<Cell>]) -> io::Result<()> {
        let widths = self.widths(columns, rows);
        let heads: Vec<Cell> = columns.iter().map(|c| Cell::new(c.head).paint(Paint::Dim)).collect();
        self.row(&widths, &heads)?;
        rows.iter().try_for_each(|row| self.row(&widths, row))
    }

    /// One row at fixed widths: what `--follow` prints as it arrives.
    pub fn row(&mut self, widths: &[usize], cells: &[Cell]) -> io::Result<()> {
        let mut line = String::new();
        let last = widths.len().saturating_sub(1);
        let mut room = self.width;
        for (at, (width, cell)) in widths.iter().zip(cells).enumerate() {
            let width = if at == last { room } else { (*width).min(room) };
            let text = fit(&cell.text, width);
            let used = columns_of(&text);
            line.push_str(&self.painted(cell, &text));
            if at != last {
                let padding = width.saturating_sub(used) + 2;
                line.extend(std::iter::repeat_n(' ', padding));
                room = room.saturating_sub(width + 2);
            }
        }
        self.line(line.trim_end())?;
        self.out.flush()
    }

    fn widths(&self, columns: &[Column], rows: &[Vec<Cell>]) -> Vec<usize> {
        let widest = |at: usize, column: &Column| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| columns_of(&cell.text));
            let bound = if self.width == UNBOUNDED { UNBOUNDED } else { column.width_max };
            cells.chain([column.head.len()]).max().unwrap_or(0).min(bound)
        };
        columns.iter().enumerate().map(|(at, column)| widest(at, column)).collect()
    }

    fn painted(&self, cell: &Cell, text: &str) -> String {
        let code = match cell.paint {
            Paint::Plain => return text.to_owned(),
            Paint::Dim => "2",
            Paint::Green => "32",
            Paint::Yellow => "33",
            Paint::Red => "31",
            Paint::RedBold => "1;31",
        };
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Cuts `text` to `width` terminal columns; a cut shows as `…`.
fn fit(text: &str, width: usize) -> String {
    if columns_of(text) <= width {
        return text.to_owned();
    }
    let (mut used, mut out) = (1, String::new());
    for c in text.chars() {
        used += char_columns(c);
        if used > width {
            break;
        }
        out.push(c);
    }
    if width > 0 {
        out.push('…');
    }
    out
}

/// How many terminal columns `text` takes.
fn columns_of(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

/// East Asian wide characters and emoji take two columns, combining marks none: the blocks that matter in
/// practice, not the whole of Unicode's annex 11. A wrong guess shifts a column, nothing else.
fn char_columns(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// JSON escapes C0 itself; DEL, C1 and the characters that reorder or hide text are escaped here, so that
/// JSON on a terminal is harmless and still says the same.
fn ascii_controls(json: &str) -> String {
    let hidden = |c: char| c != '\n' && printable(c.encode_utf8(&mut [0; 4])) != *c.encode_utf8(&mut [0; 4]);
    if !json.contains(hidden) {
        return json.to_owned();
    }
    let mut out = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if hidden(c) {
            let mut units = [0u16; 2];
            out.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// `2026-01-02 03:04:05Z`.
pub fn short_time(time: Timestamp) -> String {
    let text = time.to_string();
    let (date, clock) = (text.get(..10), text.get(11..19));
    match (date, clock) {
        (Some(date), Some(clock)) => format!("{date} {clock}Z"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown(width: usize, colour: bool, print: impl FnOnce(&mut Screen)) -> String {
        let buffer = Buffer::default();
        print(&mut Screen::to(Box::new(buffer.clone()), width, colour));
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const COLUMNS: [Column; 2] =
        [Column { head: "NAME", width_max: 6 }, Column { head: "TITLE", width_max: 200 }];

    #[test]
    fn a_table_never_is_wider_than_the_terminal() {
        let rows = [vec![Cell::new("a very long name"), Cell::new("x".repeat(200))]];
        let text = shown(40, false, |screen| screen.table(&COLUMNS, &rows).unwrap());
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert!(text.contains("a ver…  xxx"), "{text}");
    }

    #[test]
    fn a_pipe_gets_everything() {
        let rows = [vec![Cell::new("a very long name"), Cell::new("x".repeat(200))]];
        let text = shown(UNBOUNDED, false, |screen| screen.table(&COLUMNS, &rows).unwrap());
        assert!(text.contains(&"x".repeat(200)) && text.contains("a very long name"), "{text}");
    }

    #[test]
    fn escape_sequences_from_outside_are_spelt_out() {
        let hostile = "\u{1b}]0;owned\u{7}\u{202e}x\u{9b}31m";
        let rows = [vec![Cell::new(hostile), Cell::new(hostile).paint(Paint::Red)]];
        let text = shown(UNBOUNDED, false, |screen| screen.table(&COLUMNS, &rows).unwrap());
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}', '\u{9b}']), "{text:?}");
        let json = shown(80, true, |screen| screen.json(&hostile).unwrap());
        assert!(!json.contains(['\u{1b}', '\u{7}', '\u{202e}', '\u{9b}']), "{json:?}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
    }

    #[test]
    fn colour_only_where_asked() {
        let rows = [vec![Cell::severity(Severity::Critical), Cell::new("t")]];
        let print = |screen: &mut Screen| screen.table(&COLUMNS, &rows).unwrap();
        assert!(shown(80, true, print).contains("\u{1b}[1;31m"));
        assert!(!shown(80, false, print).contains('\u{1b}'));
    }

    #[test]
    fn wide_characters_are_counted_as_two() {
        assert_eq!(fit("日本語日本語", 5), "日本…");
        assert_eq!(columns_of("e\u{301}"), 1);
    }
}
