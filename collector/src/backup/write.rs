//! Writes a backup.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::backup::{
    Entry, FORMAT, MANIFEST_BYTES_MAX, MANIFEST_NAME, Manifest, Name, SMALL_FILE_BYTES_MAX,
};
use picket_protocol::crypto::hex;
use picket_protocol::tar;
use ring::digest;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::error::{BackupError, at};
use crate::owner::{as_owner, stranger};
use crate::server::data_dir::DataDir;
use crate::server::evidence::complete_bundles;
use crate::server::shared::wall_clock;
use crate::store::sqlite::backup::copy;

/// Little time for what is compressed in most parts already.
const COMPRESSION: i32 = 1;
/// The database's copy in the data directory, while it is on its way to standard output or to where only root can write.
const COPY_NAME: &str = ".backup.db";
/// Room that stays free beside the copy, for what the running collector writes meanwhile.
const SPARE_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes that are read and written at once.
const PIECE_BYTES: usize = 128 * 1024;

/// Where a backup goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// To a file of that name; into that directory under a name of its time, where it is one.
    Path(PathBuf),
    /// To standard output.
    Output,
}

/// A backup that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its file, if it is one.
    pub path: Option<PathBuf>,
    /// What it holds.
    pub manifest: Manifest,
    /// Its own size.
    pub bytes: u64,
}

/// Takes a backup of the collector in `directory`, whether it runs or not. All that is done in the directory is done as its owner.
///
/// # Errors
/// When anything of it cannot be read or written. Nothing is left then.
pub fn back_up(directory: &DataDir, target: &Target, with_evidence: bool) -> Result<Taken, BackupError> {
    // A directory that holds no collector is told as that first.
    owned(directory, || directory.config())??;
    let taken = match target {
        Target::Output => {
            let out = Counted { inner: io::stdout(), bytes: 0 };
            let (manifest, bytes) = owned(directory, || {
                fill(directory, None, out, Path::new("standard output"), with_evidence)
            })??;
            Taken { path: None, manifest, bytes }
        }
        Target::Path(path) => to_file(directory, path, with_evidence)?,
    };
    // A figure for monitoring systems: the backup is whole without it.
    drop(owned(directory, || directory.note_backup()));
    Ok(taken)
}

fn owned<T: Send>(directory: &DataDir, work: impl FnOnce() -> T + Send) -> Result<T, BackupError> {
    as_owner(directory.path(), work).map_err(at(directory.path()))
}

/// Writes all of it to `out`, which is called `name`. The database's copy lies meanwhile at `copy`, else in the data directory.
fn fill(
    directory: &DataDir,
    copy: Option<&Path>,
    mut out: Counted<impl Write>,
    name: &Path,
    with_evidence: bool,
) -> Result<(Manifest, u64), BackupError> {
    let copy = copy.map_or_else(|| directory.file(COPY_NAME), Path::to_owned);
    has_room(directory, parent(&copy))?;
    let database = Draft::create(&copy)?;
    let manifest = Source::new(directory, &database, with_evidence)?.write(&mut out, &at(name))?;
    Ok((manifest, out.bytes))
}

/// Where a file lies.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|place| !place.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn to_file(directory: &DataDir, path: &Path, with_evidence: bool) -> Result<Taken, BackupError> {
    let path = if path.is_dir() { path.join(name_of_now()) } else { path.to_owned() };
    if path.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(path));
    }
    // The same names each time: what a killed backup left goes with the next one there.
    let beside = |name: &str| path.with_file_name(name);
    let place = parent(&path);
    let draft = Draft::create(&beside(".picket-collector-backup.draft"))?;
    // Beside the backup, where there is room for it; but the owner of the directory cannot write where only root can.
    let copy = beside(".picket-collector-backup.draft.db");
    let copy = stranger(directory.path()).map_err(at(directory.path()))?.is_none().then_some(copy);
    let out = Counted { inner: &draft.file, bytes: 0 };
    let (manifest, bytes) =
        owned(directory, || fill(directory, copy.as_deref(), out, &draft.path, with_evidence))??;
    draft.file.sync_all().map_err(at(&draft.path))?;
    put_in_place(&draft.path, &path)?;
    drop(draft);
    File::open(place).and_then(|place| place.sync_all()).map_err(at(place))?;
    Ok(Taken { path: Some(path), manifest, bytes })
}

