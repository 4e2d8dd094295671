//! What a large file holds at its beginning, at its end, and at places between: read in a moment, whatever the size,
//! so that most changes of such a file are told at once, and the others when it has been hashed as a whole.
//!
//! **Format.** The first 16 bytes of SHA-256 over: the size (8 bytes, little-endian), the first [`END_BYTES`], then
//! [`PLACES`] pieces of [`PIECE_BYTES`] that lie evenly between, then the last [`END_BYTES`]. Of a file that is shorter
//! than both ends, the ends overlap. Places are known to everybody: whoever avoids them is found by the hash.

use std::io;
use std::os::fd::AsFd;

use ring::digest;
use rustix::io::{Errno, pread};

use super::traits::Traits;

/// Bytes at each end: headers and indexes of archives, images and databases lie there.
pub const END_BYTES: u64 = 64 * 1024;
/// Pieces between the ends. With them a look reads 384 KiB at most.
pub const PLACES: u64 = 64;
/// Bytes of a piece: one page.
pub const PIECE_BYTES: u64 = 4 * 1024;

/// See the module.
pub type Sample = [u8; 16];

/// The sample of an open file of `size` bytes, and what its first block looks like. A file that has become shorter
/// meanwhile gives another sample.
///
/// # Errors
/// When it cannot be read.
pub fn of(file: impl AsFd, size: u64) -> io::Result<(Sample, Traits)> {
    let mut buffer = vec![0; usize::try_from(END_BYTES).unwrap_or(0)];
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&size.to_le_bytes());
    let mut traits = Traits::default();
    for (at, length) in pieces(size) {
        let wanted = usize::try_from(length).unwrap_or(0).min(buffer.len());
        let piece = buffer.get_mut(..wanted).unwrap_or_default();
        let count = read_at(&file, piece, at)?;
        let read = piece.get(..count).unwrap_or_default();
        if at == 0 {
            traits = Traits::of(read);
        }
        context.update(read);
    }
    let digest = context.finish();
    Ok((digest.as_ref().first_chunk().copied().unwrap_or_default(), traits))
}

/// Offset and length of what is read.
fn pieces(size: u64) -> impl Iterator<Item = (u64, u64)> {
    let tail = size.saturating_sub(END_BYTES);
    let between = tail.saturating_sub(END_BYTES);
    let step = between / (PLACES + 1);
    let places = (1..=PLACES).filter(move |_| step > PIECE_BYTES);
    let places = places.map(move |place| (END_BYTES + place * step, PIECE_BYTES));
    [(0, END_BYTES)].into_iter().chain(places).chain([(tail, END_BYTES)])
}

/// Fills the buffer as far as the file reaches.
fn read_at(file: impl AsFd, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match pread(&file, rest, at + u64::try_from(filled).unwrap_or(0)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const TEBIBYTE: u64 = 1 << 40;

    #[test]
    fn a_change_at_an_end_or_at_a_place_between_shows_however_large_the_file_is() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        // A file system that cannot hold so much holds less.
        let size = [TEBIBYTE, TEBIBYTE / 64].into_iter().find(|size| file.set_len(*size).is_ok()).unwrap();
        let (empty, _) = of(&file, size).unwrap();
        let step = (size - 2 * END_BYTES) / (PLACES + 1);
        for (at, shows) in [
            (0, true),
            (END_BYTES - 1, true),
            (size - 1, true),
            (END_BYTES + 7 * step, true),
            (size / 3, false),
        ] {
            file.write_all_at(b"x", at).unwrap();
            assert_eq!(of(&file, size).unwrap().0 != empty, shows, "at {at}");
            file.write_all_at(b"\0", at).unwrap();
            assert_eq!(of(&file, size).unwrap().0, empty);
        }
        file.set_len(size - 1).unwrap();
        assert_ne!(of(&file, size - 1).unwrap().0, empty);
        assert_ne!(of(&file, size).unwrap().0, of(&file, size - 1).unwrap().0);
    }

    #[test]
    fn what_is_read_is_bounded_and_within_the_file() {
        for size in [0, 1, END_BYTES, 2 * END_BYTES + 3, 1 << 20, 1 << 30, u64::MAX] {
            let read: u64 = pieces(size).map(|(_, length)| length).sum();
            assert!(read <= 2 * END_BYTES + PLACES * PIECE_BYTES, "{size}");
            assert!(pieces(size).all(|(at, _)| at <= size), "{size}");
        }
    }

    #[test]
    fn small_files_have_samples_too() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"#!/bin/sh\necho\n", 0).unwrap();
        let (first, traits) = of(&file, 15).unwrap();
        assert_eq!(traits, Traits::of(b"#!/bin/sh\necho\n"));
        file.write_all_at(b"E", 10).unwrap();
        assert_ne!(of(&file, 15).unwrap().0, first);
        assert!(of(File::open("/").unwrap(), 1).is_err());
    }
}
