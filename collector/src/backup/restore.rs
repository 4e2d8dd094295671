//! Makes a collector of a backup. The archive is read once, from first to last, into a directory of its own inside the target;
//! only when all of it has been held against the manifest are the files moved to their places, the configuration last: with it
//! the directory counts as a collector's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use picket_protocol::backup::{Entry, MANIFEST_BYTES_MAX, MANIFEST_NAME, Manifest, Name};
use picket_protocol::crypto::hex;
use picket_protocol::tar::{self, Block};
use ring::digest;
use rustix::fs::statvfs;

use super::error::{BackupError, at};
use crate::server::data_dir::{DataDir, RunLock};
use crate::store::sqlite::backup::adopt;

/// Where files wait, inside the target, until all of them are whole.
const STAGING: &str = ".restoring";
/// What may be in a target that counts as empty: what an earlier attempt left, and what file systems have of themselves.
const HARMLESS: [&str; 3] = [STAGING, "collector.lock", "lost+found"];
/// Room that stays free, for the database's log and the first records.
const SPARE_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes that are read and written at once.
const PIECE_BYTES: usize = 128 * 1024;

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What the archive held.
    pub manifest: Manifest,
    /// Whose the directory is: user and group.
    pub owner: (u32, u32),
}

/// Makes a collector of the backup `source` in `path`, a directory that is empty or does not exist. The files are the
/// caller's.
///
/// # Errors
/// When the directory is not empty or in use, or the archive is damaged or none. The directory is as it was before then.
pub fn restore(source: impl Read, path: &Path) -> Result<Restored, BackupError> {
    let target = Target::claim(path)?;
    let mut archive = zstd::stream::read::Decoder::new(source).map_err(BackupError::Torn)?;
    let manifest = read_manifest(&mut archive)?;
    target.has_room(manifest.bytes())?;
    for entry in &manifest.files {
        target.take(&mut archive, entry)?;
    }
    read_end(&mut archive)?;
    target.check(&manifest)?;
    let owner = target.put_in_place(&manifest)?;
    Ok(Restored { manifest, owner })
}

/// The directory, claimed. What was begun in it goes when this is dropped.
struct Target {
    directory: DataDir,
    staging: DataDir,
    made: bool,
    had_lock: bool,
    complete: std::cell::Cell<bool>,
    _lock: RunLock,
}

impl Target {
    fn claim(path: &Path) -> Result<Self, BackupError> {
        let made = !path.exists();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        let (directory, staging) = (DataDir::new(path), DataDir::new(&path.join(STAGING)));
        // A restore that was killed while it moved files: where it began there was nothing.
        let broken_off = staging.path().exists() && !directory.file("collector.toml").exists();
        let is_left = |found: &str| found == "evidence" || Name::parse(found).is_some();
        for found in fs::read_dir(path).map_err(at(path))? {
            let found = found.map_err(at(path))?.file_name().to_string_lossy().into_owned();
            let harmless = HARMLESS.contains(&found.as_str()) || broken_off && is_left(&found);
            if !harmless {
                return Err(BackupError::NotEmpty { path: path.to_owned(), found });
            }
        }
        let had_lock = directory.file("collector.lock").exists();
        let lock = directory.lock().map_err(|_| BackupError::InUse(path.to_owned()))?;
        let complete = std::cell::Cell::new(false);
        let target = Self { directory, staging, made, had_lock, complete, _lock: lock };
        if broken_off {
            target.remove_files();
        }
        let staging = target.staging.path();
        match fs::remove_dir_all(staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(staging)(error)),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(staging).map_err(at(staging))?;
        Ok(target)
    }

    fn has_room(&self, needed: u64) -> Result<(), BackupError> {
        let path = self.directory.path();
        let figures = statvfs(path).map_err(|error| at(path)(error.into()))?;
        let free = figures.f_bavail.saturating_mul(figures.f_frsize).saturating_sub(SPARE_BYTES);
        if needed <= free {
            return Ok(());
        }
        Err(BackupError::NoRoom { path: path.to_owned(), needed, free })
    }