/// Whether the database's copy fits into `place`, where the running collector may write as well.
fn has_room(directory: &DataDir, place: &Path) -> Result<(), BackupError> {
    let size = |name: &str| fs::metadata(directory.file(name)).map_or(0, |found| found.len());
    let needed = size("collector.db").saturating_add(size("collector.db-wal"));
    let figures = rustix::fs::statvfs(place).map_err(|error| at(place)(error.into()))?;
    let free = figures.f_bavail.saturating_mul(figures.f_frsize).saturating_sub(SPARE_BYTES);
    if needed <= free {
        return Ok(());
    }
    let path = place.to_owned();
    Err(if place == directory.path() {
        BackupError::NoRoomInDataDir { path, needed, free }
    } else {
        BackupError::NoRoomForCopy { path, needed, free }
    })
}

/// Removes the copy that a killed backup left in the data directory, where it takes as much room as the database. One that is at work keeps its own.
pub fn remove_leftover(directory: &DataDir) {
    let path = directory.file(COPY_NAME);
    let left = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    // Whatever stands in the way, the next backup tells it.
    if let Ok(file) = left
        && lock(&file, &path).is_ok()
    {
        drop(Draft { path, file });
    }
}

/// Gives the draft its name, not in place of what came to be there meanwhile.
fn put_in_place(draft: &Path, path: &Path) -> Result<(), BackupError> {
    match renameat_with(CWD, draft, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(BackupError::Exists(path.to_owned())),
        // A file system that cannot promise it.
        Err(Errno::INVAL | Errno::NOSYS) if path.symlink_metadata().is_err() => {
            fs::rename(draft, path).map_err(at(path))
        }
        Err(error) => Err(at(path)(error.into())),
    }
}

/// `picket-collector-20261129T215000Z.tar.zst`.
fn name_of_now() -> String {
    let time: String = wall_clock().to_string().chars().take(19).filter(|c| !"-:".contains(*c)).collect();
    format!("picket-collector-{time}Z.tar.zst")
}

/// A file that is gone again when this is dropped; 0600, and held by one process.
struct Draft {
    path: PathBuf,
    file: File,
}

impl Draft {
    /// Makes it, in place of one that a killed process left.
    fn create(path: &Path) -> Result<Self, BackupError> {
        let make = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = match make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let left = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path);
                let left = left.map_err(at(path))?;
                lock(&left, path)?;
                fs::remove_file(path).map_err(at(path))?;
                make()
            }
            made => made,
        };
        let draft = Self { path: path.to_owned(), file: file.map_err(at(path))? };
        lock(&draft.file, path)?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What SQLite may have put beside it, too. What is not there need not go; what cannot go is told by the next backup.
        for end in ["", "-journal", "-wal", "-shm"] {
            let mut path = self.path.clone().into_os_string();
            path.push(end);
            drop(fs::remove_file(path));
        }
    }
}

fn lock(file: &File, path: &Path) -> Result<(), BackupError> {
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| BackupError::Busy(path.to_owned()))
}

/// What goes into a backup: small files in memory, the others by their path.
struct Source {
    manifest: Manifest,
    contents: Vec<Content>,
}

enum Content {
    Bytes(Zeroizing<Vec<u8>>),
    File(PathBuf),
}

impl Source {
    /// Copies the database to the draft, and reads or measures the rest.
    fn new(directory: &DataDir, database: &Draft, with_evidence: bool) -> Result<Self, BackupError> {
        let taken = wall_clock();
        let held = copy(&directory.file("collector.db"), &database.path)?;
        let (mut files, mut contents) = (Vec::new(), Vec::new());
        let mut add = |name: Name, content: Content| -> Result<(), BackupError> {
            let (size, sha256) = match &content {
                Content::Bytes(bytes) => {
                    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    (size, hex(digest::digest(&digest::SHA256, bytes).as_ref()))
                }
                Content::File(path) => measure(path).map_err(at(path))?,
            };
            files.push(Entry { name, size, sha256 });
            contents.push(content);
            Ok(())
        };
        for name in Name::NEEDED {
            let content = match name {
                Name::Database => Content::File(database.path.clone()),
                small => Content::Bytes(Zeroizing::new(directory.contents(&small.to_string())?)),
            };
            add(name, content)?;
        }
        if with_evidence {
            let place = directory.file("evidence");
            for (agent, command) in complete_bundles(&place).map_err(at(&place))? {
                for name in [Name::EvidenceDescription(agent, command), Name::Evidence(agent, command)] {
                    add(name, Content::File(directory.file(&name.to_string())))?;
                }
            }
        }
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            taken,
            collector: env!("CARGO_PKG_VERSION").to_owned(),
            ca_sha256: hex(&directory.authority()?.digest()),
            hosts: held.hosts,
            records: held.records,
            files,
        };
        Ok(Self { manifest, contents })
    }

    fn write(
        self,
        out: &mut impl Write,
        failed: &impl Fn(io::Error) -> BackupError,
    ) -> Result<Manifest, BackupError> {
        let text = serde_json::to_vec(&self.manifest).map_err(|error| failed(error.into()))?;
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(BackupError::TooMuchEvidence(self.manifest.files.len() / 2));
        }
        let time = u64::try_from(self.manifest.taken.seconds()).unwrap_or(0);
        let mut archive = zstd::stream::write::Encoder::new(out, COMPRESSION).map_err(failed)?;
        archive.include_checksum(true).map_err(failed)?;
        let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
        header(&mut archive, MANIFEST_NAME, size, time, failed)?;
        archive.write_all(&text).and_then(|()| pad(&mut archive, size)).map_err(failed)?;
        for (entry, content) in self.manifest.files.iter().zip(&self.contents) {
            header(&mut archive, &entry.name.to_string(), entry.size, time, failed)?;
            match content {
                Content::Bytes(bytes) => archive.write_all(bytes).map_err(failed)?,
                Content::File(path) => put(&mut archive, path, entry, failed)?,
            }
            pad(&mut archive, entry.size).map_err(failed)?;
        }
        archive.write_all(&tar::end()).map_err(failed)?;
        archive.finish().and_then(|out| out.flush()).map_err(failed)?;
        Ok(self.manifest)
    }
}

