//! What a backup of a collector holds: a tar archive ([`crate::tar`]), compressed by zstd. Its first file is [`MANIFEST_NAME`], which
//! names each further one in the order of the archive, with its size and its SHA-256. Nothing else may be in it, and a name is one
//! of those of [`Name`]: an archive cannot say where on a disk its files go.
//!
//! | file | |
//! |---|---|
//! | `collector.toml` | the configuration |
//! | `ca.key`, `ca.crt` | the CA |
//! | `witness.key` | the cosigning key |
//! | `tickets.key` | the seed of the session tickets' keys |
//! | `collector.db` | the database, as it was at one moment |
//! | `evidence/AGENT/COMMAND.age`, `.json` | bundles of evidence that were complete, as agents had encrypted them |
//!
//! The manifest tells what came to harm. It is signed by nobody: whoever may write a backup may make up a whole collector.

use std::collections::BTreeSet;
use std::fmt;

use uuid::Uuid;

use crate::identity::AgentId;
use crate::json::{self, JsonError};
use crate::tar::FILE_BYTES_MAX;
use crate::time::Timestamp;

/// What this version writes and reads.
pub const FORMAT: &str = "picket-collector-backup/1";
/// The first file of the archive.
pub const MANIFEST_NAME: &str = "manifest.json";
/// Longest manifest, in bytes: some 40,000 bundles of evidence.
pub const MANIFEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest file beside the database and evidence, in bytes.
pub const SMALL_FILE_BYTES_MAX: u64 = 256 * 1024;
/// Longest of the texts of a manifest, in bytes.
const TEXT_BYTES_MAX: usize = 64;

/// Which file of a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Name {
    /// `collector.toml`.
    Configuration,
    /// `ca.key`.
    CaKey,
    /// `ca.crt`.
    CaCertificate,
    /// `witness.key`.
    WitnessKey,
    /// `tickets.key`.
    TicketsKey,
    /// `collector.db`.
    Database,
    /// `evidence/AGENT/COMMAND.json`: what is known of a bundle.
    EvidenceDescription(AgentId, Uuid),
    /// `evidence/AGENT/COMMAND.age`: the bundle.
    Evidence(AgentId, Uuid),
}

impl Name {
    /// What every backup holds, in this order.
    pub const NEEDED: [Self; 6] = [
        Self::Configuration,
        Self::CaKey,
        Self::CaCertificate,
        Self::WitnessKey,
        Self::TicketsKey,
        Self::Database,
    ];

    /// Parses the one form that a name has.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(name) = Self::NEEDED.into_iter().find(|name| name.to_string() == text) {
            return Some(name);
        }
        let (agent, file) = text.strip_prefix("evidence/")?.split_once('/')?;
        let (command, end) = file.split_once('.')?;
        // Of one form, too: an agent's id and a command's are both UUIDs.
        let (agent, command) = (AgentId::parse(agent)?, AgentId::parse(command)?.0);
        match end {
            "age" => Some(Self::Evidence(agent, command)),
            "json" => Some(Self::EvidenceDescription(agent, command)),
            _ => None,
        }
    }

    /// Whether only the collector may read it; the CA's certificate and the configuration are no secrets.
    pub fn is_secret(self) -> bool {
        !matches!(self, Self::Configuration | Self::CaCertificate)
    }

    /// Largest size.
    fn bytes_max(self) -> u64 {
        match self {
            Self::Database | Self::Evidence(..) => FILE_BYTES_MAX,
            _ => SMALL_FILE_BYTES_MAX,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration => f.write_str("collector.toml"),
            Self::CaKey => f.write_str("ca.key"),
            Self::CaCertificate => f.write_str("ca.crt"),
            Self::WitnessKey => f.write_str("witness.key"),
            Self::TicketsKey => f.write_str("tickets.key"),
            Self::Database => f.write_str("collector.db"),
            Self::EvidenceDescription(agent, command) => write!(f, "evidence/{}/{command}.json", agent.0),
            Self::Evidence(agent, command) => write!(f, "evidence/{}/{command}.age", agent.0),
        }
    }
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not the name of a collector's file")
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.to_string()
    }
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Which.
    pub name: Name,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of these, in hex.
    pub sha256: String,
}