    /// Reads one file, which must be the next of the archive and what the manifest says.
    fn take(&self, archive: &mut impl Read, entry: &Entry) -> Result<(), BackupError> {
        let size = read_header(archive, &entry.name.to_string())?;
        if size != entry.size {
            return Err(BackupError::Damaged(entry.name));
        }
        let path = self.staging.file(&entry.name.to_string());
        let directory = path.parent().unwrap_or(self.staging.path());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
        let mode = if entry.name.is_secret() { 0o600 } else { 0o644 };
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let mut file = file.map_err(at(&path))?;
        let mut context = digest::Context::new(&digest::SHA256);
        let (mut piece, mut left) = (vec![0; PIECE_BYTES], size);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let part = piece.get_mut(..most).unwrap_or_default();
            archive.read_exact(part).map_err(BackupError::Torn)?;
            context.update(part);
            file.write_all(part).map_err(at(&path))?;
            left = left.saturating_sub(u64::try_from(most).unwrap_or(left));
        }
        read_padding(archive, size)?;
        if hex(context.finish().as_ref()) != entry.sha256 {
            return Err(BackupError::Damaged(entry.name));
        }
        // Whatever the mask of the caller was.
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(at(&path))?;
        file.sync_all().map_err(at(&path))
    }

    /// Whether the files make a collector, and the one that the manifest names.
    fn check(&self, manifest: &Manifest) -> Result<(), BackupError> {
        let unsound = |error: &dyn std::fmt::Display| BackupError::Unsound(error.to_string());
        self.staging.config().map_err(|e| unsound(&e))?;
        self.staging.witness().map_err(|e| unsound(&e))?;
        self.staging.ticket_seed().map_err(|e| unsound(&e))?;
        let authority = self.staging.authority().map_err(|e| unsound(&e))?;
        if hex(&authority.digest()) != manifest.ca_sha256 {
            return Err(unsound(&"its CA is not the one that its manifest names"));
        }
        adopt(&self.staging.file("collector.db")).map_err(|e| unsound(&e))?;
        Ok(())
    }

    /// Moves the files to their places, durably; tells whose the directory is.
    fn put_in_place(&self, manifest: &Manifest) -> Result<(u32, u32), BackupError> {
        let (path, staging) = (self.directory.path(), self.staging.path());
        let found = fs::metadata(path).map_err(at(path))?;
        let owner = (found.uid(), found.gid());
        let mut names: Vec<PathBuf> = Name::NEEDED.iter().map(|name| name.to_string().into()).collect();
        if manifest.files.iter().any(|entry| matches!(entry.name, Name::Evidence(..))) {
            names.push("evidence".into());
        }
        // What counts comes last, which is the first of the list.
        for name in names.iter().rev() {
            if name == Path::new("collector.toml") {
                sync(path)?;
            }
            let to = path.join(name);
            fs::rename(staging.join(name), &to).map_err(at(&to))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(at(path))?;
        sync(path)?;
        self.complete.set(true);
        Ok(owner)
    }

    /// What was moved to its place already. What cannot be removed makes the next attempt say that the directory is not empty.
    fn remove_files(&self) {
        // In this order: the configuration, which makes it a collector, goes first.
        for name in Name::NEEDED {
            drop(fs::remove_file(self.directory.file(&name.to_string())));
        }
        drop(fs::remove_dir_all(self.directory.file("evidence")));
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // What cannot be removed is removed by the next attempt, which takes it for harmless.
        drop(fs::remove_dir_all(self.staging.path()));
        if self.complete.get() {
            return;
        }
        self.remove_files();
        if !self.had_lock {
            drop(fs::remove_file(self.directory.file("collector.lock")));
        }
        if self.made {
            drop(fs::remove_dir(self.directory.path()));
        }
    }
}

fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(at(path))
}

fn read_manifest(archive: &mut impl Read) -> Result<Manifest, BackupError> {
    let size = read_header(archive, MANIFEST_NAME)?;
    let length = usize::try_from(size).ok().filter(|length| *length <= MANIFEST_BYTES_MAX);
    let length = length.ok_or(picket_protocol::backup::ManifestError::TooLong)?;
    let mut text = Vec::new();
    archive.take(size).read_to_end(&mut text).map_err(BackupError::Torn)?;
    if text.len() < length {
        return Err(BackupError::Torn(io::ErrorKind::UnexpectedEof.into()));
    }
    read_padding(archive, size)?;
    Ok(Manifest::parse(&text)?)
}

/// The size of the next file, which must be the one of that name.
fn read_header(archive: &mut impl Read, expected: &str) -> Result<u64, BackupError> {
    let unexpected = |found: &str| BackupError::Unexpected {
        expected: expected.to_owned(),
        found: found.chars().take(100).collect(),
    };
    match tar::parse(&read_block(archive)?)? {
        Block::File(header) if header.name == expected => Ok(header.size),
        Block::File(header) => Err(unexpected(&header.name)),
        Block::Extended(_) => Err(unexpected("an extended header")),
        Block::End => Err(unexpected("the end")),
    }
}

fn read_block(archive: &mut impl Read) -> Result<[u8; tar::BLOCK_BYTES], BackupError> {
    let mut block = [0; tar::BLOCK_BYTES];
    archive.read_exact(&mut block).map_err(BackupError::Torn)?;
    Ok(block)
}

fn read_padding(archive: &mut impl Read, size: u64) -> Result<(), BackupError> {
    let mut rest = vec![0; tar::padding(size)];
    archive.read_exact(&mut rest).map_err(BackupError::Torn)
}

/// The end of the archive and of what is compressed: a checksum that does not fit is found here.
fn read_end(archive: &mut impl Read) -> Result<(), BackupError> {
    let trailing = || BackupError::Unexpected { expected: "the end".to_owned(), found: "more".to_owned() };
    for _ in 0..2 {
        if !matches!(tar::parse(&read_block(archive)?), Ok(Block::End)) {
            return Err(trailing());
        }
    }
    let mut more = [0; 1];
    match archive.read(&mut more).map_err(BackupError::Torn)? {
        0 => Ok(()),
        _ => Err(trailing()),
    }
}
