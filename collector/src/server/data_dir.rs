//! The collector's directory: who may read what in it, and how it comes to be.
//!
//! | file | mode | |
//! |---|---|---|
//! | `ca.key`, `ca.crt` | 0600, 0644 | the CA |
//! | `server.key`, `server.crt` | 0600, 0644 | the server's own certificate, replaced before it ends |
//! | `witness.key` | 0600 | 32-byte seed of the cosigning key |
//! | `tickets.key` | 0600 | 32-byte seed of the TLS session tickets' keys |
//! | `collector.db` (and `-wal`, `-shm`) | 0600 | the store |
//! | `evidence/` | 0700 | encrypted evidence, by host |
//! | `collector.toml` | 0644 | the configuration |
//! | `collector.lock` | 0600 | held while the collector runs |
//! | `backup-taken` | 0600 | empty; its time is that of the last backup |
//! | `admin.sock` | 0600 | the running collector's local commands |
//!
//! The directory itself is 0700.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use picket_protocol::crypto::{SigningKey, hex, sha256};
use picket_protocol::time::Timestamp;
use ring::rand::SecureRandom as _;
use tokio::sync::broadcast;
use zeroize::Zeroizing;

use super::authority::{Authority, AuthorityError, Pair, SERVER_RENEWAL, names_of, validity_of};
use super::config::{Config, ConfigError};
use super::evidence::EvidenceStore;
use super::witness::Witness;
use crate::store::sqlite::backup;
use crate::store::{FindingRow, SqliteStore, StoreError};

/// Longest file of ours that is read.
pub const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Here while `collector init` is at work: what is beside it is no collector's yet.
const BEGUN: &str = ".initialising";

/// Its time is that of the last backup.
const BACKUP_TAKEN: &str = "backup-taken";

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `init` where there is a collector already.
    #[error("{0} holds a collector already; nothing was changed")]
    Exists(PathBuf),
    /// `init` where there is something else.
    #[error(
        "{path} is not empty, there is {found:?}: a collector begins in an empty directory; nothing was changed"
    )]
    NotEmpty {
        /// Which.
        path: PathBuf,
        /// The first thing in it.
        found: String,
    },
    /// No collector there.
    #[error("{0} holds no collector; make one with `collector init --data-dir {0} --address host:port`")]
    Missing(PathBuf),
    /// Two collectors on one directory.
    #[error("another collector runs on {0}")]
    Locked(PathBuf),
    /// A secret that others may read.
    #[error("{path}: others may read or write it (mode {mode:o}); it must be 0600")]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file that is not what it should be.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The configuration.
    #[error("{path}: {source}")]
    Config {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ConfigError,
    },
    /// The CA.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whoever finds the lock taken waits so long: a local command holds it for a moment only, and so does a collector
/// that has no admin socket yet.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How often it is tried meanwhile.
pub const LOCK_LOOK: Duration = Duration::from_millis(20);

/// A collector's directory.
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
}

/// The exclusive right to run on a directory; ends when dropped.
pub struct RunLock {
    _file: File,
}

/// The seed of the ticket keys.
pub type Seed = Zeroizing<[u8; 32]>;

impl DataDir {
    /// Names a directory.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The file `name` in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in one of the small files.
    ///
    /// # Errors
    /// When it cannot be read, or is a key that others may read.
    pub fn contents(&self, name: &str) -> Result<Vec<u8>, DataDirError> {
        let path = Path::new(name);
        if path.extension().is_some_and(|end| end == "key") {
            self.read_secret(name)
        } else {
            self.read(name)
        }
    }

