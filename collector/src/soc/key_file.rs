//! An operator's key on disk: a text file that only its owner may read, and its public half beside it in
//! `<file>.pub`.
//!
//! ```text
//! # Picket operator key 5f0c… (public Ap1x…=). Whoever has this file can sign as you.
//! picket-key1.<base64url, no padding, of the 32-byte seed and the first 4 bytes of its SHA-256>
//!
//! picket-public1 <name> <base64 of the public key>          (the .pub file)
//! ```

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use picket_protocol::crypto::{KEY_BYTES, PublicKey, SigningKey, sha256};
use picket_protocol::dsse::KeyId;
use picket_protocol::finding::printable;
use zeroize::Zeroizing;

use super::error::SocError;

const PREFIX: &str = "picket-key1.";
const PUBLIC_PREFIX: &str = "picket-public1";
const FILE_BYTES_MAX: u64 = 4_096;

/// Makes a key from the system's random source.
///
/// # Errors
/// When there is none.
pub fn generate() -> Result<SigningKey, SocError> {
    use ring::rand::SecureRandom as _;
    let mut seed = Zeroizing::new([0; KEY_BYTES]);
    ring::rand::SystemRandom::new()
        .fill(&mut *seed)
        .map_err(|_| SocError::Failing("the system gives no random bytes".to_owned()))?;
    Ok(SigningKey::from_seed(*seed))
}

/// Writes `key` to a new file at `path`, mode 0600, and its public half beside it.
///
/// # Errors
/// When either file exists already (a key is never overwritten) or cannot be written.
pub fn write(path: &Path, name: &str, key: &SigningKey) -> Result<(), SocError> {
    if name.is_empty() || name.contains(char::is_whitespace) || printable(name) != name {
        return Err(SocError::Usage("--name is one word without control characters".to_owned()));
    }
    let public = format!("{PUBLIC_PREFIX} {name} {}\n", key.public());
    create(&public_path(path), 0o644, public.as_bytes())?;
    create(path, 0o600, to_text(key).as_bytes())
}

fn create(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), SocError> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            SocError::Usage(format!("{} exists already; a key is never overwritten", path.display()))
        }
        _ => SocError::File { verb: "create", path: path.to_owned(), source: error },
    })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(SocError::file("write", path))
}

fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Reads the public half of a key: the operator's name and the key.
///
/// # Errors
/// When the file holds none.
pub fn read_public(path: &Path) -> Result<(String, PublicKey), SocError> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(SocError::file("read", path))?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(SocError::file("read", path))?;
    let mut words = text.split_whitespace();
    match (words.next(), words.next(), words.next().and_then(PublicKey::parse), words.next()) {
        (Some(PUBLIC_PREFIX), Some(name), Some(key), None) => Ok((name.to_owned(), key)),
        (Some(first), ..) if first.contains("ssh-") => {
            Err(SocError::Usage(format!("{0} is an SSH key's: give it as --ssh-key {0}", path.display())))
        }
        _ => Err(SocError::Usage(format!("{} is not the .pub file of `soc keygen`", path.display()))),
    }
}

/// Reads the key at `path`.
///
/// # Errors
/// When others may read the file, or it holds no key.
pub fn read(path: &Path) -> Result<SigningKey, SocError> {
    let file = std::fs::File::open(path).map_err(SocError::file("read", path))?;
    let mode = file.metadata().map_err(SocError::file("examine", path))?.mode();
    if mode & 0o077 != 0 {
        return Err(SocError::Usage(format!(
            "others may read {} (mode {:04o}): whoever did can sign as you. If nobody did, `chmod 600` it",
            path.display(),
            mode & 0o7777
        )));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(SocError::file("read", path))?;
    parse(&text).ok_or_else(|| {
        SocError::Usage(format!("{} is no operator key (`soc keygen` makes one), or damaged", path.display()))
    })
}

fn to_text(key: &SigningKey) -> Zeroizing<String> {
    let public = key.public();
    let mut bytes = Zeroizing::new(key.seed().to_vec());
    bytes.extend(sha256(&[key.seed()]).iter().take(4));
    let data = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes));
    Zeroizing::new(format!(
        "# Picket operator key {} (public {public}). Whoever has this file can sign as you.\n{PREFIX}{}\n",
        KeyId::of(&public),
        &*data
    ))
}

fn parse(text: &str) -> Option<SigningKey> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let data = lines.next()?.strip_prefix(PREFIX)?;
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(data).ok()?);
    let (seed, check) = bytes.split_first_chunk::<KEY_BYTES>()?;
    let whole = lines.next().is_none() && check.len() == 4 && sha256(&[seed]).starts_with(check);
    whole.then(|| SigningKey::from_seed(*seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn written_read_and_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("operator.key");
        let key = generate().unwrap();
        write(&path, "alice", &key).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(read(&path).unwrap().public(), key.public());
        assert_eq!(read_public(&public_path(&path)).unwrap(), ("alice".to_owned(), key.public()));
        assert_eq!(write(&path, "alice", &key).unwrap_err().exit_code(), 3);
        assert_eq!(read(&path).unwrap().public(), key.public());
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("operator.key");
        write(&path, "alice", &SigningKey::from_seed([3; 32])).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains("0640"), "{error}");
    }

    #[test]
    fn damage_is_noticed() {
        let text = to_text(&SigningKey::from_seed([3; 32]));
        assert!(parse(&text).is_some());
        let at = text.find(PREFIX).unwrap() + PREFIX.len();
        for place in at..text.len() - 1 {
            let mut bytes = text.as_bytes().to_vec();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            assert!(parse(std::str::from_utf8(&bytes).unwrap()).is_none(), "byte {place}");
        }
        assert!(parse("").is_none() && parse(&text.repeat(2)).is_none());
    }

    proptest! {
        #[test]
        fn every_key_comes_back(seed in any::<[u8; 32]>()) {
            let key = SigningKey::from_seed(seed);
            prop_assert_eq!(parse(&to_text(&key)).map(|k| k.public()), Some(key.public()));
        }
    }
}
