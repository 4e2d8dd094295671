//! The command line of `soc playbook`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::CommandText;

/// What to do about playbooks.
#[derive(Debug, Subcommand)]
pub enum PlaybookAction {
    /// List the playbooks that are shipped
    #[command(after_help = "Example:\n  soc playbook list")]
    List,
    /// Show a playbook: its parameters and steps
    #[command(
        after_help = "Examples:\n  soc playbook show contain-ransomware\n  soc playbook show --file own.toml"
    )]
    Show(PlaybookSource),
    /// Write the unsigned command of a playbook; shows how far it reaches and who must sign
    #[command(
        after_help = "Example:\n  soc playbook run contain-stolen-account --host web-1 --set user=deploy --set from=192.0.2.7 \\\n      --lease 4h --reason 'key leaked' --ticket C-7\n  soc sign contain-stolen-account-….json --key alice.key\n  soc send contain-stolen-account-….json --wait\n\nA playbook is one command. Every host asks of each step what it would ask of it as a command of its own, and\nrefuses the whole when it would refuse one. Each step has receipts of its own; agent release ID on the host\nends all of it, or one step by the act that agent commands shows."
    )]
    Run(Box<RunArguments>),
}

/// Which playbook.
#[derive(Debug, Args)]
pub struct PlaybookSource {
    /// One that is shipped
    #[arg(value_name = "NAME", required_unless_present = "file")]
    pub name: Option<String>,
    /// One of your own, in TOML as collector/playbooks has them
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    pub file: Option<PathBuf>,
}

/// `soc playbook run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Which.
    #[command(flatten)]
    pub source: PlaybookSource,
    /// A host: agent id, unique prefix of one, or unique name (repeat it, or separate by commas)
    #[arg(long, required = true, value_delimiter = ',')]
    pub host: Vec<String>,
    /// A parameter of the playbook (repeat it)
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// How long what the steps do lasts at most, from when a host applies it: 30m, 2h, 7d
    #[arg(long, value_name = "PERIOD")]
    pub lease: String,
    /// Have the hosts tell what each step would change and which would be refused or left out, and change nothing: soc send FILE
    /// --wait shows it, and so does soc receipts --command ID --full
    #[arg(long)]
    pub dry_run: bool,
    /// Until when, why.
    #[command(flatten)]
    pub text: CommandText,
    /// The tenant's trust root, which says how many must sign [default: the one in force at the collector]
    #[arg(long, value_name = "FILE")]
    pub trust: Option<PathBuf>,
    /// Where to write it [default: NAME-<end of the command's id>.json]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
