//! Writes a bundle: a tar archive, compressed, encrypted, with its manifest as the last file. See [`picket_protocol::evidence`].

use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};

use picket_protocol::crypto::hex;
use picket_protocol::evidence::{Entry, Head, MANIFEST_LINE_BYTES_MAX, MANIFEST_NAME, ManifestTree};
use picket_protocol::tar;
use ring::digest;
use zstd::stream::write::Encoder;

use super::spool::SealedFile;

/// zstd's fastest ordinary level: the host has other work.
const LEVEL: i32 = 1;
/// Files in one bundle; what is beyond is counted only.
const ENTRIES_MAX: u64 = 50_000;
/// Longest manifest; what is beyond is counted only.
const MANIFEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes that one read takes.
const READ_BYTES: usize = 128 * 1024;

/// Why collecting ends.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The spool cannot be written, or must not be filled.
    #[error(transparent)]
    Spool(#[from] io::Error),
    /// It was told to.
    #[error("it was stopped")]
    Cancelled,
    /// It takes too long.
    #[error("it was not done in time")]
    Late,
}

/// What is in a bundle, for the receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Lines and root of the manifest.
    pub lines: u64,
    /// See there, in hex.
    pub root: String,
    /// Files, without the manifest.
    pub entries: u64,
    /// Their bytes.
    pub plain: u64,
    /// What was left out or cut, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Size and SHA-256 in hex of the encrypted file.
    pub sealed: (u64, String),
}

/// A bundle that is being written.
pub struct Bundle<'a> {
    archive: Encoder<'static, SealedFile>,
    manifest: Vec<u8>,
    tree: ManifestTree,
    entries: u64,
    plain: u64,
    skipped: BTreeMap<String, u64>,
    sealed_max: u64,
    may_go_on: &'a dyn Fn() -> Result<(), Stopped>,
}

impl<'a> Bundle<'a> {
    /// Begins one. `may_go_on` is asked often.
    ///
    /// # Errors
    /// When memory is short, or the head cannot be written.
    pub fn begin(
        file: SealedFile,
        head: &Head,
        sealed_max: u64,
        may_go_on: &'a dyn Fn() -> Result<(), Stopped>,
    ) -> Result<Self, Stopped> {
        let archive = Encoder::new(file, LEVEL)?;
        let mut bundle = Self {
            archive,
            manifest: Vec::new(),
            tree: ManifestTree::default(),
            entries: 0,
            plain: 0,
            skipped: BTreeMap::new(),
            sealed_max,
            may_go_on,
        };
        bundle.line(&serde_json::to_vec(head).map_err(io::Error::from)?);
        Ok(bundle)
    }

    /// Whether it takes more; when not, what comes is skipped as `bundle-full`.
    pub fn is_full(&self) -> bool {
        self.entries >= ENTRIES_MAX
            || self.archive.get_ref().written() >= self.sealed_max
            || self.manifest.len() >= MANIFEST_BYTES_MAX
    }

