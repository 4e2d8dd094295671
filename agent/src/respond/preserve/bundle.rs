//! Writes a bundle: a tar archive, compressed, encrypted, with its manifest as the last file. See [`picket_protocol::evidence`].

use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};

use picket_protocol::crypto::hex;
use picket_protocol::evidence::{
    Entry, Head, MANIFEST_LINE_BYTES_MAX, MANIFEST_LINES_MAX, MANIFEST_NAME, ManifestTree,
};
use picket_protocol::tar;
use ring::digest;
use zstd::stream::write::Encoder;

use super::spool::SealedFile;

/// zstd's fastest ordinary level: the host has other work.
const LEVEL: i32 = 1;
/// Bytes that one read takes.
const READ_BYTES: usize = 128 * 1024;
/// Room that the end of a bundle needs besides its manifest: what the encoder still holds, and the rest of the file that is cut.
pub(super) const END_BYTES: u64 = 2 * 1024 * 1024;
/// Bytes that are taken of one file.
pub const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What one place may put into a bundle, so that whoever can write there crowds nothing else out. What is left of it goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Bytes of files before they are compressed: what compresses to nothing takes time all the same.
    pub bytes: u64,
    /// Bytes that are taken of one file.
    pub file: u64,
    /// Files.
    pub entries: u64,
    /// Bytes of the manifest.
    pub manifest: u64,
    /// Names that are looked at, whatever they are of.
    pub names: u64,
}

impl Share {
    /// All of a bundle.
    pub const WHOLE: Self =
        Self { bytes: 16 << 30, file: FILE_BYTES_MAX, entries: 50_000, manifest: 16 << 20, names: 2_000_000 };
    /// One path of a profile.
    pub const ROOT: Self =
        Self { bytes: 4 << 30, file: FILE_BYTES_MAX, entries: 20_000, manifest: 4 << 20, names: 500_000 };
    /// What a profile takes below all homes.
    pub const HOMES: Self =
        Self { bytes: 2 << 30, file: 64 << 20, entries: 10_000, manifest: 3 << 20, names: 200_000 };
    /// Below one home.
    pub const HOME: Self =
        Self { bytes: 128 << 20, file: 64 << 20, entries: 1_000, manifest: 256 << 10, names: 10_000 };

    fn is_over(&self) -> bool {
        self.bytes == 0 || self.entries == 0 || self.manifest == 0 || self.names == 0
    }
}

/// Why collecting ends.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The spool cannot be written.
    #[error(transparent)]
    Spool(#[from] io::Error),
    /// It was told to.
    #[error("it was stopped")]
    Cancelled,
    /// It takes too long: a bundle ends with what it has then.
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

/// A bundle that is being written. When time or room is short it takes no more, and what it has is sealed.
pub struct Bundle<'a> {
    archive: Encoder<'static, SealedFile>,
    manifest: Vec<u8>,
    tree: ManifestTree,
    entries: u64,
    plain: u64,
    skipped: BTreeMap<String, u64>,
    sealed_max: u64,
    /// What is left of the whole, then of each place within which it is.
    shares: Vec<Share>,
    /// Why it takes no more for good.
    ended: Option<&'static str>,
    may_go_on: &'a dyn Fn() -> Result<(), Stopped>,
}

