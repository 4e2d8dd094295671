//! The signed head of a ledger: a C2SP tlog-checkpoint (<https://c2sp.org/tlog-checkpoint>), and the
//! witness's C2SP tlog-cosignature (<https://c2sp.org/tlog-cosignature>) on it.
//!
//! ```text
//! picket/<agent id>
//! <size, decimal>
//! <base64 of the root hash>
//! time <RFC 3339>
//!
//! — picket/<agent id> <base64(key id ‖ Ed25519 signature)>
//! — <witness name> <base64(key id ‖ 8-byte big-endian Unix time ‖ Ed25519 signature)>
//! ```

use crate::crypto::{Hash, SIGNATURE_BYTES, SigningKey, from_base64_exact, to_base64};
use crate::note::{KeyKind, Note, NoteError, VerifierKey};
use crate::time::Timestamp;

/// Most extension lines that are read.
pub const EXTENSIONS_MAX: usize = 8;

/// What a checkpoint says. Holding one proves nothing; see [`SignedCheckpoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log: `picket/<agent id>`.
    pub origin: String,
    /// How many leaves.
    pub size: u64,
    /// Root over those leaves.
    pub root: Hash,
    /// Further lines, each non-empty. Picket writes one: `time <RFC 3339>`.
    pub extensions: Vec<String>,
}

/// Why a checkpoint is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The note around it.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The named line is not as the format says.
    #[error("the checkpoint's {0} line is malformed")]
    Malformed(&'static str),
    /// It is about another log.
    #[error("the checkpoint is of {found}, not of {expected}")]
    WrongOrigin {
        /// Origin in the checkpoint.
        found: String,
        /// Origin that was asked for.
        expected: String,
    },
}

impl Checkpoint {
    /// A checkpoint of `origin` with the time line that Picket's ledgers carry.
    pub fn new(origin: String, size: u64, root: Hash, time: Timestamp) -> Self {
        Self { origin, size, root, extensions: vec![format!("time {time}")] }
    }

    /// The time line, when there is exactly one and it is valid.
    pub fn time(&self) -> Option<Timestamp> {
        let mut times = self.extensions.iter().filter_map(|line| line.strip_prefix("time "));
        let only = times.next().filter(|_| times.next().is_none())?;
        Timestamp::parse_exact(only)
    }

    /// The note text.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, to_base64(&self.root));
        for line in &self.extensions {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// Parses the note text.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        use CheckpointError::Malformed;
        let mut lines = text.strip_suffix('\n').ok_or(Malformed("last"))?.split('\n');
        let origin = lines.next().filter(|line| !line.is_empty()).ok_or(Malformed("origin"))?;
        let size = lines.next().and_then(parse_size).ok_or(Malformed("size"))?;
        let root = lines.next().and_then(from_base64_exact).ok_or(Malformed("root"))?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.len() > EXTENSIONS_MAX || extensions.iter().any(String::is_empty) {
            return Err(Malformed("extension"));
        }
        Ok(Self { origin: origin.to_owned(), size, root, extensions })
    }

    /// Signs it as its origin. Fails, rather than sign something else, when a line would not read back as it is.
    pub fn sign(self, key: &SigningKey) -> Result<SignedCheckpoint, CheckpointError> {
        if Self::parse(&self.to_text())? != self {
            return Err(CheckpointError::Malformed("extension"));
        }
        let mut note = Note::new(self.to_text())?;
        note.sign(&self.origin, key)?;
        Ok(SignedCheckpoint { checkpoint: self, note })
    }
}

/// A size is decimal without leading zeros (tlog-checkpoint).
fn parse_size(line: &str) -> Option<u64> {
    // `parse` alone would also take `+7`.
    let plain = line.bytes().all(|b| b.is_ascii_digit()) && (line == "0" || !line.starts_with('0'));
    if plain { line.parse().ok() } else { None }
}

/// A checkpoint whose log signature was verified (or just made). May carry cosignatures as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: Note,
}

impl SignedCheckpoint {
    /// Parses `bytes` and verifies that `key` signed them as the log it names.
    pub fn open(bytes: &[u8], key: &VerifierKey) -> Result<Self, CheckpointError> {
        let note = Note::parse(bytes)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        if checkpoint.origin != key.name() {
            return Err(CheckpointError::WrongOrigin {
                found: checkpoint.origin,
                expected: key.name().to_owned(),
            });
        }
        note.verify(key)?;
        Ok(Self { checkpoint, note })
    }

    /// What it says.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The note, with all signature lines.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The exact text to store or send.
    pub fn to_text(&self) -> String {
        self.note.to_string()
    }

    /// Adds the witness's cosignature made at `time` (whole seconds count).
    pub fn cosign(
        &mut self,
        witness: &str,
        key: &SigningKey,
        time: Timestamp,
    ) -> Result<(), CheckpointError> {
        let verifier = VerifierKey::new(witness, KeyKind::Cosignature, key.public())?;
        // A clock before 1970 has no cosignature time; 0 says that best.
        let seconds = u64::try_from(time.seconds()).unwrap_or(0);
        let mut bytes = seconds.to_be_bytes().to_vec();
        bytes.extend_from_slice(&key.sign(&cosigned_message(self.note.text(), seconds)));
        self.note.add_signature(&verifier, bytes);
        Ok(())
    }

    /// Verifies the cosignature by `witness` and gives its time.
    pub fn cosigned_at(&self, witness: &VerifierKey) -> Result<Timestamp, NoteError> {
        verify_cosignature(&self.note, witness)
    }
}

/// Verifies the cosignature by `witness` on `note` and gives its time. Says nothing about the log's own signature.
pub fn verify_cosignature(note: &Note, witness: &VerifierKey) -> Result<Timestamp, NoteError> {
    let bytes = note.signature_by(witness)?;
    let bad = || NoteError::BadSignature(witness.name().to_owned());
    let (seconds, signature) = bytes.split_first_chunk::<8>().ok_or_else(bad)?;
    let seconds = u64::from_be_bytes(*seconds);
    let message = cosigned_message(note.text(), seconds);
    let right = witness.kind() == KeyKind::Cosignature
        && signature.len() == SIGNATURE_BYTES
        && witness.public().verifies(&message, signature);
    // The specification goes up to 2^63 − 1, a Timestamp to the year 2262: what does not fit is refused, not cut.
    let time = Timestamp::from_seconds(i64::try_from(seconds).map_err(|_| bad())?);
    let fits = u64::try_from(time.seconds()) == Ok(seconds);
    (right && fits).then_some(time).ok_or_else(bad)
}

fn cosigned_message(text: &str, seconds: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {seconds}\n{text}").into_bytes()
}
