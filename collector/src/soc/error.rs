//! How `soc` fails, and the exit code of each way.

use std::io;
use std::path::PathBuf;

use picket_protocol::finding::printable;

/// What is known of a failure, sorted by what the operator can do about it.
#[derive(Debug, thiserror::Error)]
pub enum SocError {
    /// Something bad was found, or a request was refused. Exit code 1.
    #[error("{0}")]
    Bad(String),
    /// The collector answered with a refusal. Exit code 1.
    #[error("the collector refused: {} ({status}, {})", printable(.message), printable(.code))]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable word.
        code: String,
        /// Sentence.
        message: String,
    },
    /// The collector cannot be reached or talks nonsense. Exit code 2.
    #[error("{0}")]
    Failing(String),
    /// A file cannot be read or written. Exit code 2.
    #[error("cannot {verb} {path}: {source}")]
    File {
        /// `read`, `write` …
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard output failed. A closed pipe is no failure.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// Wrong arguments or configuration. Exit code 3.
    #[error("{0}")]
    Usage(String),
}

impl SocError {
    /// 1 something bad or refused, 2 failing, 3 usage; 0 when the reader of our output just went away.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Bad(_) | Self::Refused { .. } => 1,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Failing(_) | Self::File { .. } | Self::Output(_) => 2,
            Self::Usage(_) => 3,
        }
    }

    /// A failure to `verb` the file at `path`.
    pub fn file(verb: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { verb, path, source }
    }
}