    /// The admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.file("admin.sock")
    }

    /// Makes the directory and everything in it.
    ///
    /// # Errors
    /// When there is something already: nothing is overwritten.
    pub fn init(&self, config_text: &str, now: Timestamp) -> Result<Config, DataDirError> {
        let config = self.parse_config(config_text)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(|source| DataDirError::File { path: self.path.clone(), source })?;
        self.forget_broken_off()?;
        self.is_empty()?;
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700)).map_err(|e| self.error("", e))?;
        self.write(BEGUN, 0o600, b"")?;
        let short = hex(&self.random_bytes::<4>()?);
        let ca = Authority::create(&format!("Picket collector {short}"), now)?;
        self.write("ca.key", 0o600, ca.key.as_bytes())?;
        self.write("ca.crt", 0o644, ca.certificate.as_bytes())?;
        self.write_server(&Authority::open(&ca)?, &config, now)?;
        self.write("witness.key", 0o600, &*Zeroizing::new(self.random_bytes::<32>()?))?;
        self.write("tickets.key", 0o600, &*Zeroizing::new(self.random_bytes::<32>()?))?;
        self.write("collector.lock", 0o600, b"")?;
        self.write("collector.db", 0o600, b"")?;
        self.store(broadcast::channel(1).0)?.close();
        // Last: with it the directory counts as a collector's.
        self.write("collector.toml", 0o644, config_text.as_bytes())?;
        fs::remove_file(self.file(BEGUN)).map_err(|e| self.error(BEGUN, e))?;
        Ok(config)
    }

    /// But for what file systems have of themselves.
    fn is_empty(&self) -> Result<(), DataDirError> {
        if self.file("collector.toml").exists() {
            return Err(DataDirError::Exists(self.path.clone()));
        }
        for found in fs::read_dir(&self.path).map_err(|e| self.error("", e))? {
            let found = found.map_err(|e| self.error("", e))?.file_name();
            if found != "lost+found" {
                let found = found.to_string_lossy().into_owned();
                return Err(DataDirError::NotEmpty { path: self.path.clone(), found });
            }
        }
        Ok(())
    }

    /// Forgets that `init` was at work, which a crash may have left of one that was done: the configuration is its last file. Beside it the
    /// mark would have a later `init` take a collector that lost its configuration for one that never was.
    ///
    /// # Errors
    /// When the mark cannot be removed.
    pub fn forget_begun(&self) -> Result<(), DataDirError> {
        match fs::remove_file(self.file(BEGUN)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error(BEGUN, error)),
            _ => Ok(()),
        }
    }

    /// Removes what an attempt that was killed left. It was no collector's yet: its keys have served nobody. One that knows a host was.
    fn forget_broken_off(&self) -> Result<(), DataDirError> {
        if !self.file(BEGUN).exists() || self.file("collector.toml").exists() {
            return Ok(());
        }
        let database = self.file("collector.db");
        if database.exists() && backup::hosts(&database)? > 0 {
            return Err(DataDirError::Exists(self.path.clone()));
        }
        for found in fs::read_dir(&self.path).map_err(|e| self.error("", e))? {
            let path = found.map_err(|e| self.error("", e))?.path();
            // The mark goes last, so that this can be broken off as well. A directory is nothing of ours, and refused afterwards.
            if path != self.file(BEGUN) && !path.is_dir() {
                fs::remove_file(&path).map_err(|source| DataDirError::File { path, source })?;
            }
        }
        fs::remove_file(self.file(BEGUN)).map_err(|e| self.error(BEGUN, e))
    }

    /// Keeps the time of a backup that was taken just now.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note_backup(&self) -> Result<(), DataDirError> {
        self.write(BACKUP_TAKEN, 0o600, b"")
    }

    /// When the last backup of this directory was taken; none where that was never or is not known.
    pub fn last_backup(&self) -> Option<Timestamp> {
        let noted = fs::symlink_metadata(self.file(BACKUP_TAKEN)).and_then(|found| found.modified());
        noted.ok().map(Timestamp::from)
    }

    /// The configuration.
    ///
    /// # Errors
    /// When there is no collector here, or the file has a fault.
    pub fn config(&self) -> Result<Config, DataDirError> {
        if !self.file("collector.toml").exists() {
            return Err(DataDirError::Missing(self.path.clone()));
        }
        let text = String::from_utf8(self.read("collector.toml")?)
            .map_err(|_| self.damaged("collector.toml", "not UTF-8 text"))?;
        self.parse_config(&text)
    }

    fn parse_config(&self, text: &str) -> Result<Config, DataDirError> {
        let path = self.file("collector.toml");
        Config::parse(text).map_err(|source| DataDirError::Config { path, source })
    }

    /// The CA.
    ///
    /// # Errors
    /// When its files are missing, exposed or damaged.
    pub fn authority(&self) -> Result<Authority, DataDirError> {
        Ok(Authority::open(&self.pair("ca")?)?)
    }

    /// The server's certificate, made anew when it ends soon, is not valid yet, or the configured names have changed.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn server_pair(
        &self,
        authority: &Authority,
        config: &Config,
        now: Timestamp,
    ) -> Result<Pair, DataDirError> {
        if self.file("server.crt").exists() && self.file("server.key").exists() {
            let pair = self.pair("server")?;
            let mut names = config.certificate_names();
            names.sort();
            let (begin, end) = validity_of(&pair.certificate)?;
            // One that was made by a clock that was ahead would keep every agent out until its time has come.
            let fresh = begin <= now && end.since(now) > SERVER_RENEWAL;
            // Who was killed between the two files left a key of one and a certificate of another.
            if fresh && pair.is_matching() && names_of(&pair.certificate)? == names {
                return Ok(pair);
            }
            tracing::info!("the server's certificate is replaced");
        }
        self.write_server(authority, config, now)
    }

    /// Makes the server a new key and certificate.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn write_server(
        &self,
        authority: &Authority,
        config: &Config,
        now: Timestamp,
    ) -> Result<Pair, DataDirError> {
        let pair = authority.issue_server(&config.certificate_names(), now)?;
        self.write("server.key", 0o600, pair.key.as_bytes())?;
        self.write("server.crt", 0o644, pair.certificate.as_bytes())?;
        Ok(pair)
    }

    /// The cosigning key.
    ///
    /// # Errors
    /// When its file is missing, exposed or damaged.
    pub fn witness(&self) -> Result<Witness, DataDirError> {
        let key = SigningKey::from_seed(*self.seed("witness.key")?);
        let digest = sha256(&[&key.public().0]);
        let name = format!("picket-collector/{}", hex(digest.get(..4).unwrap_or(&digest)));
        Witness::new(&name, key).map_err(|error| self.damaged("witness.key", &error.to_string()))
    }

    /// The seed of the session tickets' keys.
    ///
    /// # Errors
    /// When its file is missing, exposed or damaged.
    pub fn ticket_seed(&self) -> Result<Seed, DataDirError> {
        self.seed("tickets.key")
    }

    /// Opens the store.
    ///
    /// # Errors
    /// When the database is damaged, of a newer version, or cannot be written.
    pub fn store(&self, findings: broadcast::Sender<Arc<FindingRow>>) -> Result<SqliteStore, DataDirError> {
        Ok(SqliteStore::open(&self.file("collector.db"), findings)?)
    }

    /// Opens the store of evidence.
    ///
    /// # Errors
    /// When its directory cannot be made or read.
    pub fn evidence(&self, config: &Config) -> Result<EvidenceStore, DataDirError> {
        EvidenceStore::open(&self.file("evidence"), config.evidence).map_err(|e| self.error("evidence", e))
    }

    /// Takes the exclusive right to run here.
    ///
    /// # Errors
    /// When another process has it.
    pub fn lock(&self) -> Result<RunLock, DataDirError> {
        let path = self.file("collector.lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&path);
        let file = file.map_err(|source| DataDirError::File { path, source })?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| DataDirError::Locked(self.path.clone()))?;
        Ok(RunLock { _file: file })
    }

    /// As [`DataDir::lock`], and waits [`LOCK_WAIT`] for it.
    ///
    /// # Errors
    /// When another process has it still.
    pub fn lock_patiently(&self) -> Result<RunLock, DataDirError> {
        let begin = Instant::now();
        loop {
            match self.lock() {
                Err(DataDirError::Locked(_)) if begin.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_LOOK),
                locked => return locked,
            }
        }
    }

    fn pair(&self, name: &str) -> Result<Pair, DataDirError> {
        let text = |bytes: Vec<u8>, file: &str| {
            String::from_utf8(bytes).map_err(|_| self.damaged(file, "not PEM text"))
        };
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        Ok(Pair {
            key: Zeroizing::new(text(self.read_secret(&key)?, &key)?),
            certificate: text(self.read(&certificate)?, &certificate)?,
        })
    }

    fn seed(&self, name: &str) -> Result<Seed, DataDirError> {
        let bytes = Zeroizing::new(self.read_secret(name)?);
        let seed = <[u8; 32]>::try_from(bytes.as_slice());
        seed.map(Zeroizing::new).map_err(|_| self.damaged(name, "it must have 32 bytes"))
    }

    fn read_secret(&self, name: &str) -> Result<Vec<u8>, DataDirError> {
        let path = self.file(name);
        let mode = fs::metadata(&path).map_err(|e| self.error(name, e))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(DataDirError::Exposed { path, mode });
        }
        self.read(name)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DataDirError> {
        let mut bytes = Vec::new();
        let file = File::open(self.file(name)).map_err(|e| self.error(name, e))?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| self.error(name, e))?;
        Ok(bytes)
    }

    /// Replaces a file in one step, durably.
    fn write(&self, name: &str, mode: u32, bytes: &[u8]) -> Result<(), DataDirError> {
        let (path, draft) = (self.file(name), self.file(&format!(".{name}.new")));
        let replace = || {
            match fs::remove_file(&draft) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
            // A command of root's must not leave the collector a file that it cannot read.
            if rustix::process::geteuid().is_root() {
                let owner = fs::metadata(&self.path)?;
                std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
            }
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.path)?.sync_all()
        };
        replace().map_err(|e| self.error(name, e))
    }

    fn random_bytes<const N: usize>(&self) -> Result<[u8; N], DataDirError> {
        random().map_err(|e| self.error("", e))
    }

    fn error(&self, name: &str, source: io::Error) -> DataDirError {
        DataDirError::File { path: self.file(name), source }
    }

    fn damaged(&self, name: &str, why: &str) -> DataDirError {
        DataDirError::Damaged { path: self.file(name), why: why.to_owned() }
    }
}

