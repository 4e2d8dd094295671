//! The content of a regular file that is open: its beginning or its end, without reading its holes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use picket_protocol::evidence::Entry;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::bundle::{Bundle, Stopped, note};

/// Holes at the end of a file up to this are zeros in the bundle, so that what grows into room that it has set aside (the
/// journal: 8 MiB at a time) stays whole; larger ones are left out: they cost whoever makes them nothing.
pub(super) const HOLE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Pieces of a file that are looked at for where its data end.
const PIECES_MAX: usize = 10_000;

/// How files are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Of what is too large, the beginning.
    Beginning,
    /// Of what is too large, the end: it grows.
    End,
}

/// Takes the content of a file that is open, from its beginning or its end.
pub(super) fn regular(
    mut entry: Entry,
    file: File,
    part: Part,
    bundle: &mut Bundle<'_>,
) -> Result<(), Stopped> {
    let before = match file.metadata() {
        Ok(metadata) if metadata.is_file() => metadata,
        _ => {
            bundle.skip(entry, "unreadable");
            return Ok(());
        }
    };
    let data = data_end(&file, before.len());
    let length = if before.len() - data > HOLE_BYTES_MAX { data } else { before.len() };
    let size = length.min(bundle.file_max());
    if size < before.len() {
        entry.whole = Some(before.len());
    }
    if length < before.len() {
        note(&mut entry, &format!("from byte {length} on it is a hole, which is left out"));
        bundle.count("sparse");
    }
    let mut at = 0;
    if size < length {
        bundle.count("cut");
        if part == Part::End {
            at = length - size;
            entry.offset = Some(at);
        }
    }
    let changed = || {
        file.metadata().is_ok_and(|now| {
            now.len() != before.len()
                || now.mtime_nsec() != before.mtime_nsec()
                || now.mtime() != before.mtime()
        })
    };
    let mut source = Source { file: &file, at, end: at + size, data: (at, at) };
    bundle.file(entry, size, &mut source, &changed)
}

/// Where the last data of a file end that has `size` bytes.
fn data_end(file: &File, size: u64) -> u64 {
    let mut end = 0;
    for _ in 0..PIECES_MAX {
        let (from, to) = next_data(file, end, size);
        if from >= size {
            return end;
        }
        end = to;
    }
    size
}

/// Where the next data from `at` on begin and end, before `end`; both are `end` when there are none.
fn next_data(file: &File, at: u64, end: u64) -> (u64, u64) {
    let from = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(from) => from,
        Err(Errno::NXIO) => return (end, end),
        // A file system that does not tell.
        Err(_) => return (at, end),
    };
    let to = rustix::fs::seek(file, SeekFrom::Hole(from)).unwrap_or(end);
    if from >= end {
        (end, end)
    } else if to > from {
        (from, to.min(end))
    } else {
        (from, end)
    }
}

/// Reads a part of a file; holes are zeros that nobody reads.
struct Source<'a> {
    file: &'a File,
    at: u64,
    end: u64,
    /// The next data that are known.
    data: (u64, u64),
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.end {
            return Ok(0);
        }
        if self.at >= self.data.1 {
            self.data = next_data(self.file, self.at, self.end);
        }
        let (is_hole, until) = match self.data {
            (from, _) if self.at < from => (true, from),
            (_, to) => (false, to),
        };
        let length = usize::try_from(until - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..length).unwrap_or_default();
        let count = if is_hole {
            piece.fill(0);
            piece.len()
        } else {
            self.file.read_at(piece, self.at)?
        };
        self.at = self.at.saturating_add(u64::try_from(count).unwrap_or(0));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_holes_is_read_as_it_is() {
        let file = tempfile::tempfile().expect("temporary file");
        file.set_len(40 << 20).expect("a hole");
        let word = vec![7; 5_000];
        file.write_all_at(&word, 3 << 20).expect("written");
        file.write_all_at(&word, 10 << 20).expect("written");
        let end = data_end(&file, 40 << 20);
        assert!(((10 << 20) + 5_000..11 << 20).contains(&end), "{end}");
        let mut read = Vec::new();
        let (at, size) = (1_u64 << 20, 39_usize << 20);
        let mut source = Source { file: &file, at, end: 40 << 20, data: (at, at) };
        source.read_to_end(&mut read).expect("read");
        let mut plain = vec![0; size];
        file.read_exact_at(&mut plain, at).expect("read");
        assert!(read == plain);
    }
}
