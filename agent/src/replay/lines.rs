//! Lines of a stream, one after the other, in a buffer of fixed size.

use std::io::{self, Read};

/// Bytes asked for at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// What one step gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A line without its end.
    Line(&'a [u8]),
    /// A line that is longer than the bound, and is left out.
    TooLong,
    /// The stream has ended.
    End,
}

/// Splits a stream into lines.
pub struct Lines<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    bytes_max: usize,
    ended: bool,
    /// The rest of a line that is too long is being passed over.
    skipping: bool,
}

impl<R: Read> Lines<R> {
    /// Lines of up to `bytes_max` bytes.
    pub fn new(source: R, bytes_max: usize) -> Self {
        let buffer = vec![0; CHUNK_BYTES.max(bytes_max + 2)];
        Self { source, buffer, start: 0, filled: 0, bytes_max, ended: false, skipping: false }
    }

    /// The next line. The last one may lack its end.
    pub fn step(&mut self) -> io::Result<Step<'_>> {
        let mut searched = self.start;
        loop {
            let unread = self.buffer.get(searched..self.filled).unwrap_or_default();
            if let Some(at) = memchr::memchr(b'\n', unread) {
                let (start, end) = (self.start, searched + at);
                self.start = end + 1;
                if std::mem::take(&mut self.skipping) || end - start > self.bytes_max {
                    return Ok(Step::TooLong);
                }
                let line = self.buffer.get(start..end).unwrap_or_default();
                return Ok(Step::Line(line.strip_suffix(b"\r").unwrap_or(line)));
            }
            searched = self.filled;
            if self.ended {
                return Ok(self.last());
            }
            if self.filled - self.start > self.bytes_max {
                self.skipping = true;
                self.start = self.filled;
            }
            self.buffer.copy_within(self.start..self.filled, 0);
            searched -= self.start;
            self.filled -= self.start;
            self.start = 0;
            self.fill()?;
        }
    }

    fn last(&mut self) -> Step<'_> {
        let (start, end) = (self.start, self.filled);
        self.start = end;
        if std::mem::take(&mut self.skipping) {
            return Step::TooLong;
        }
        match self.buffer.get(start..end) {
            Some(line) if !line.is_empty() => Step::Line(line.strip_suffix(b"\r").unwrap_or(line)),
            _ => Step::End,
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        loop {
            match self.source.read(self.buffer.get_mut(self.filled..).unwrap_or_default()) {
                Ok(0) => self.ended = true,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(self.1).min(buffer.len());
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn check(text: &[u8], expected: &[&str]) {
        for size in [1, 2, 3, 7, 1_000_000] {
            let mut lines = Lines::new(Slow(text, size), 5);
            let mut found = Vec::new();
            loop {
                match lines.step().expect("a step") {
                    Step::Line(line) => found.push(String::from_utf8_lossy(line).into_owned()),
                    Step::TooLong => found.push("too long".to_owned()),
                    Step::End => break,
                }
            }
            assert_eq!(found, expected, "{size} bytes at a time");
        }
    }

    #[test]
    fn lines_come_whole_and_long_ones_are_counted() {
        check(b"", &[]);
        check(b"a\nb\r\n\n12345\nlast", &["a", "b", "", "12345", "last"]);
        check(b"123456\nb\n", &["too long", "b"]);
        check(b"a\n1234567890", &["a", "too long"]);
        let long = [&[b'x'; 600_000][..], b"\nb"].concat();
        let mut lines = Lines::new(&long[..], 5);
        assert_eq!(lines.step().expect("a step"), Step::TooLong);
        assert_eq!(lines.step().expect("a step"), Step::Line(b"b"));
        assert_eq!(lines.step().expect("a step"), Step::End);
    }
}
