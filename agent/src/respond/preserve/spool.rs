//! Where encrypted bundles wait for the collector, and how much room must stay free on their disk.
//!
//! `<state>/core/evidence/<command>.age`, 0600. One that is over is emptied and renamed to `<command>.<outcome>` until that is
//! recorded: a rename needs no room on a full disk, and who is killed in between still knows how it ended.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use picket_protocol::age::Sealer;
use picket_protocol::command::Outcome;
use picket_protocol::crypto::hex;
use ring::digest;
use uuid::Uuid;

use super::bundle::END_BYTES;

/// Room is looked at once in so many bytes.
const LOOK_EVERY: u64 = 1024 * 1024;
/// What the end of a bundle takes at most once room is short: its manifest, and zeros for the rest of one file.
const END_BYTES_MAX: u64 = 24 * 1024 * 1024;

/// How a bundle may end.
const ENDS: [Outcome; 4] = [Outcome::Confirmed, Outcome::Released, Outcome::Expired, Outcome::Failed];

/// How much of the disk is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// So many bytes stay free.
    pub bytes_min: u64,
    /// And so many hundredths of the whole.
    pub percent_min: u32,
}

impl Room {
    /// Whether `more` bytes may be written to the file system of `path`.
    ///
    /// # Errors
    /// How much is free and how much must stay, as a sentence in an error of kind `StorageFull`; what the kernel says otherwise.
    pub fn has(&self, path: &Path, more: u64) -> io::Result<()> {
        let (free, keep) = self.figures(path)?;
        if free >= keep.saturating_add(more) {
            return Ok(());
        }
        let size = crate::config::format_size;
        let why =
            format!("{} are free below {} and {} must stay free", size(free), path.display(), size(keep));
        Err(io::Error::new(io::ErrorKind::StorageFull, why))
    }
}

impl Room {
    /// Bytes that are free there, and that must stay free.
    fn figures(&self, path: &Path) -> io::Result<(u64, u64)> {
        let figures = rustix::fs::statvfs(path)?;
        let free = figures.f_bavail.saturating_mul(figures.f_frsize);
        let whole = figures.f_blocks.saturating_mul(figures.f_frsize);
        Ok((free, self.bytes_min.max(whole / 100 * u64::from(self.percent_min))))
    }
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Spool {
    directory: PathBuf,
    room: Room,
}

impl Spool {
    /// Names it.
    pub fn new(directory: PathBuf, room: Room) -> Self {
        Self { directory, room }
    }

    /// Whether anything may be written at all.
    ///
    /// # Errors
    /// See [`Room::has`].
    pub fn has_room(&self) -> io::Result<()> {
        self.room.has(&self.directory, END_BYTES)
    }

    /// How many bytes may be written now.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn room(&self) -> io::Result<u64> {
        let (free, keep) = self.room.figures(&self.directory)?;
        Ok(free.saturating_sub(keep))
    }

    fn path(&self, id: Uuid) -> PathBuf {
        self.directory.join(format!("{id}.age"))
    }

    fn mark(&self, id: Uuid, outcome: Outcome) -> PathBuf {
        self.directory.join(format!("{id}.{}", outcome.as_str()))
    }

    /// Begins a bundle; one that was begun before is lost.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(&self, id: Uuid, header: &[u8], sealer: Sealer) -> io::Result<SealedFile> {
        self.remove(id)?;
        let path = self.path(id);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut file = SealedFile {
            file,
            sealer: Some(sealer),
            hash: digest::Context::new(&digest::SHA256),
            written: 0,
            looked: 0,
            end: END_BYTES,
            short_at: None,
            room: self.room,
            directory: self.directory.clone(),
            pending: Vec::new(),
        };
        file.put(header)?;
        Ok(file)
    }

    /// Bytes of a bundle that is there; `None` when it is not.
    pub fn size(&self, id: Uuid) -> Option<u64> {
        std::fs::symlink_metadata(self.path(id))
            .ok()
            .filter(std::fs::Metadata::is_file)
            .map(|found| found.len())
    }

    /// Reads a piece of a bundle.
    ///
    /// # Errors
    /// What the file system says, or that it is shorter.
    pub fn read(&self, id: Uuid, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(self.path(id))?;
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Removes a bundle and what was noted of it, when they are there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self, id: Uuid) -> io::Result<()> {
        self.drop_bundle(id)?;
        ENDS.iter().try_for_each(|outcome| remove_file(&self.mark(id, *outcome)))
    }

    /// Removes a bundle, when it is there, and keeps what was noted of it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn drop_bundle(&self, id: Uuid) -> io::Result<()> {
        remove_file(&self.path(id))
    }

    /// Local root releases it while the agent does not run: it goes, and the next start knows why.
    ///
    /// # Errors
    /// What the file system says.
    pub fn release_offline(&self, id: Uuid) -> io::Result<()> {
        // It had ended before, which is still to be recorded.
        if self.end_of(id).is_some() {
            return self.drop_bundle(id);
        }
        self.end(id, Outcome::Released)?;
        // One that was not begun has nothing that could tell it.
        File::options().create(true).append(true).open(self.mark(id, Outcome::Released))?.sync_all()?;
        File::open(&self.directory)?.sync_all()
    }

    /// It ended so: its bytes go, when there are any, and how it ended stays until [`Spool::remove`].
    ///
    /// # Errors
    /// What the file system says.
    pub fn end(&self, id: Uuid, outcome: Outcome) -> io::Result<()> {
        let mark = self.mark(id, outcome);
        let is_there = |done: io::Result<()>| match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        is_there(std::fs::rename(self.path(id), &mark))?;
        let emptied = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&mark);
        is_there(emptied.and_then(|file| file.set_len(0)))
    }

    /// How it ended, if that was not recorded yet.
    pub fn end_of(&self, id: Uuid) -> Option<Outcome> {
        ENDS.into_iter().find(|outcome| self.mark(id, *outcome).exists())
    }

    /// Removes all but those: what a crash left behind.
    pub fn keep_only(&self, known: &[Uuid]) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.split_once('.')).and_then(|(id, _)| id.parse().ok());
            if id.is_some_and(|id: Uuid| !known.contains(&id))
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(%error, ?name, "evidence that nobody knows of cannot be removed");
            }
        }
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A bundle that is being written: what is written to it is encrypted. Not complete before [`SealedFile::finish`].
pub struct SealedFile {
    file: File,
    sealer: Option<Sealer>,
    hash: digest::Context,
    written: u64,
    looked: u64,
    end: u64,
    short_at: Option<u64>,
    room: Room,
    directory: PathBuf,
    pending: Vec<u8>,
}

