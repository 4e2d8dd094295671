//! The command line of `collector`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use picket_protocol::identity::{AgentId, Tenant};

use crate::store::Role;

const EXAMPLES: &str = "\
Examples:
  collector init --address collector.example:8443       once: CA, keys, database
  collector run                                         serves until SIGTERM
  collector operator add alice --role admin --soc-config alice.toml
  collector token --tenant acme                         one join string for one host
  collector host list
  collector host revoke 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f --reason 'sold'
  collector trust install root.json
  collector backup /var/backups                         all but evidence, in one file, while the collector runs
  collector restore picket-collector-20261129T215000Z.tar.zst --data-dir /srv/collector
  collector metrics                                     figures for Prometheus
  collector rotate-certificate                          a new key and certificate of the server, at once

Commands other than init, run, restore (into an empty directory) and metrics (of the running one) work through the running
collector, or on its database when it does not run.
Exit codes: 0 fine, 1 refused, 2 failing, 3 usage.";

/// Picket's collector: takes in what agents seal, cosigns it, keeps it, and relays signed commands.
#[derive(Debug, Parser)]
#[command(name = "collector", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// Where its keys, configuration and database are
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/picket-collector")]
    pub data_dir: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What `collector` does.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Make a collector: CA, server certificate, cosigning key, database. Overwrites nothing
    #[command(
        after_help = "Example:\n  collector init --data-dir /srv/collector --address collector.example:8443 --name 192.0.2.7"
    )]
    Init(Init),
    /// Serve agents and the API on one port, until SIGTERM or SIGINT
    #[command(after_help = "Example:\n  collector run --listen 0.0.0.0:8443")]
    Run(Run),
    /// Print a join string for `agent enroll`
    #[command(
        after_help = "Examples:\n  collector token --tenant acme\n  collector token --tenant acme --expires 8h --uses 50"
    )]
    Token(Token),
    /// Hosts: list, show, revoke
    #[command(subcommand)]
    Host(Host),
    /// Operators of the API: add, list, remove
    #[command(subcommand)]
    Operator(Operator),
    /// Trust roots, which say whose commands agents obey: install, show
    #[command(subcommand)]
    Trust(Trust),
    /// Take a backup into one file, while the collector runs or not
    #[command(after_help = BACKUP)]
    Backup(Backup),
    /// Make a collector of a backup, in an empty directory
    #[command(after_help = RESTORE)]
    Restore(Restore),
    /// Replace the server's key and certificate at once; connections go on
    #[command(
        after_help = "Without it both are replaced 60 days before they end, and when the configured names change. Agents and soc know the CA\nand notice nothing.\n\nExample:\n  collector rotate-certificate --json"
    )]
    RotateCertificate,
    /// Print the running collector's figures in the text format of Prometheus
    #[command(
        after_help = "The API serves the same at /api/v1/metrics, to whoever has a token of an operator.\n\nExamples:\n  collector metrics\n  collector metrics | sponge /var/lib/prometheus/node-exporter/picket-collector.prom"
    )]
    Metrics,
}

const BACKUP: &str = "\
It holds the configuration, the CA, the witness key and the database: whoever has it can be this collector. It is written
0600 and under its name once it is whole; nothing is overwritten. What agents send meanwhile is in the next one.

Examples:
  collector backup /var/backups                                a directory: picket-collector-TIME.tar.zst in it
  collector backup --with-evidence /var/backups/all.tar.zst
  collector backup - | age -r age1... > collector.tar.zst.age  encrypted before it is on a disk";

const RESTORE: &str = "\
The directory (--data-dir) must be empty or not exist, and no collector may run on it. All of the archive is checked before any
of it counts. Called by root, the files are given to the directory's owner. Agents then send what the backup lacks, and both
sides record it. What was decided after the backup is not known any more: revoke again, remove operators again, install newer
trust roots again, enrol newer hosts again. Join strings that were given out are void.

Examples:
  collector restore picket-collector-20261129T215000Z.tar.zst
  age -d -i key.txt collector.tar.zst.age | collector restore - --data-dir /srv/collector";

/// `collector backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// A file that is not there yet, a directory, or - for standard output
    #[arg(value_name = "FILE|DIR|-")]
    pub target: PathBuf,
    /// With the bundles of evidence that are complete, as agents have encrypted them
    #[arg(long)]
    pub with_evidence: bool,
}

/// `collector restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup, or - for standard input
    #[arg(value_name = "FILE|-")]
    pub source: PathBuf,
}

/// `collector init`.
#[derive(Debug, Args)]
pub struct Init {
    /// host:port that agents and operators dial
    #[arg(long, value_name = "HOST:PORT")]
    pub address: String,
    /// A further name or IP address in the server's certificate; may be repeated
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
}

