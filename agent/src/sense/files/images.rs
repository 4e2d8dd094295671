//! Before-images: the text of small files that matter, as it was, so that a change can be told in words, shown as a
//! diff, and undone.
//!
//! An image is found by the SHA-256 of its content, which the baseline keeps for every file: it needs no path, a
//! move costs nothing, and the same content is kept once. Images are sealed with AES-256-GCM (the digest is the
//! associated data) by a key in the core's own directory, `images.key`: a copy of the database alone gives nothing away.
//!
//! **Limits.** [`IMAGES_BYTES_MAX`] in all, of which [`OTHERS_BYTES_MAX`] are for files that are not root's: whoever has an account
//! and fills these pushes out none of root's. Beyond, what no file holds any more goes first, oldest first; then the oldest. A change whose
//! before-image is gone says so and has no diff. If the key cannot be made or read, nothing is kept; if it is lost, the old
//! images are as good as gone.

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
/// Of these, those of files that are not root's.
pub const OTHERS_BYTES_MAX: i64 = 4 * 1024 * 1024;
/// Images that are on their way to the database.
const RECENT_MAX: usize = 64;
/// Bytes of these.
const RECENT_BYTES_MAX: usize = 512 * 1024;
/// Rows that go at once when there is no room.
const EVICTED_MAX: usize = 256;
/// Bytes of the key.
const KEY_BYTES: usize = 32;

/// Whose a file is whose text is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The first user.
    Root,
    /// Anybody else.
    Others,
}

impl Owner {
    /// By a file's user.
    pub fn of(uid: u32) -> Self {
        if uid == 0 { Self::Root } else { Self::Others }
    }
}

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

    /// Gives the write that keeps the `text` of a file of `owner`; `replaced` is what it held before, and whose it was then.
    pub fn keep(
        &mut self,
        (digest, owner): (Hash, Owner),
        text: &[u8],
        replaced: Option<(Hash, Owner)>,
    ) -> Option<StateWrite> {
        let sealed = self.cipher.as_ref()?.seal(&digest, text)?;
        self.remember(digest, text);
        let replaced = replaced.filter(|(replaced, _)| *replaced != digest);
        Some(Box::new(move |transaction| {
            if let Some((replaced, owner)) = &replaced {
                supersede(transaction, replaced, *owner)?;
            }
            put(transaction, &digest, owner, &sealed)
        }))
    }

    /// Gives the write that says that the file of `owner` that held `digest` does no more.
    pub fn let_go((digest, owner): (Hash, Owner)) -> StateWrite {
        Box::new(move |transaction| supersede(transaction, &digest, owner))
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

/// What others do to their copy of a text lets go none that root holds, or held.
fn supersede(transaction: &Transaction<'_>, digest: &Hash, owner: Owner) -> rusqlite::Result<()> {
    let sql = match owner {
        Owner::Root => "UPDATE file_image SET superseded = superseded | 1 WHERE digest = ?1",
        Owner::Others => "UPDATE file_image SET superseded = 3 WHERE digest = ?1 AND superseded = 2",
    };
    transaction.prepare_cached(sql)?.execute([digest.as_slice()]).map(|_| ())
}

fn put(transaction: &Transaction<'_>, digest: &Hash, owner: Owner, sealed: &[u8]) -> rusqlite::Result<()> {
    let held = if owner == Owner::Root { 0 } else { 2 };
    let sql = "INSERT INTO file_image (digest, superseded, sealed) VALUES (?1, ?2, ?3) ON CONFLICT (digest) DO NOTHING";
    let new = transaction.prepare_cached(sql)?.execute(params![digest.as_slice(), held, sealed])? == 1;
    let length = i64::try_from(sealed.len()).unwrap_or(i64::MAX);
    let (mut all, mut others) = (sum(transaction, "image_bytes")?, sum(transaction, "image_bytes_others")?);
    if new {
        all += length;
        others += if owner == Owner::Others { length } else { 0 };
    } else if owner == Owner::Others {
        let sql = "UPDATE file_image SET superseded = 2 WHERE digest = ?1 AND superseded = 3";
        return transaction.prepare_cached(sql)?.execute([digest.as_slice()]).map(|_| ());
    } else {
        let sql = "UPDATE file_image SET superseded = 0 WHERE digest = ?1 AND superseded >= ?2";
        let mut hold = transaction.prepare_cached(sql)?;
        // Root holds what only others held: it counts as root's from now on.
        others -= if hold.execute(params![digest.as_slice(), 2])? == 1 { length } else { 0 };
        hold.execute(params![digest.as_slice(), 1])?;
    }
    let gone = evict(transaction, digest, 2, others - OTHERS_BYTES_MAX)?;
    (all, others) = (all - gone, others - gone);
    all -= evict(transaction, digest, 0, all - others - (IMAGES_BYTES_MAX - OTHERS_BYTES_MAX))?;
    let sql = "INSERT OR REPLACE INTO file_meta (key, value) VALUES ('image_bytes', ?1), ('image_bytes_others', ?2)";
    transaction.prepare_cached(sql)?.execute([all.max(0), others.max(0)]).map(|_| ())
}

/// Lets at least `bytes` go, if there are so many, of the images that are held by `class` (0: root's, 2: others') but `digest`; gives how many
/// went.
fn evict(transaction: &Transaction<'_>, digest: &Hash, class: i64, bytes: i64) -> rusqlite::Result<i64> {
    let sql = "DELETE FROM file_image WHERE id = (SELECT id FROM file_image WHERE digest <> ?1
               AND superseded BETWEEN ?2 AND ?2 + 1 ORDER BY superseded DESC, id LIMIT 1) RETURNING length(sealed)";
    let mut gone = 0;
    for _ in 0..EVICTED_MAX {
        if gone >= bytes {
            break;
        }
        let one: Option<i64> = transaction
            .prepare_cached(sql)?
            .query_row(params![digest.as_slice(), class], |row| row.get(0))
            .optional()?;
        let Some(one) = one else { break };
        gone += one;
    }
    Ok(gone)
}

