//! `policy.toml`, beside the agent's configuration: what the host's owner lets be done to it. Read when an action is prepared, so
//! that a change of it needs no restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use picket_protocol::action::Action;

use crate::layout::read_file;
use crate::respond::continuity::{Continuity, ENTRIES_MAX};

mod automatic;

pub use automatic::{Automatic, BuiltIn, Hours, Length, Mode, Reaction, Rule};

/// Longest file, in bytes.
pub const POLICY_BYTES_MAX: u64 = 256 * 1024;
/// Its name.
pub const FILE_NAME: &str = "policy.toml";

/// What the file says. Without a file there is no list.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// `[[continuity]]`: what no action cuts off.
    #[serde(default)]
    pub continuity: Vec<Continuity>,
    /// `[signers]`: how many operators must sign an action here at least, whatever the vendor's trust root says.
    #[serde(default)]
    pub signers: BTreeMap<String, u32>,
    /// `[automatic]`: what the agent does by itself.
    #[serde(default)]
    pub automatic: Automatic,
}

/// Why it cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It says something that it may not.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What, and where.
        problem: String,
    },
}

impl Policy {
    /// Reads the file; one that is missing says nothing.
    ///
    /// # Errors
    /// When it cannot be read, or says something that it may not.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let bytes = match read_file(path, POLICY_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(PolicyError::Read { path: path.to_owned(), source }),
        };
        Self::parse(&bytes).map_err(|problem| PolicyError::Content { path: path.to_owned(), problem })
    }

    /// Reads what a file says.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
        let policy: Self = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map(|span| 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count());
            line.map_or(error.message().to_owned(), |line| format!("line {line}: {}", error.message()))
        })?;
        if policy.continuity.len() > ENTRIES_MAX {
            return Err(format!("more than {ENTRIES_MAX} entries of [[continuity]]"));
        }
        for entry in &policy.continuity {
            entry.check().map_err(|why| format!("[[continuity]] {:?}: {why}", entry.name))?;
        }
        let unknown = policy.signers.keys().find(|action| !Action::NAMES.contains(&action.as_str()));
        if let Some(action) = unknown {
            return Err(format!(
                "[signers] {action:?}: there is no such action; there are {}",
                Action::NAMES.join(", ")
            ));
        }
        policy.automatic.check()?;
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "[[continuity]]\nname = \"jump host\"\ndirection = \"in\"\nprotocol = \"tcp\"\n\
                         networks = [\"10.0.0.5\"]\nports = [\"22\"]\n";

    const RULE: &str =
        "[[automatic.rules]]\nname = \"scans\"\nfindings = [\"net.scan.*\"]\naction = \"block-source\"\n";

    #[test]
    fn a_sound_file_is_read() {
        let policy = Policy::parse(SOUND.as_bytes()).expect("sound");
        assert_eq!(policy.continuity.len(), 1);
        assert_eq!(Policy::parse(b""), Ok(Policy::default()));
        assert_eq!(Policy::load(Path::new("/nonexistent/policy.toml")).ok(), Some(Policy::default()));
    }

    /// The packaged file's examples, once somebody takes the marks away.
    #[test]
    fn the_packaged_examples_are_sound() {
        let packaged = include_str!("../../../packaging/policy.toml");
        assert_eq!(Policy::parse(packaged.as_bytes()), Ok(Policy::default()));
        let is_example = |line: &&str| line.starts_with('[') || line.contains(" = ");
        let lines = packaged.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_example);
        let examples = lines
            .filter(|line| !line.contains("]:") && !line.starts_with(' ') && !line.starts_with("exercises"));
        let text = examples.collect::<Vec<_>>().join("\n");
        let policy = Policy::parse(text.as_bytes()).expect("sound");
        assert_eq!(
            (policy.continuity.len(), policy.signers.len(), policy.automatic.wanted().len()),
            (4, 1, 3)
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let wrong = [
            (SOUND.replace("\"22\"", "\"0\""), "line 6"),
            (SOUND.replace("10.0.0.5", "10.0.0.5/8"), "line 5"),
            (SOUND.replace("networks = [\"10.0.0.5\"]", "networks = []"), "jump host"),
            (SOUND.replace("direction", "way"), "line 3"),
            (SOUND.repeat(ENTRIES_MAX + 1), "more than"),
            ("[signers]\nisolat = 2\n".to_owned(), "isolat"),
            ("[automatic]\nmode = \"maybe\"\n".to_owned(), "line 2"),
            ("[automatic]\nbuilt_in = [\"block-everybody\"]\n".to_owned(), "line 2"),
            (format!("{RULE}lease = \"1s\"\n"), "line 5"),
            (format!("{RULE}lease = \"1h\"\nhours = \"nights\"\n"), "line 6"),
            (format!("{RULE}lease = \"2h\"\nlease_max = \"1h\"\n"), "scans"),
        ];
        for (text, told) in wrong {
            let problem = Policy::parse(text.as_bytes()).expect_err("refused");
            assert!(problem.contains(told), "{problem}: {told}");
        }
    }
}