/// `collector run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Listen here instead of where the configuration says; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// What goes to the log on stderr
    #[arg(long, value_enum, default_value_t = Level::Info)]
    pub log: Level,
    /// Log as JSON
    #[arg(long)]
    pub log_json: bool,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Level {
    /// Only what fails.
    Error,
    /// What somebody should look at, too.
    Warn,
    /// What happens rarely, too.
    Info,
    /// Everything.
    Debug,
}

/// `collector token`.
#[derive(Debug, Args)]
pub struct Token {
    /// Whose hosts it enrols
    #[arg(long, value_parser = tenant)]
    pub tenant: Tenant,
    /// How long it is valid: 90s, 30m, 8h, 7d
    #[arg(long, value_name = "PERIOD", default_value = "1h", value_parser = period)]
    pub expires: Duration,
    /// How many hosts it enrols
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub uses: u32,
}

/// `collector host`.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// List hosts in the order of enrolment
    #[command(after_help = "Example:\n  collector host list --tenant acme --json")]
    List {
        /// Of this tenant only
        #[arg(long, value_parser = tenant)]
        tenant: Option<Tenant>,
    },
    /// Show one host
    #[command(after_help = "Example:\n  collector host show 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f")]
    Show {
        /// Its agent's id
        #[arg(value_parser = agent)]
        id: AgentId,
    },
    /// Take a host's right to connect, at once and for good
    #[command(
        after_help = "Example:\n  collector host revoke 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f --reason 'stolen'"
    )]
    Revoke {
        /// Its agent's id
        #[arg(value_parser = agent)]
        id: AgentId,
        /// Why, for whoever looks later
        #[arg(long)]
        reason: String,
    },
}

/// `collector operator`.
#[derive(Debug, Subcommand)]
pub enum Operator {
    /// Add an operator; their token is shown once, or written to a configuration for `soc`
    #[command(
        after_help = "Examples:\n  collector operator add alice --role responder --soc-config alice.toml\n  collector operator add ci --role viewer --expires 90d"
    )]
    Add {
        /// Their name
        name: String,
        /// viewer reads, responder also posts commands, admin also installs trust roots
        #[arg(long, value_parser = role)]
        role: Role,
        /// The token ends after this long: 8h, 90d
        #[arg(long, value_name = "PERIOD", value_parser = period)]
        expires: Option<Duration>,
        /// Write a configuration for `soc` here (0600), with the CA's certificate beside it
        #[arg(long, value_name = "FILE")]
        soc_config: Option<PathBuf>,
    },
    /// List operators
    #[command(after_help = "Example:\n  collector operator list")]
    List,
    /// Remove an operator: their token is refused from then on
    #[command(after_help = "Example:\n  collector operator remove alice")]
    Remove {
        /// Their name
        name: String,
    },
}

/// `collector trust`.
#[derive(Debug, Subcommand)]
pub enum Trust {
    /// Install a tenant's trust root: its first, or one that the one in force lets replace it
    #[command(after_help = "Example:\n  collector trust install root.json")]
    Install {
        /// The signed envelope, as `soc` made it
        file: PathBuf,
    },
    /// Show the trust roots in force
    #[command(after_help = "Example:\n  collector trust show --tenant acme")]
    Show {
        /// Of this tenant only
        #[arg(long, value_parser = tenant)]
        tenant: Option<Tenant>,
    },
}

fn tenant(text: &str) -> Result<Tenant, String> {
    Tenant::try_from(text.to_owned()).map_err(str::to_owned)
}

fn agent(text: &str) -> Result<AgentId, String> {
    AgentId::parse(text).ok_or_else(|| "an agent's id is a UUID such as `host list` shows".to_owned())
}

fn role(text: &str) -> Result<Role, String> {
    match text {
        "viewer" => Ok(Role::Viewer),
        "responder" => Ok(Role::Responder),
        "admin" => Ok(Role::Admin),
        _ => Err("a role is viewer, responder or admin".to_owned()),
    }
}

/// A number and s, m, h or d.
fn period(text: &str) -> Result<Duration, String> {
    let wrong = || "a period is a number and s, m, h or d: 90s, 30m, 8h, 7d".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number.checked_mul(unit).filter(|seconds| *seconds > 0).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }

    #[test]
    fn periods() {
        assert_eq!(period("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(period("7d"), Ok(Duration::from_secs(604_800)));
        for bad in ["", "s", "7", "0h", "-1h", "1é", "99999999999999999999d", "1w"] {
            assert!(period(bad).is_err(), "{bad:?}");
        }
    }
}
