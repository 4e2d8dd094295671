//! The pinned trust root: read at start, replaced only by a newer version that a threshold of its own keys
//! signed.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use picket_protocol::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use picket_protocol::trust::{TrustError, TrustRoot};

/// The trust root in force, with the file that it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    path: PathBuf,
    root: Option<TrustRoot>,
    problem: Option<String>,
}

/// What became of a trust root that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is the one in force.
    Known,
    /// It may take the place of the one in force, once it is stored.
    Newer(Box<TrustRoot>),
    /// It may not.
    Refused(String),
}

impl Pinned {
    /// Reads the pinned file. A file that is missing or damaged pins nothing: no command is obeyed.
    pub fn load(path: &Path) -> Self {
        let (root, problem) = match read(path) {
            Ok(None) => (None, None),
            Ok(Some(root)) => (Some(root), None),
            Err(problem) => (None, Some(problem)),
        };
        Self { path: path.to_owned(), root, problem }
    }

    /// The trust root in force.
    pub fn root(&self) -> Option<&TrustRoot> {
        self.root.as_ref()
    }

    /// Why there is none although there is a file.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Judges an envelope that is offered as a trust root.
    pub fn judge(&self, envelope: &[u8]) -> Offer {
        let Some(current) = &self.root else {
            return Offer::Refused("no trust root is pinned here that could vouch for it".to_owned());
        };
        let parsed = Envelope::parse(envelope).map_err(TrustError::from);
        let verdict = parsed.and_then(|envelope| {
            let known = TrustRoot::peek(&envelope).is_ok_and(|root| root == *current);
            if known { Ok(None) } else { current.replace(&envelope).map(Some) }
        });
        match verdict {
            Ok(None) => Offer::Known,
            Ok(Some(root)) => Offer::Newer(Box::new(root)),
            Err(error) => Offer::Refused(error.to_string()),
        }
    }

    /// Stores a judged trust root and puts it in force.
    ///
    /// # Errors
    /// What the file system says; the old one stays in force.
    pub fn replace(&mut self, envelope: &[u8], root: TrustRoot) -> io::Result<()> {
        crate::layout::write_durably(&self.path, envelope, 0o600)?;
        self.root = Some(root);
        self.problem = None;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<TrustRoot>, String> {
    let file = match crate::layout::open_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| format!("cannot read {}: {error}", path.display()))?,
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(ENVELOPE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let parsed = Envelope::parse(&bytes).map_err(TrustError::from);
    let root = parsed.and_then(|envelope| TrustRoot::open_first(&envelope));
    root.map(Some).map_err(|error| format!("{} is damaged: {error}", path.display()))
}