impl<'a> Bundle<'a> {
    /// Begins one. `may_go_on` is asked often.
    ///
    /// # Errors
    /// When memory is short, or the head cannot be written.
    pub(super) fn begin(
        file: SealedFile,
        head: &Head,
        sealed_max: u64,
        whole: Share,
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
            shares: vec![whole],
            ended: None,
            may_go_on,
        };
        bundle.line(&serde_json::to_vec(head).map_err(io::Error::from)?);
        Ok(bundle)
    }

    /// Largest bundle, in bytes as it is encrypted.
    pub fn sealed_max(&self) -> u64 {
        self.sealed_max
    }

    /// Why it takes no more now, by a word: `late`, `room`, `bundle-full`; `place-full` where it is only the place's share.
    pub fn full(&self) -> Option<&'static str> {
        let mut shares = self.shares.iter();
        let whole = shares.next().is_none_or(Share::is_over);
        self.ended
            .or((whole || !self.has_lines()).then_some("bundle-full"))
            .or(shares.any(Share::is_over).then_some("place-full"))
    }

    /// Whether anything more is taken.
    ///
    /// # Errors
    /// See [`Stopped`].
    pub fn may_take(&mut self) -> Result<bool, Stopped> {
        self.ask()?;
        Ok(self.full().is_none())
    }

    /// Counts a name that is looked at; whether anything more is taken.
    ///
    /// # Errors
    /// See [`Stopped`].
    pub fn next_name(&mut self) -> Result<bool, Stopped> {
        self.shares.iter_mut().for_each(|share| share.names = share.names.saturating_sub(1));
        self.may_take()
    }

    /// Takes what `fill` gives it, as much as that share allows; where it was too small, the manifest says so of `name`.
    ///
    /// # Errors
    /// See [`Stopped`].
    pub(super) fn within(
        &mut self,
        name: &str,
        share: Share,
        fill: impl FnOnce(&mut Self) -> Result<(), Stopped>,
    ) -> Result<(), Stopped> {
        self.shares.push(share);
        fill(self)?;
        if self.shares.pop().is_some_and(|share| share.is_over()) {
            let text = "this place had its share of the bundle; there may be more";
            let entry = Entry { name: name.to_owned(), note: Some(text.to_owned()), ..Entry::default() };
            self.skip(entry, "place-full");
        }
        Ok(())
    }

    /// Bytes that are taken of one file here.
    pub fn file_max(&self) -> u64 {
        self.shares.iter().map(|share| share.file).min().unwrap_or(0)
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
        self.ask()?;
        let fits = self.shares.iter().all(|share| size <= share.bytes);
        if let Some(why) = self.full().or((!fits).then_some("place-full")) {
            self.skip(entry, why);
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
        for share in &mut self.shares {
            share.entries = share.entries.saturating_sub(1);
            share.bytes = share.bytes.saturating_sub(size);
        }
        self.entry(&entry);
        Ok(())
    }

    /// Notes what is not in the bundle, by a word that says why.
    pub fn skip(&mut self, mut entry: Entry, why: &str) {
        self.count(why);
        if self.shares.iter().all(|share| share.manifest > 0) && self.has_lines() {
            entry.skipped = Some(why.to_owned());
            self.entry(&entry);
        }
    }

    /// Counts something that is in the bundle, but not as it was: `cut`, `changed`.
    pub fn count(&mut self, why: &str) {
        *self.skipped.entry(why.to_owned()).or_default() += 1;
    }

    #[cfg(test)]
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// Adds the manifest and ends it, durably.
    ///
    /// # Errors
    /// See [`Stopped`].
    pub fn finish(mut self) -> Result<Written, Stopped> {
        self.ask()?;
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

    /// Whether it goes on at all; when time or room is short, it takes no more from now on.
    fn ask(&mut self) -> Result<(), Stopped> {
        let late = match (self.may_go_on)() {
            Ok(()) => false,
            Err(Stopped::Late) => true,
            Err(other) => return Err(other),
        };
        let end = u64::try_from(self.manifest.len()).unwrap_or(u64::MAX).saturating_add(END_BYTES);
        let file = self.archive.get_mut();
        file.leave(end);
        let why = match () {
            () if self.ended.is_some() => return Ok(()),
            () if late => "late",
            () if file.is_short() => "room",
            () if file.written() >= self.sealed_max => "bundle-full",
            () => return Ok(()),
        };
        self.ended = Some(why);
        self.count(why);
        let (name, skipped) = ("bundle".to_owned(), Some(why.to_owned()));
        let note = Some("collecting ended here; what follows was not taken".to_owned());
        self.entry(&Entry { name, skipped, note, ..Entry::default() });
        Ok(())
    }

    /// Writes exactly `size` bytes; gives their SHA-256, and why not all of them are the source's.
    fn content(&mut self, size: u64, source: &mut dyn Read) -> Result<(String, Option<String>), Stopped> {
        let mut hash = digest::Context::new(&digest::SHA256);
        let (mut buffer, mut left, mut why) = (vec![0; READ_BYTES], size, None);
        while left > 0 {
            self.ask()?;
            if let (None, Some(word)) = (&why, self.ended) {
                why = Some(format!("from byte {} on it was not read ({word}), zeros follow", size - left));
            }
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

    /// Who opens a bundle takes no longer manifest; where collecting ended is always told.
    fn has_lines(&self) -> bool {
        usize::try_from(self.tree.lines()).is_ok_and(|lines| lines + 2 < MANIFEST_LINES_MAX)
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
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX).saturating_add(1);
        self.shares.iter_mut().for_each(|share| share.manifest = share.manifest.saturating_sub(length));
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