/// Random bytes for keys, tokens and serial numbers.
///
/// # Errors
/// When the system gives none.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_certificate_of_another_key_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::new(&directory.path().join("collector"));
        let now = Timestamp::from_seconds(1_800_000_000);
        let config = data.init("address = \"127.0.0.1:4403\"\n", now).unwrap();
        let authority = data.authority().unwrap();
        let kept = data.server_pair(&authority, &config, now).unwrap();
        assert!(kept.is_matching());
        // The key is written first, and then the power fails.
        let other = authority.issue_server(&config.certificate_names(), now).unwrap();
        data.write("server.key", 0o600, other.key.as_bytes()).unwrap();
        let pair = data.server_pair(&authority, &config, now).unwrap();
        assert!(pair.is_matching() && pair.certificate != kept.certificate);
    }

    #[test]
    fn a_server_certificate_from_the_future_is_replaced_once_the_clock_is_right() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::new(&directory.path().join("collector"));
        let now = Timestamp::from_seconds(1_800_000_000);
        let config = data.init("address = \"127.0.0.1:4403\"\n", now).unwrap();
        let authority = data.authority().unwrap();
        let begin = |now| {
            let pair = data.server_pair(&authority, &config, now).unwrap();
            validity_of(&pair.certificate).unwrap().0
        };
        let first = begin(now);
        assert_eq!(begin(now.plus(Duration::from_secs(3_600))), first, "kept while it is good");
        let ahead = now.plus(Duration::from_secs(350 * 86_400));
        assert!(begin(ahead) > now, "the clock is ahead: replaced because it seems to end soon");
        assert_eq!(begin(now), first, "the clock is right again");
    }

    #[test]
    fn a_mark_that_outlived_its_init_costs_no_collector_its_keys() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::new(&directory.path().join("collector"));
        let (now, config) = (Timestamp::from_seconds(1_800_000_000), "address = \"127.0.0.1:4403\"\n");
        data.init(config, now).unwrap();
        data.write(BEGUN, 0o600, b"").unwrap();
        data.forget_begun().unwrap();
        data.forget_begun().unwrap();
        assert!(!data.file(BEGUN).exists());
        // Whatever the mark says: who knows a host was a collector.
        data.write(BEGUN, 0o600, b"").unwrap();
        let database = rusqlite::Connection::open(data.file("collector.db")).unwrap();
        let host = "INSERT INTO host VALUES (1, x'00', 1, '', '', 0, '', 0, x'', x'', x'', '', x'', NULL, 0, 0, 0, NULL)";
        database.execute(host, []).unwrap();
        drop(database);
        fs::remove_file(data.file("collector.toml")).unwrap();
        let key = data.contents("ca.key").unwrap();
        assert!(matches!(data.init(config, now), Err(DataDirError::Exists(_))));
        assert_eq!(data.contents("ca.key").unwrap(), key);
    }
}