/// See the module's description.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// When the database was as it is in here.
    pub taken: Timestamp,
    /// Version of the collector that wrote it.
    pub collector: String,
    /// SHA-256 of the CA's certificate (DER), in hex: which collector it is.
    pub ca_sha256: String,
    /// Hosts in the database.
    pub hosts: u64,
    /// Records of all of them.
    pub records: u64,
    /// The files, in the order of the archive.
    pub files: Vec<Entry>,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Too long.
    #[error("the manifest is over {MANIFEST_BYTES_MAX} bytes")]
    TooLong,
    /// Not what a manifest looks like.
    #[error("the manifest cannot be read: {0}")]
    Malformed(#[from] JsonError),
    /// Of another kind or version.
    #[error("it is of the format {0:?}, and {FORMAT} is known")]
    Format(String),
    /// A text that is none of ours.
    #[error("the manifest's {0} is not one")]
    Text(&'static str),
    /// Named twice.
    #[error("the manifest names {0} twice")]
    Twice(Name),
    /// Not named.
    #[error("the manifest does not name {0}")]
    Missing(Name),
    /// Larger than such a file may be.
    #[error("{0} is said to have {1} bytes, which is too much")]
    TooLarge(Name, u64),
}

impl Manifest {
    /// Reads one.
    ///
    /// # Errors
    /// When it is not one of this version, or its files are not those of a collector.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong);
        }
        // A later format may have members that are unknown here: it is told as what it is.
        let found: Format = json::object(bytes)?;
        if found.format != FORMAT {
            return Err(ManifestError::Format(found.format.chars().take(TEXT_BYTES_MAX).collect()));
        }
        let manifest: Self = json::object(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, entry| sum.saturating_add(entry.size))
    }

    fn check(&self) -> Result<(), ManifestError> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b".-+~".contains(&c);
        if self.collector.len() > TEXT_BYTES_MAX || !self.collector.bytes().all(plain) {
            return Err(ManifestError::Text("version"));
        }
        if !is_digest(&self.ca_sha256) {
            return Err(ManifestError::Text("digest of the CA"));
        }
        let mut seen = BTreeSet::new();
        for entry in &self.files {
            if !seen.insert(entry.name) {
                return Err(ManifestError::Twice(entry.name));
            }
            if entry.size > entry.name.bytes_max() {
                return Err(ManifestError::TooLarge(entry.name, entry.size));
            }
            if !is_digest(&entry.sha256) {
                return Err(ManifestError::Text("digest of a file"));
            }
        }
        let missing = Name::NEEDED.into_iter().find(|name| !seen.contains(name));
        missing.map_or(Ok(()), |name| Err(ManifestError::Missing(name)))
    }
}

#[derive(serde::Deserialize)]
struct Format {
    format: String,
}

/// SHA-256 in lower-case hex.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> Manifest {
        let entry = |name| Entry { name, size: 3, sha256: "0f".repeat(32) };
        Manifest {
            format: FORMAT.to_owned(),
            taken: Timestamp::from_seconds(1_800_000_000),
            collector: "0.1.0".to_owned(),
            ca_sha256: "a0".repeat(32),
            hosts: 2,
            records: 3,
            files: Name::NEEDED.map(entry).to_vec(),
        }
    }

    fn read(change: impl FnOnce(&mut Manifest)) -> Result<Manifest, ManifestError> {
        let mut changed = manifest();
        change(&mut changed);
        Manifest::parse(&serde_json::to_vec(&changed).expect("JSON"))
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_names() {
        let id = "0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f";
        let good =
            [format!("evidence/{id}/{id}.age"), format!("evidence/{id}/{id}.json"), "ca.key".to_owned()];
        for text in good {
            assert_eq!(Name::parse(&text).map(|name| name.to_string()), Some(text));
        }
        for text in [
            "",
            "/etc/passwd",
            "../ca.key",
            "./ca.key",
            "ca.key/",
            "CA.KEY",
            "server.key",
            "collector.lock",
            &format!("evidence/../{id}.age"),
            &format!("evidence/{id}/../../ca.key"),
            &format!("evidence/{id}/{id}.age/x"),
            &format!("evidence/{id}/{id}.age.json"),
            &format!("evidence/{}/{id}.age", id.to_uppercase()),
        ] {
            assert_eq!(Name::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_manifest_is_read_back_and_what_is_none_is_refused() {
        assert_eq!(read(|_| {}), Ok(manifest()));
        assert_eq!(read(|m| m.format = "x/2".to_owned()), Err(ManifestError::Format("x/2".to_owned())));
        assert_eq!(read(|m| drop(m.files.remove(1))), Err(ManifestError::Missing(Name::CaKey)));
        assert_eq!(
            read(|m| m.files.push(m.files[2].clone())),
            Err(ManifestError::Twice(Name::CaCertificate))
        );
        assert_eq!(
            read(|m| m.files[1].size = SMALL_FILE_BYTES_MAX + 1),
            Err(ManifestError::TooLarge(Name::CaKey, SMALL_FILE_BYTES_MAX + 1))
        );
        assert!(read(|m| m.files[5].size = 1 << 40).is_ok(), "databases may be large");
        assert_eq!(read(|m| m.collector = "\u{1b}[2J".to_owned()), Err(ManifestError::Text("version")));
        assert_eq!(read(|m| m.files[0].sha256.push('0')), Err(ManifestError::Text("digest of a file")));
        assert!(matches!(Manifest::parse(b"{}"), Err(ManifestError::Malformed(_))));
        let later = br#"{"format":"picket-collector-backup/2","more":1}"#;
        assert!(matches!(Manifest::parse(later), Err(ManifestError::Format(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), name in "[ -~]{0,120}") {
            let _any = Manifest::parse(&bytes);
            if let Some(parsed) = Name::parse(&name) {
                prop_assert_eq!(parsed.to_string(), name);
            }
        }
    }
}
