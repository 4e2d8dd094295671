//! The private keys of the ledger: one file each, `ledger-<n>.key`, 32 bytes of seed, mode 0600.
//!
//! The database says which n is in force. A new key is durable before the transaction that puts it in
//! force; the old one is erased after it. So at any moment the key in force is on the disk, and whatever
//! other file is there is either too early or too late and is erased at the next start.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use picket_protocol::crypto::{KEY_BYTES, PublicKey, SigningKey};
use picket_protocol::renewal::HAND_OVERS_MAX;
use ring::rand::SecureRandom as _;
use zeroize::Zeroizing;

use super::error::LedgerError;
use crate::layout::Layout;

/// No link and no FIFO may stand in for a key.
const FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// Most hand-overs of the key that the collector may lack: what a renewal can prove. One more, and the certificate of a host that was
/// away could not be renewed any more.
pub const HAND_OVERS_WAITING_MAX: usize = if cfg!(test) { 4 } else { HAND_OVERS_MAX };

/// What is to become of the key in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyTurn {
    /// It has not served its time.
    Serves,
    /// It is to be handed over.
    Due,
    /// It has served its time, and signs on until the collector has heard of the hand-overs before it
    /// ([`HAND_OVERS_WAITING_MAX`]). Only of a host that one knows.
    Kept,
}

/// A seed, wiped when dropped.
pub type Seed = Zeroizing<[u8; KEY_BYTES]>;

/// Where the private keys are kept. A trait, so that the crash tests can lose what was not synced.
pub trait KeyFiles: Send {
    /// Numbers of all keys that have a file, whole or not.
    fn list(&self) -> io::Result<Vec<u64>>;
    /// The seed of key `n`; `None` when there is no whole one.
    fn read(&self, n: u64) -> io::Result<Option<Seed>>;
    /// Stores key `n`, replacing what is there; durable when it returns.
    fn write(&self, n: u64, seed: &Seed) -> io::Result<()>;
    /// Overwrites key `n` and removes it; durable when it returns. Fine when there is none.
    fn erase(&self, n: u64) -> io::Result<()>;
    /// Where key `n` is, for messages.
    fn path(&self, n: u64) -> PathBuf;
}

/// The real key files.
#[derive(Clone, Debug)]
pub struct KeyDirectory(PathBuf);

impl KeyDirectory {
    /// The keys in `path`, which is made (mode 0700) when it is missing.
    pub fn open(path: PathBuf) -> Result<Self, LedgerError> {
        match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(LedgerError::Io { path, source }),
        }
    }
}

impl KeyFiles for KeyDirectory {
    fn list(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for file in fs::read_dir(&self.0)? {
            numbers.extend(key_number(&file?.file_name()));
        }
        Ok(numbers)
    }

    fn read(&self, n: u64) -> io::Result<Option<Seed>> {
        let mut file = match OpenOptions::new().read(true).custom_flags(FLAGS).open(self.path(n)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut seed = Seed::default();
        match file.read_exact(&mut *seed) {
            Ok(()) => Ok(Some(seed)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, n: u64, seed: &Seed) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(FLAGS);
        let mut file = options.open(self.path(n))?;
        file.write_all(&**seed)?;
        file.sync_all()?;
        sync_directory(&self.0)
    }

    fn erase(&self, n: u64) -> io::Result<()> {
        let path = self.path(n);
        match OpenOptions::new().write(true).custom_flags(FLAGS).open(&path) {
            Ok(mut file) => {
                // Overwriting in place is the most that a file system lets us do; what a flash disk keeps of
                // the old block is beyond reach.
                file.write_all(&[0; KEY_BYTES])?;
                file.sync_all()?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        fs::remove_file(&path)?;
        sync_directory(&self.0)
    }

    fn path(&self, n: u64) -> PathBuf {
        self.0.join(key_name(n))
    }
}

/// Name of the file that holds key `n`.
pub fn key_name(n: u64) -> String {
    format!("ledger-{n}.key")
}

/// Which key the file of that name holds; none where it is no key's.
pub fn key_number(name: &OsStr) -> Option<u64> {
    let name = name.to_str()?;
    let n = name.strip_prefix("ledger-")?.strip_suffix(".key")?.parse().ok()?;
    (name == key_name(n)).then_some(n)
}

/// Makes the creation and removal of names in `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// A fresh seed from the kernel's random source.
pub(super) fn fresh_seed() -> io::Result<Seed> {
    let mut seed = Seed::default();
    ring::rand::SystemRandom::new()
        .fill(&mut *seed)
        .map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
    Ok(seed)
}

/// Makes the first ledger key for `agent enroll`, or finds the one that an interrupted enrolment made, and
/// gives its public half.
pub fn create_first_key(layout: &Layout) -> Result<PublicKey, LedgerError> {
    let keys = KeyDirectory::open(layout.ledger_keys())?;
    let failed = |source| LedgerError::Io { path: keys.path(0), source };
    let seed = match keys.read(0).map_err(failed)? {
        Some(seed) => seed,
        None => {
            let seed = fresh_seed().map_err(failed)?;
            keys.write(0, &seed).map_err(failed)?;
            seed
        }
    };
    Ok(SigningKey::from_seed(*seed).public())
}
