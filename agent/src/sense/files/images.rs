//! Before-images: the text of small files that matter, as it was, so that a change can be told in words, shown as a
//! diff, and undone.
//!
//! An image is found by the SHA-256 of its content, which the baseline keeps for every file: it needs no path, a
//! move costs nothing, and the same content is kept once. Images are sealed with AES-256-GCM (the digest is the
//! associated data) by a key in the core's own directory, `images.key`: a copy of the database alone gives nothing away.
//!
//! **Limits.** [`IMAGES_BYTES_MAX`] in all. Beyond, what no file holds any more goes first, oldest first; then the
//! oldest. A change whose before-image is gone says so and has no diff. If the key cannot be made or read, nothing is
//! kept; if it is lost, the old images are as good as gone.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use picket_protocol::crypto::Hash;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, params};
use zeroize::Zeroize as _;

use crate::layout;
use crate::ledger::StateWrite;

/// Bytes of sealed images in all.
pub const IMAGES_BYTES_MAX: i64 = 24 * 1024 * 1024;
/// Images that are on their way to the database.
const RECENT_MAX: usize = 64;
/// Bytes of these.
const RECENT_BYTES_MAX: usize = 512 * 1024;
/// Rows that go at once when there is no room.
const EVICTED_MAX: usize = 256;
/// Bytes of the key.
const KEY_BYTES: usize = 32;

/// Seals and opens images.
struct Cipher {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Cipher {
    fn new(mut bytes: Vec<u8>) -> Option<Self> {
        let key =
            UnboundKey::new(&AES_256_GCM, bytes.get(..KEY_BYTES).filter(|_| bytes.len() == KEY_BYTES)?).ok();
        bytes.zeroize();
        Some(Self { key: LessSafeKey::new(key?), random: SystemRandom::new() })
    }

    fn seal(&self, digest: &Hash, text: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = text.to_vec();
        let nonce_value = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce_value, Aad::from(digest), &mut sealed).ok()?;
        Some([nonce.as_slice(), &sealed].concat())
    }

    fn open(&self, digest: &Hash, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.key.open_in_place(nonce, Aad::from(digest), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

/// See the module.
pub struct Images {
    cipher: Option<Cipher>,
    connection: Connection,
    recent: VecDeque<(Hash, Vec<u8>)>,
    recent_bytes: usize,
}

impl Images {
    /// The images in the database at `database`, whose key lies beside it and is made when there is none.
    ///
    /// # Errors
    /// When the database cannot be opened. Without a key images are neither kept nor found, and that is logged.
    pub fn open(database: &Path) -> rusqlite::Result<Self> {
        Self::with_key(database, |path| match layout::read_file(path, 1_024) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = vec![0; KEY_BYTES];
                SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("no random bytes"))?;
                layout::write_durably(path, &key, 0o600)?;
                Ok(key)
            }
            other => other,
        })
    }

    /// The same, to look only.
    ///
    /// # Errors
    /// As [`Images::open`].
    pub fn open_existing(database: &Path) -> rusqlite::Result<Self> {
        Self::with_key(database, |path| layout::read_file(path, 1_024))
    }

    fn with_key(database: &Path, key: impl Fn(&Path) -> io::Result<Vec<u8>>) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(database, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "cache_size", -64)?;
        let cipher = match key(&database.with_file_name("images.key")) {
            Ok(bytes) => Cipher::new(bytes),
            Err(error) => {
                tracing::error!(%error, "the key of before-images cannot be used; none are kept");
                None
            }
        };
        Ok(Self { cipher, connection, recent: VecDeque::new(), recent_bytes: 0 })
    }

    /// The content with this digest, if it is kept.
    pub fn get(&self, digest: &Hash) -> Option<Vec<u8>> {
        if let Some((_, text)) = self.recent.iter().find(|(recent, _)| recent == digest) {
            return Some(text.clone());
        }
        let sql = "SELECT sealed FROM file_image WHERE digest = ?1";
        let mut statement = self.connection.prepare_cached(sql).ok()?;
        let sealed: Option<Vec<u8>> =
            statement.query_row([digest.as_slice()], |row| row.get(0)).optional().ok()?;
        self.cipher.as_ref()?.open(digest, &sealed?)
    }

    /// Gives the write that keeps `text`; `replaced` is what the file held before.
    pub fn keep(&mut self, digest: Hash, text: &[u8], replaced: Option<Hash>) -> Option<StateWrite> {
        let sealed = self.cipher.as_ref()?.seal(&digest, text)?;
        self.remember(digest, text);
        let replaced = replaced.filter(|replaced| *replaced != digest);
        Some(Box::new(move |transaction| {
            if let Some(replaced) = &replaced {
                supersede(transaction, replaced)?;
            }
            put(transaction, &digest, &sealed)
        }))
    }

    /// Gives the write that says that no file holds `digest` any more.
    pub fn let_go(digest: Hash) -> StateWrite {
        Box::new(move |transaction| supersede(transaction, &digest))
    }

    fn remember(&mut self, digest: Hash, text: &[u8]) {
        if text.len() > RECENT_BYTES_MAX {
            return;
        }
        self.recent_bytes += text.len();
        self.recent.push_back((digest, text.to_vec()));
        while self.recent.len() > RECENT_MAX || self.recent_bytes > RECENT_BYTES_MAX {
            let Some((_, oldest)) = self.recent.pop_front() else { break };
            self.recent_bytes -= oldest.len();
        }
    }

    /// Forgets what has had time to arrive in the database.
    pub fn rest(&mut self) {
        self.recent = VecDeque::new();
        self.recent_bytes = 0;
    }
}