impl SealedFile {
    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// So many bytes are to be left for its end.
    pub fn leave(&mut self, end: u64) {
        self.end = end;
    }

    /// Whether there is room for its end only.
    pub fn is_short(&self) -> bool {
        self.short_at.is_some()
    }

    /// Ends it, durably; gives its size and SHA-256 in hex.
    ///
    /// # Errors
    /// What the file system says, or that there is no room.
    pub fn finish(mut self) -> io::Result<(u64, String)> {
        let mut sealed = std::mem::take(&mut self.pending);
        let sealer = self.sealer.take().ok_or_else(|| io::Error::other("it was ended before"))?;
        sealer.finish(&mut sealed).map_err(io::Error::other)?;
        self.put(&sealed)?;
        self.file.sync_all()?;
        File::open(&self.directory)?.sync_all()?;
        Ok((self.written, hex(self.hash.finish().as_ref())))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let after = self.written.saturating_add(length);
        match self.short_at {
            // It is up to who writes to come to an end.
            Some(short_at) if after > short_at.saturating_add(END_BYTES_MAX) => {
                let why = format!("no more may be written to {}", self.directory.display());
                return Err(io::Error::new(io::ErrorKind::StorageFull, why));
            }
            None if after >= self.looked => {
                self.looked = self.written.saturating_add(LOOK_EVERY);
                match self.room.has(&self.directory, self.end.saturating_add(LOOK_EVERY.max(length))) {
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                        self.short_at = Some(self.written);
                    }
                    other => other?,
                }
            }
            _ => {}
        }
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.written = self.written.saturating_add(length);
        Ok(())
    }
}

impl Write for SealedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sealed = std::mem::take(&mut self.pending);
        let sealer = self.sealer.as_mut().ok_or_else(|| io::Error::other("it was ended before"))?;
        sealer.push(bytes, &mut sealed).map_err(io::Error::other)?;
        self.put(&sealed)?;
        sealed.clear();
        self.pending = sealed;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_stay_free_stays_free() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let room = |bytes_min, percent_min| Room { bytes_min, percent_min }.has(directory.path(), 1);
        assert!(room(0, 0).is_ok());
        let error = room(u64::MAX, 0).expect_err("no disk has so much");
        assert!(error.kind() == io::ErrorKind::StorageFull && error.to_string().contains("must stay free"));
        assert!(room(0, 100).is_err());
    }

    #[test]
    fn what_nobody_knows_of_goes() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let spool = Spool::new(directory.path().to_owned(), Room { bytes_min: 0, percent_min: 0 });
        let (known, other) = (Uuid::now_v7(), Uuid::now_v7());
        for id in [known, other] {
            std::fs::write(spool.path(id), "x").expect("written");
        }
        spool.keep_only(&[known]);
        assert_eq!((spool.size(known), spool.size(other)), (Some(1), None));
        spool.release_offline(known).expect("released");
        assert_eq!((spool.end_of(known), spool.end_of(other)), (Some(Outcome::Released), None));
        assert_eq!(spool.size(known), None);
        // What the collector has is not given back to nobody by it.
        let had = Uuid::now_v7();
        std::fs::write(spool.path(had), "x").expect("written");
        spool.end(had, Outcome::Confirmed).expect("ended");
        spool.release_offline(had).expect("released");
        assert_eq!(spool.end_of(had), Some(Outcome::Confirmed));
        // Never without bundle and mark: it is the same file.
        let under_way = Uuid::now_v7();
        std::fs::write(spool.path(under_way), "x").expect("written");
        let inode =
            |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).expect("there"));
        let before = inode(&spool.path(under_way));
        spool.release_offline(under_way).expect("released");
        let mark = spool.mark(under_way, Outcome::Released);
        assert_eq!((inode(&mark), std::fs::metadata(&mark).expect("there").len()), (before, 0));
        spool.remove(known).expect("removed");
        assert_eq!(spool.end_of(known), None);
    }

    #[test]
    fn how_a_bundle_ended_outlives_its_bytes() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let spool = Spool::new(directory.path().to_owned(), Room { bytes_min: 0, percent_min: 0 });
        for outcome in ENDS {
            let id = Uuid::now_v7();
            spool.end(id, outcome).expect("one that never had bytes");
            assert_eq!(spool.end_of(id), None, "who has none is not gone");
            std::fs::write(spool.path(id), "x").expect("written");
            spool.end(id, outcome).expect("ended");
            assert_eq!((spool.size(id), spool.end_of(id)), (None, Some(outcome)));
            spool.keep_only(&[id]);
            assert_eq!(spool.end_of(id), Some(outcome), "its record is still to come");
            assert_eq!(std::fs::metadata(spool.mark(id, outcome)).expect("there").len(), 0);
            spool.remove(id).expect("removed");
            assert_eq!(spool.end_of(id), None);
        }
    }
}