fn sum(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<i64> {
    let sql = "SELECT value FROM file_meta WHERE key = ?1";
    Ok(transaction.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()?.unwrap_or(0))
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
        keep_of(Owner::Root, images, writer, text, replaced)
    }

    fn keep_of(
        owner: Owner,
        images: &mut Images,
        writer: &mut Connection,
        text: &[u8],
        replaced: Option<Hash>,
    ) -> Hash {
        let digest = digest_of(text);
        let mut write =
            images.keep((digest, owner), text, replaced.map(|replaced| (replaced, owner))).unwrap();
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
        assert!(broken.get(&digest).is_none() && broken.keep((digest, Owner::Root), b"one", None).is_none());
    }

    /// Keeps so many of the longest texts, each in place of the one before.
    fn fill(owner: Owner, images: &mut Images, writer: &mut Connection, bytes: i64) -> Hash {
        let size = super::super::text::TEXT_BYTES_MAX;
        let mut last = keep_of(owner, images, writer, format!("first of {owner:?}").as_bytes(), None);
        for round in 0..usize::try_from(bytes).unwrap() / size + 20 {
            let mut text = vec![b'x'; size];
            text[..8].copy_from_slice(&round.to_le_bytes());
            text[8] = u8::from(owner == Owner::Root);
            last = keep_of(owner, images, writer, &text, Some(last));
        }
        images.rest();
        last
    }

    fn bytes_of(writer: &Connection, class: &str) -> i64 {
        let sql = format!("SELECT COALESCE(SUM(length(sealed)), 0) FROM file_image WHERE superseded {class}");
        writer.query_row(&sql, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn the_store_is_bounded_and_what_no_file_holds_goes_first() {
        let (_directory, path, mut writer) = database();
        let mut images = Images::open(&path).unwrap();
        let held = keep(&mut images, &mut writer, b"held by a file", None);
        let last = fill(Owner::Root, &mut images, &mut writer, IMAGES_BYTES_MAX);
        let total = bytes_of(&writer, ">= 0");
        assert!(total <= IMAGES_BYTES_MAX, "{total}");
        assert!(images.get(&held).is_some() && images.get(&last).is_some());
        assert!(images.get(&digest_of(b"first of Root")).is_none());
    }

    #[test]
    fn whoever_has_an_account_pushes_out_none_of_roots() {
        let (_directory, path, mut writer) = database();
        let mut images = Images::open(&path).unwrap();
        // Of the same text both have a copy, whoever was first; and one is what a file of root's held.
        let was = keep(&mut images, &mut writer, b"was in a file of root's", None);
        let held = keep(&mut images, &mut writer, b"root's", Some(was));
        let first = keep_of(Owner::Others, &mut images, &mut writer, b"both have it", None);
        let both = keep(&mut images, &mut writer, b"both have it", None);
        assert_eq!(first, both);
        for text in [b"root's".as_slice(), b"both have it", b"was in a file of root's"] {
            let theirs = keep_of(Owner::Others, &mut images, &mut writer, text, None);
            keep_of(Owner::Others, &mut images, &mut writer, b"another", Some(theirs));
        }
        let last = fill(Owner::Others, &mut images, &mut writer, IMAGES_BYTES_MAX);
        assert!([was, held, both, last].iter().all(|digest| images.get(digest).is_some()));
        let others = bytes_of(&writer, ">= 2");
        assert!(others <= OTHERS_BYTES_MAX && others > OTHERS_BYTES_MAX / 2, "{others}");
        // And root's have their own room beside them, with sums that are true.
        fill(Owner::Root, &mut images, &mut writer, IMAGES_BYTES_MAX);
        assert!(images.get(&last).is_some() && images.get(&held).is_some());
        let total = bytes_of(&writer, ">= 0");
        assert!(total <= IMAGES_BYTES_MAX, "{total}");
        let sums = |key: &str| -> i64 {
            writer.query_row("SELECT value FROM file_meta WHERE key = ?1", [key], |row| row.get(0)).unwrap()
        };
        assert_eq!((sums("image_bytes"), sums("image_bytes_others")), (total, bytes_of(&writer, ">= 2")));
    }
}