fn supersede(transaction: &Transaction<'_>, digest: &Hash) -> rusqlite::Result<()> {
    let sql = "UPDATE file_image SET superseded = 1 WHERE digest = ?1";
    transaction.prepare_cached(sql)?.execute([digest.as_slice()]).map(|_| ())
}

fn put(transaction: &Transaction<'_>, digest: &Hash, sealed: &[u8]) -> rusqlite::Result<()> {
    let sql = "INSERT INTO file_image (digest, sealed) VALUES (?1, ?2) ON CONFLICT (digest) DO NOTHING";
    let new = transaction.prepare_cached(sql)?.execute(params![digest.as_slice(), sealed])? == 1;
    if !new {
        // It is held again.
        let sql = "UPDATE file_image SET superseded = 0 WHERE digest = ?1 AND superseded = 1";
        return transaction.prepare_cached(sql)?.execute([digest.as_slice()]).map(|_| ());
    }
    let mut total = bytes(transaction)? + i64::try_from(sealed.len()).unwrap_or(i64::MAX);
    for _ in 0..EVICTED_MAX {
        if total <= IMAGES_BYTES_MAX {
            break;
        }
        let sql = "DELETE FROM file_image WHERE id = (SELECT id FROM file_image WHERE digest <> ?1
                   ORDER BY superseded DESC, id LIMIT 1) RETURNING length(sealed)";
        let gone: Option<i64> =
            transaction.prepare_cached(sql)?.query_row([digest.as_slice()], |row| row.get(0)).optional()?;
        let Some(gone) = gone else { break };
        total -= gone;
    }
    let sql = "INSERT OR REPLACE INTO file_meta (key, value) VALUES ('image_bytes', ?1)";
    transaction.prepare_cached(sql)?.execute([total]).map(|_| ())
}

fn bytes(transaction: &Transaction<'_>) -> rusqlite::Result<i64> {
    let sql = "SELECT value FROM file_meta WHERE key = 'image_bytes'";
    Ok(transaction.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn database() -> (tempfile::TempDir, std::path::PathBuf, Connection) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(super::super::SCHEMA).unwrap();
        (directory, path, connection)
    }

    fn digest_of(text: &[u8]) -> Hash {
        ring::digest::digest(&ring::digest::SHA256, text).as_ref().try_into().unwrap()
    }

    fn keep(images: &mut Images, writer: &mut Connection, text: &[u8], replaced: Option<Hash>) -> Hash {
        let digest = digest_of(text);
        let mut write = images.keep(digest, text, replaced).unwrap();
        let transaction = writer.transaction().unwrap();
        write(&transaction).unwrap();
        transaction.commit().unwrap();
        digest
    }

    #[test]
    fn an_image_is_found_again_and_is_unreadable_in_the_database() {
        let (directory, path, mut writer) = database();
        let mut images = Images::open(&path).unwrap();
        let secret = b"root:$6$salt$hash:19000::::::".repeat(20);
        let digest = keep(&mut images, &mut writer, &secret, None);
        assert_eq!(images.get(&digest).as_deref(), Some(secret.as_slice()));
        images.rest();
        assert_eq!(images.get(&digest).as_deref(), Some(secret.as_slice()));
        let again = Images::open_existing(&path).unwrap();
        assert_eq!(again.get(&digest).as_deref(), Some(secret.as_slice()));
        assert_eq!(again.get(&[7; 32]), None);
        let raw = std::fs::read(&path).unwrap();
        assert!(memchr::memmem::find(&raw, b"$6$salt").is_none());
        let key = std::fs::metadata(directory.path().join("images.key")).unwrap();
        assert_eq!((key.permissions().mode() & 0o7777, key.len()), (0o600, 32));
    }

    #[test]
    fn another_key_opens_nothing_and_a_moved_image_is_noticed() {
        let (directory, path, mut writer) = database();
        let mut images = Images::open(&path).unwrap();
        let digest = keep(&mut images, &mut writer, b"one", None);
        let other = keep(&mut images, &mut writer, b"two", None);
        writer.execute("UPDATE file_image SET sealed = (SELECT sealed FROM file_image WHERE digest = ?1) WHERE digest = ?2",
            [digest.as_slice(), other.as_slice()]).unwrap();
        images.rest();
        assert_eq!(images.get(&other), None, "the digest is authenticated with the content");
        std::fs::write(directory.path().join("images.key"), [9; 32]).unwrap();
        assert_eq!(Images::open(&path).unwrap().get(&digest), None);
        std::fs::write(directory.path().join("images.key"), b"short").unwrap();
        let mut broken = Images::open(&path).unwrap();
        assert!(broken.get(&digest).is_none() && broken.keep(digest, b"one", None).is_none());
    }

    #[test]
    fn the_store_is_bounded_and_what_no_file_holds_goes_first() {
        let (_directory, path, mut writer) = database();
        let mut images = Images::open(&path).unwrap();
        let held = keep(&mut images, &mut writer, b"held by a file", None);
        let mut last = keep(&mut images, &mut writer, b"first", None);
        let size = super::super::text::TEXT_BYTES_MAX;
        let rounds = usize::try_from(IMAGES_BYTES_MAX).unwrap() / size + 20;
        for round in 0..rounds {
            let mut text = vec![b'x'; size];
            text[..8].copy_from_slice(&round.to_le_bytes());
            last = keep(&mut images, &mut writer, &text, Some(last));
        }
        images.rest();
        let total: i64 =
            writer.query_row("SELECT SUM(length(sealed)) FROM file_image", [], |row| row.get(0)).unwrap();
        assert!(total <= IMAGES_BYTES_MAX, "{total}");
        assert!(images.get(&held).is_some() && images.get(&last).is_some());
        assert!(images.get(&digest_of(b"first")).is_none());
    }
}