fn header(
    archive: &mut impl Write,
    name: &str,
    size: u64,
    mtime: u64,
    failed: &impl Fn(io::Error) -> BackupError,
) -> Result<(), BackupError> {
    let header = tar::Header { name: name.to_owned(), size, mtime }.to_bytes()?;
    archive.write_all(&header).map_err(failed)
}

fn pad(archive: &mut impl Write, size: u64) -> io::Result<()> {
    archive.write_all(&vec![0; tar::padding(size)])
}

/// Writes a file that must still be what it was when it was measured.
fn put(
    archive: &mut impl Write,
    path: &Path,
    entry: &Entry,
    failed: &impl Fn(io::Error) -> BackupError,
) -> Result<(), BackupError> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BackupError::Changed(entry.name));
        }
        opened => opened.map_err(at(path))?,
    };
    let mut context = digest::Context::new(&digest::SHA256);
    let (mut piece, mut left) = (vec![0; PIECE_BYTES], entry.size);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let count = file.read(piece.get_mut(..most).unwrap_or_default()).map_err(at(path))?;
        let part = piece.get(..count).filter(|part| !part.is_empty());
        let part = part.ok_or(BackupError::Changed(entry.name))?;
        context.update(part);
        archive.write_all(part).map_err(failed)?;
        left = left.saturating_sub(u64::try_from(count).unwrap_or(0));
    }
    let same = hex(context.finish().as_ref()) == entry.sha256;
    if same { Ok(()) } else { Err(BackupError::Changed(entry.name)) }
}

/// Size and SHA-256 of a file.
fn measure(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let (mut piece, mut size) = (vec![0; PIECE_BYTES], 0_u64);
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok((size, hex(context.finish().as_ref())));
        }
        context.update(piece.get(..count).unwrap_or_default());
        size = size.saturating_add(u64::try_from(count).unwrap_or(0));
    }
}

/// Counts what goes through it.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.bytes = self.bytes.saturating_add(u64::try_from(count).unwrap_or(0));
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

// What `contents` reads at most fits into a manifest's bound on small files.
const _: () = assert!(SMALL_FILE_BYTES_MAX == crate::server::data_dir::FILE_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_backup_left_goes_and_what_one_at_work_holds_stays() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = DataDir::new(place.path());
        let (copy, journal) = (directory.file(COPY_NAME), directory.file(".backup.db-journal"));
        let at_work = Draft::create(&copy).expect("a copy");
        remove_leftover(&directory);
        assert!(copy.exists());
        drop(at_work);
        // As a kill leaves it.
        fs::write(&copy, "left").expect("written");
        fs::write(&journal, "left").expect("written");
        remove_leftover(&directory);
        assert!(!copy.exists() && !journal.exists());
        remove_leftover(&directory);
    }

    #[test]
    fn without_room_in_the_data_directory_it_says_who_needs_none_there() {
        let place = tempfile::tempdir().expect("a directory");
        let other = tempfile::tempdir().expect("another");
        let directory = DataDir::new(place.path());
        // Larger than any disk here, and without a byte on it.
        let database = File::create(directory.file("collector.db")).expect("a database");
        database.set_len(8 << 40).expect("a length");
        let said = has_room(&directory, place.path()).expect_err("no room").to_string();
        assert!(said.contains("runuser -u picket-collector -- collector backup DIR"), "{said}");
        let said = has_room(&directory, other.path()).expect_err("no room").to_string();
        assert!(said.contains("back up to another disk"), "{said}");
    }
}
