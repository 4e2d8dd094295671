//! The command line of `soc evidence`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do about evidence.
#[derive(Debug, Subcommand)]
pub enum EvidenceAction {
    /// List evidence that the collector has or receives
    #[command(
        after_help = "Examples:\n  soc evidence list web-1\n  soc evidence list --all --json | jq .state"
    )]
    List {
        /// Of this host: agent id, unique prefix of one, or unique name
        #[arg(value_name = "HOST", required_unless_present_any = ["all", "tenant"])]
        host: Option<String>,
        /// Of all hosts
        #[arg(long, conflicts_with = "host")]
        all: bool,
        /// Of this customer
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Fetch evidence, and check it against the receipt that the host sealed; with an identity also open it
    #[command(
        after_help = "Examples:\n  soc evidence get ID                                    writes ID.tar.zst.age, as it left the host\n  soc evidence get ID --identity evidence.key            writes ID.tar.zst, each file in it checked\n  tar --zstd -xf ID.tar.zst                              unpacks it; manifest.jsonl tells of each file\n\nBeside it FILE.proof.json is written: the proof of the receipt, for soc evidence verify. That it was fetched is\nnoted at the collector, with your name."
    )]
    Get(EvidenceGetArguments),
    /// Check a file of evidence offline: exit code 0 as it was sealed, 1 not
    #[command(
        after_help = "Examples:\n  soc evidence verify ID.tar.zst.age                     the encrypted file as a whole\n  soc evidence verify ID.tar.zst.age --identity evidence.key      each file in it as well\n  soc evidence verify ID.tar.zst                         the same of one that was opened\n\nKeys that are not given are taken from those pinned beside the configuration; no collector is asked. What\ndiffers is named."
    )]
    Verify(EvidenceVerifyArguments),
    /// Delete evidence at the collector; its receipt stays, and that you did is noted
    #[command(after_help = "Example:\n  soc evidence delete 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f")]
    Delete {
        /// The command that ordered it, also of a playbook
        #[arg(value_name = "ID")]
        id: uuid::Uuid,
        /// Of this host, when the command named several
        #[arg(long)]
        host: Option<String>,
    },
    /// Make a key that evidence is encrypted to, in the form of age-keygen
    #[command(
        after_help = "Example:\n  soc evidence keygen --out evidence.key\n\nThe recipient that it prints goes into the trust root (soc trust new --evidence-recipient). Who has the file opens\nall evidence; who loses it opens none. It does not belong on the collector."
    )]
    Keygen {
        /// Where to write the identity
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// What to fetch.
#[derive(Debug, Args)]
pub struct EvidenceGetArguments {
    /// The command that ordered it, also of a playbook
    #[arg(value_name = "ID")]
    pub id: uuid::Uuid,
    /// Of this host, when the command named several
    #[arg(long)]
    pub host: Option<String>,
    /// Where to write it [default: ID.tar.zst.age, opened ID.tar.zst]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Opens it: a file with AGE-SECRET-KEY-1…
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// What to check, and against what.
#[derive(Debug, Args)]
pub struct EvidenceVerifyArguments {
    /// The evidence, encrypted or opened
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The proof of its receipt [default: FILE.proof.json]
    #[arg(long, value_name = "FILE")]
    pub proof: Option<PathBuf>,
    /// Opens it: a file with AGE-SECRET-KEY-1…
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// The host's ledger key at enrolment: base64, or a file
    #[arg(long, value_name = "KEY")]
    pub agent_key: Option<String>,
    /// The collector's witness key: vkey text, or a file
    #[arg(long, value_name = "KEY")]
    pub witness: Option<String>,
}
