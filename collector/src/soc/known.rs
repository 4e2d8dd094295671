//! What this operator's machine knows by itself: the witness key and the hosts' ledger keys, pinned when
//! they were first seen, so that a collector which later shows others is caught.
//!
//! It lies beside the configuration (`soc.toml` → `soc.known.json`). What is pinned at first sight came from
//! the collector; only a comparison with the host itself (`agent status` prints its ledger key) makes it
//! certain. `soc` says which of the two it is.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::crypto::PublicKey;
use picket_protocol::identity::AgentId;
use picket_protocol::note::VerifierKey;
use picket_protocol::time::Timestamp;

use super::error::SocError;

/// Longest file that is read: some 200,000 hosts.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// A key and since when it is pinned.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pin {
    /// vkey text for a witness, base64 for a host's ledger key.
    pub key: String,
    /// When it was first seen.
    pub since: Timestamp,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Contents {
    witness: Option<Pin>,
    #[serde(default)]
    hosts: BTreeMap<AgentId, Pin>,
}

/// The pinned keys.
#[derive(Debug)]
pub struct Known {
    path: PathBuf,
    contents: Contents,
    changed: bool,
}

/// Where a key that was checked against comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Given by the operator on the command line.
    Given,
    /// Written in the configuration.
    Configured,
    /// Pinned earlier, as the collector showed it then.
    Pinned(Timestamp),
    /// Came from the collector just now.
    FirstSeen,
}

impl Origin {
    /// For a person.
    pub fn describe(&self) -> String {
        match self {
            Self::Given => "given by you".to_owned(),
            Self::Configured => "from your configuration".to_owned(),
            Self::Pinned(since) => {
                format!(
                    "pinned here since {} (it came from the collector then)",
                    super::screen::short_time(*since)
                )
            }
            Self::FirstSeen => {
                "came from the collector just now, pinned from here on: compare it with the host's own"
                    .to_owned()
            }
        }
    }

    /// For a program.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Configured => "configured",
            Self::Pinned(_) => "pinned",
            Self::FirstSeen => "first-seen",
        }
    }
}

impl Known {
    /// What is pinned beside the configuration at `config`; nothing when there is no file yet.
    ///
    /// # Errors
    /// When the file is there but damaged: forgetting pins silently would undo them.
    pub fn load(config: &Path) -> Result<Self, SocError> {
        let path = config.with_extension("known.json");
        let contents = match std::fs::File::open(&path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_BYTES_MAX), &mut bytes)
                    .map_err(SocError::file("read", &path))?;
                serde_json::from_slice(&bytes).map_err(|error| {
                    SocError::Failing(format!(
                        "the pinned keys in {} are damaged ({error}): restore the file, or remove it to pin anew",
                        path.display()
                    ))
                })?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Contents::default(),
            Err(error) => return Err(SocError::File { verb: "read", path, source: error }),
        };
        Ok(Self { path, contents, changed: false })
    }

    /// The host's pinned ledger key.
    pub fn host(&self, agent: AgentId) -> Option<(PublicKey, Origin)> {
        let pin = self.contents.hosts.get(&agent)?;
        Some((PublicKey::parse(&pin.key)?, Origin::Pinned(pin.since)))
    }

    /// The pinned witness key.
    pub fn witness(&self) -> Option<(VerifierKey, Origin)> {
        let pin = self.contents.witness.as_ref()?;
        Some((VerifierKey::parse(&pin.key).ok()?, Origin::Pinned(pin.since)))
    }

    /// Pins what was seen when nothing is pinned yet; otherwise it must be the same.
    ///
    /// # Errors
    /// When another key is pinned: the collector shows a key that it did not show before.
    pub fn see_host(&mut self, agent: AgentId, key: PublicKey, now: Timestamp) -> Result<Origin, SocError> {
        match self.host(agent) {
            Some((pinned, origin)) if pinned == key => Ok(origin),
            Some((pinned, _)) => {
                Err(self.differs(&format!("ledger key of {agent}"), &pinned.to_string(), &key.to_string()))
            }
            None => {
                self.contents.hosts.insert(agent, Pin { key: key.to_string(), since: now });
                self.changed = true;
                Ok(Origin::FirstSeen)
            }
        }
    }

    /// As [`Known::see_host`], for the witness.
    ///
    /// # Errors
    /// When another key is pinned.
    pub fn see_witness(&mut self, key: &VerifierKey, now: Timestamp) -> Result<Origin, SocError> {
        match self.witness() {
            Some((pinned, origin)) if pinned == *key => Ok(origin),
            Some((pinned, _)) => Err(self.differs("witness key", &pinned.to_string(), &key.to_string())),
            None => {
                self.contents.witness = Some(Pin { key: key.to_string(), since: now });
                self.changed = true;
                Ok(Origin::FirstSeen)
            }
        }
    }

    /// Writes new pins, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&mut self) -> Result<(), SocError> {
        if !self.changed {
            return Ok(());
        }
        let bytes =
            serde_json::to_vec_pretty(&self.contents).map_err(|e| SocError::Failing(e.to_string()))?;
        let scratch = self.path.with_extension(format!("json.{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&scratch)
            .map_err(SocError::file("create", &scratch))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(SocError::file("write", &scratch))?;
        std::fs::rename(&scratch, &self.path).map_err(SocError::file("replace", &self.path))?;
        self.changed = false;
        Ok(())
    }

    fn differs(&self, what: &str, pinned: &str, shown: &str) -> SocError {
        SocError::Bad(format!(
            "the collector shows another {what} than the one pinned in {}\n  pinned {pinned}\n  shown  {shown}\n\
             Either the host or collector was set up anew, or somebody stands between. Ask before you remove the pin.",
            self.path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use picket_protocol::crypto::SigningKey;
    use picket_protocol::note::KeyKind;

    use super::*;

    #[test]
    fn pins_hold_across_runs_and_another_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("soc.toml");
        let agent = AgentId(uuid::Uuid::from_u128(7));
        let (one, two) = (SigningKey::from_seed([1; 32]).public(), SigningKey::from_seed([2; 32]).public());
        let witness = |key| VerifierKey::new("w", KeyKind::Cosignature, key).unwrap();
        let (early, late) = (Timestamp::from_seconds(5), Timestamp::from_seconds(9));
        let mut known = Known::load(&config).unwrap();
        assert_eq!(known.see_host(agent, one, early).unwrap(), Origin::FirstSeen);
        assert_eq!(known.see_witness(&witness(one), early).unwrap(), Origin::FirstSeen);
        known.save().unwrap();
        let mut known = Known::load(&config).unwrap();
        assert_eq!(known.see_host(agent, one, late).unwrap(), Origin::Pinned(early));
        assert_eq!(known.see_host(agent, two, late).unwrap_err().exit_code(), 1);
        assert_eq!(known.see_witness(&witness(two), late).unwrap_err().exit_code(), 1);
    }

    #[test]
    fn a_damaged_file_is_not_taken_for_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("soc.known.json"), "{").unwrap();
        assert_eq!(Known::load(&directory.path().join("soc.toml")).unwrap_err().exit_code(), 2);
    }
}