    /// Adds what is in memory.
    ///
    /// # Errors
    /// See [`Stopped`].
    pub fn bytes(&mut self, entry: Entry, bytes: &[u8]) -> Result<(), Stopped> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.stream(entry, size, &mut &bytes[..])
    }

    /// Adds `size` bytes of `source`, which may end before: the rest is zeros then, and the entry says so.
    ///
    /// # Errors
    /// See [`Stopped`].
    pub fn stream(&mut self, entry: Entry, size: u64, source: &mut dyn Read) -> Result<(), Stopped> {
        self.file(entry, size, source, &|| false)
    }

    /// The same of a file that others may write to: when it was read, `changed` says whether somebody did.
    ///
    /// # Errors
    /// See [`Stopped`].
    pub fn file(
        &mut self,
        mut entry: Entry,
        size: u64,
        source: &mut dyn Read,
        changed: &dyn Fn() -> bool,
    ) -> Result<(), Stopped> {
        (self.may_go_on)()?;
        if self.is_full() {
            self.skip(entry, "bundle-full");
            return Ok(());
        }
        let mtime = entry.modified.map_or(0, |time| u64::try_from(time.seconds()).unwrap_or(0));
        let header = tar::Header { name: entry.name.clone(), size, mtime };
        let Ok(header) = header.to_bytes() else {
            self.skip(entry, "name");
            return Ok(());
        };
        self.archive.write_all(&header)?;
        let (sha256, read) = self.content(size, source)?;
        if let Some(why) = read {
            note(&mut entry, &why);
            self.count("unread");
        }
        if changed() {
            note(&mut entry, "it was changed while it was read");
            self.count("changed");
        }
        self.archive.write_all(&vec![0; tar::padding(size)])?;
        entry.size = Some(size);
        entry.sha256 = Some(sha256);
        self.entries += 1;
        self.plain = self.plain.saturating_add(size);
        self.entry(&entry);
        Ok(())
    }

    /// Notes what is not in the bundle, by a word that says why.
    pub fn skip(&mut self, mut entry: Entry, why: &str) {
        self.count(why);
        if self.manifest.len() < MANIFEST_BYTES_MAX {
            entry.skipped = Some(why.to_owned());
            self.entry(&entry);
        }
    }

    /// Counts something that is in the bundle, but not as it was: `cut`, `changed`.
    pub fn count(&mut self, why: &str) {
        *self.skipped.entry(why.to_owned()).or_default() += 1;
    }

    /// Adds the manifest and ends it, durably.
    ///
    /// # Errors
    /// See [`Stopped`].
    pub fn finish(mut self) -> Result<Written, Stopped> {
        (self.may_go_on)()?;
        let size = u64::try_from(self.manifest.len()).unwrap_or(u64::MAX);
        let header = tar::Header { name: MANIFEST_NAME.to_owned(), size, mtime: 0 };
        self.archive.write_all(&header.to_bytes().map_err(io::Error::other)?)?;
        self.archive.write_all(&self.manifest)?;
        self.archive.write_all(&vec![0; tar::padding(size)])?;
        self.archive.write_all(&tar::end())?;
        let sealed = self.archive.finish()?.finish()?;
        Ok(Written {
            lines: self.tree.lines(),
            root: self.tree.root(),
            entries: self.entries,
            plain: self.plain,
            skipped: self.skipped,
            sealed,
        })
    }

    /// Writes exactly `size` bytes; gives their SHA-256, and why not all of them are the source's.
    fn content(&mut self, size: u64, source: &mut dyn Read) -> Result<(String, Option<String>), Stopped> {
        let mut hash = digest::Context::new(&digest::SHA256);
        let (mut buffer, mut left, mut why) = (vec![0; READ_BYTES], size, None);
        while left > 0 {
            (self.may_go_on)()?;
            let length = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
            let piece = buffer.get_mut(..length).unwrap_or_default();
            let count = if why.is_some() { fill(piece) } else { read(source, piece, size - left, &mut why) };
            let piece = piece.get(..count).unwrap_or_default();
            hash.update(piece);
            self.archive.write_all(piece)?;
            left -= u64::try_from(count).unwrap_or(left);
        }
        Ok((hex(hash.finish().as_ref()), why))
    }

    fn entry(&mut self, entry: &Entry) {
        let line = serde_json::to_vec(entry).unwrap_or_default();
        if line.len() <= MANIFEST_LINE_BYTES_MAX {
            self.line(&line);
        } else {
            self.count("name");
        }
    }

    fn line(&mut self, line: &[u8]) {
        self.tree.push(line);
        self.manifest.extend_from_slice(line);
        self.manifest.push(b'\n');
    }
}

/// Reads some; when the source ends or fails, says why, and gives zeros.
fn read(source: &mut dyn Read, piece: &mut [u8], at: u64, why: &mut Option<String>) -> usize {
    loop {
        match source.read(piece) {
            Ok(0) => *why = Some(format!("it ended at byte {at}, zeros follow")),
            Ok(count) => return count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => *why = Some(format!("from byte {at} on it cannot be read ({error}), zeros follow")),
        }
        return fill(piece);
    }
}

fn fill(piece: &mut [u8]) -> usize {
    piece.fill(0);
    piece.len()
}

/// Adds to what is to be known of an entry.
pub(super) fn note(entry: &mut Entry, text: &str) {
    entry.note = Some(match entry.note.take() {
        Some(before) => format!("{before}; {text}"),
        None => text.to_owned(),
    });
}
