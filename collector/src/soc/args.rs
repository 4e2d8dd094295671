//! The command line of `soc`.

mod command;
mod evidence;
mod playbook;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use evidence::{EvidenceAction, EvidenceGetArguments, EvidenceVerifyArguments};

pub use command::{
    CommandAction, CommandFrame, CommandText, IsolateArguments, NamedProcess, NewAction, Order,
};
pub use playbook::{PlaybookAction, PlaybookSource, RunArguments};

const EXAMPLES: &str = "\
Examples:
  soc hosts                                     every host, with its state
  soc findings --severity high --since 24h      what matters from the last day
  soc findings --follow                         live, surviving restarts of the collector
  soc show 0199c2ad-…                           one finding, its proof checked here
  soc export 0199c2ad-… -o proof.json           the proof, for somebody else
  soc verify proof.json --agent-key K --witness W
  soc keygen --name alice --out alice.key       your signing key, made on your machine
  soc command new advise --host web-1 --message '…' --reason '…' --ticket C-7 -o advise.json
  soc isolate web-1 --lease 2h --reason '…' --ticket C-7        cuts a host off, once signed and sent
  soc playbook run contain-ransomware --host web-1 --lease 4h --reason '…' --ticket C-7     several steps in one
  soc sign advise.json --key alice.key          shows what you sign, adds your signature
  soc sign advise.json --ssh-key ~/.ssh/id_ed25519              the same with an SSH key or a FIDO2 token
  soc send advise.json --wait                   posts it and follows the receipts
  soc evidence get 0199c2ad-… --identity evidence.key           fetches evidence, opens and checks it
  soc pending                                   commands of which something is still to come
  soc watch                                     receipts of all hosts, live

Exit codes: 0 fine, 1 something bad was found or refused, 2 failing, 3 usage.";

/// Picket's command line for operators: what the fleet found, proofs, and signed commands.
#[derive(Debug, Parser)]
#[command(name = "soc", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// Configuration [default: $SOC_CONFIG, else ~/.config/picket/soc.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON: one document, and of lists one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What `soc` does.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List hosts and their state
    #[command(
        after_help = "Example:\n  soc hosts --tenant acme\n  soc hosts web-1        one host, with all that is known of it"
    )]
    Hosts(HostsArguments),
    /// Show whose token the configuration holds, and the collector's witness key
    #[command(after_help = "Example:\n  soc whoami")]
    Whoami,
    /// List findings, newest last, or follow them live
    #[command(
        after_help = "Examples:\n  soc findings --since 1h --rule 'login.*'\n  soc findings --follow --severity medium\n  soc findings --host web-1 --json | jq .title"
    )]
    Findings(FindingsArguments),
    /// Show one finding: evidence, record, and whether its proof holds
    #[command(after_help = "Example:\n  soc show 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f")]
    Show {
        /// The finding's id, or its last characters (at least 6) when it is a recent one
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Fetch a finding's proof file (record, inclusion proof, cosigned checkpoint)
    #[command(after_help = "Example:\n  soc export 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f -o proof.json")]
    Export {
        /// The finding's id, or its last characters (at least 6) when it is a recent one
        #[arg(value_name = "ID")]
        id: String,
        /// Where to write it [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Check a proof file offline: exit code 0 verified, 1 not
    #[command(
        after_help = "Example:\n  soc verify proof.json --agent-key 'Ap1x…=' --witness 'collector+0a1b…'\n\nEach key may also be a file that holds it. Keys that are not given are taken from those pinned\nbeside the configuration; no collector is asked."
    )]
    Verify(VerifyArguments),
    /// Make a signing key on this machine
    #[command(
        after_help = "Example:\n  soc keygen --name alice --out alice.key      writes alice.key and alice.key.pub"
    )]
    Keygen {
        /// Your name, as receipts and customers will show it [default: $USER]
        #[arg(long)]
        name: Option<String>,
        /// Where to write it; the public half goes to FILE.pub [default: operator.key beside the configuration]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Trust roots: which operators' keys a tenant's agents obey
    #[command(subcommand)]
    Trust(TrustAction),
    /// Commands: write one, list them, see what became of one
    #[command(subcommand)]
    Command(CommandAction),
    /// Write an unsigned command that cuts hosts off from all but the collector; shows how far it reaches
    #[command(
        after_help = "Example:\n  soc isolate web-1 web-2 --lease 2h --reason 'ransomware on web-1' --ticket C-7\n  soc sign isolate-….json --key alice.key\n  soc send isolate-….json --wait\n\nNothing happens before enough operators have signed it and it is sent. Each host undoes it by itself\nwhen the lease ends, and at once when it cannot confirm that it still reaches the collector."
    )]
    Isolate(IsolateArguments),
    /// Playbooks: several actions in order, signed as one command
    #[command(subcommand)]
    Playbook(PlaybookAction),
    /// Show what a command or trust root says, then add your signature to it
    #[command(
        after_help = "Examples:\n  soc sign advise.json --key alice.key --trust acme-trust.json\n  soc sign advise.json --ssh-key ~/.ssh/id_ed25519          asks for the passphrase, or ssh-agent\n  soc sign advise.json --ssh-key ~/.ssh/id_ed25519_sk       a FIDO2 token: touch it when it blinks\n\nThe namespace of SSH signatures is picket-command, and picket-trust-root for trust roots."
    )]
    Sign(SignArguments),
    /// Post a signed command
    #[command(
        after_help = "Example:\n  soc send advise.json --wait\n\nWith --wait the exit code is 0 when every host did it, 1 when one refused, failed, reverted it or let it\nexpire, 2 when one did not say the last word in time. What contains a host (isolate, block …) is done when\nit is confirmed: the receipts received and applied come before."
    )]
    Send(SendArguments),
    /// List commands of which something is still to come: hosts that did not take them yet, or are at it
    #[command(
        after_help = "Example:\n  soc pending --tenant acme\n  soc command show ID        which hosts they are"
    )]
    Pending(PendingArguments),
    /// Print receipts as they arrive, until interrupted; those of one command until its hosts are done
    #[command(
        after_help = "Examples:\n  soc watch --tenant acme\n  soc watch 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f      ends with the exit codes of send --wait\n  soc watch --json | jq 'select(.outcome == \"reverted\")'"
    )]
    Watch(WatchArguments),
    /// List receipts: the agents' sealed answers to commands
    #[command(
        after_help = "Examples:\n  soc receipts --command 0199c2ad-…\n  soc receipts --host web-1\n  soc receipts --command 0199c2ad-… --verify   (exit code 1 when a receipt is not in its host's ledger, or is for another's command)"
    )]
    Receipts(ReceiptsArguments),
    /// Evidence that hosts collected by commands preserve: list it, fetch and open it, check it
    #[command(subcommand)]
    Evidence(EvidenceAction),
}

/// Which receipts.
#[derive(Debug, Args)]
pub struct ReceiptsArguments {
    /// Answers to this command
    #[arg(long, value_name = "ID")]
    pub command: Option<uuid::Uuid>,
    /// Answers of this host (agent id, unique prefix of one, or unique name)
    #[arg(long)]
    pub host: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// With signers and details
    #[arg(long)]
    pub full: bool,
    /// Check here that each is sealed in its host's ledger, as `soc show` does of findings
    #[arg(long, conflicts_with = "full")]
    pub verify: bool,
}

/// Which commands.
#[derive(Debug, Args)]
pub struct PendingArguments {
    /// Only this customer's
    #[arg(long)]
    pub tenant: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

/// Which receipts, and for how long.
#[derive(Debug, Args)]
pub struct WatchArguments {
    /// Answers to this command, from the first one on, until all its hosts are done
    #[arg(value_name = "COMMAND")]
    pub command: Option<uuid::Uuid>,
    /// Answers of this host (agent id, unique prefix of one, or unique name)
    #[arg(long)]
    pub host: Option<String>,
    /// Answers of this customer's hosts
    #[arg(long)]
    pub tenant: Option<String>,
    /// How many before the live ones
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=10_000), conflicts_with = "command")]
    pub limit: u32,
    /// How long to watch the command at most [default: without end]
    #[arg(long, value_name = "PERIOD", requires = "command")]
    pub timeout: Option<String>,
}

/// Which hosts.
#[derive(Debug, Args)]
pub struct HostsArguments {
    /// Only this one: agent id, unique prefix of one, or unique name
    #[arg(value_name = "HOST")]
    pub host: Option<String>,
    /// Only this customer's
    #[arg(long)]
    pub tenant: Option<String>,
}

/// Which findings.
#[derive(Debug, Args)]
pub struct FindingsArguments {
    /// Print new ones as they arrive, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Of this host: agent id, unique prefix of one, or unique name
    #[arg(long)]
    pub host: Option<String>,
    /// Of this customer
    #[arg(long)]
    pub tenant: Option<String>,
    /// Of this rule; a * at the end stands for any rest
    #[arg(long)]
    pub rule: Option<String>,
    /// At least this severe: info, low, medium, high, critical
    #[arg(long)]
    pub severity: Option<String>,
    /// Sealed since then: 15m, 1h, 7d, or a time like 2026-01-02T03:04:05Z
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Sealed before then
    #[arg(long, value_name = "WHEN", conflicts_with = "follow")]
    pub until: Option<String>,
    /// How many at most [default: 50; with --follow 10 before the live ones]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub limit: Option<u32>,
}

/// What to verify, and against which keys.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The proof file (- for standard input)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The host's ledger key at enrolment: base64, or a file
    #[arg(long, value_name = "KEY")]
    pub agent_key: Option<String>,
    /// The collector's witness key: vkey text, or a file
    #[arg(long, value_name = "KEY")]
    pub witness: Option<String>,
}

/// What to sign, and with what.
#[derive(Debug, Args)]
pub struct SignArguments {
    /// The envelope: a command or a trust root
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Your key [default: operator.key beside the configuration]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Your SSH key instead (ssh-ed25519, or sk-ssh-ed25519@openssh.com on a FIDO2 token): its file, or the .pub file of
    /// one that ssh-agent holds. ssh-keygen signs with it
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    pub ssh_key: Option<PathBuf>,
    /// The tenant's trust root: tells whether the signatures suffice
    #[arg(long, value_name = "FILE")]
    pub trust: Option<PathBuf>,
    /// Print every network of a block before asking, not the 1,000 widest
    #[arg(long)]
    pub all_networks: bool,
    /// Sign without asking
    #[arg(short, long)]
    pub yes: bool,
}

/// What to send.
#[derive(Debug, Args)]
pub struct SendArguments {
    /// The signed command
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Follow the receipts until every host has said the last word
    #[arg(long)]
    pub wait: bool,
    /// How long to wait for them
    #[arg(long, value_name = "PERIOD", default_value = "60s", requires = "wait")]
    pub timeout: String,
}

/// What to do about trust roots.
#[derive(Debug, Subcommand)]
pub enum TrustAction {
    /// Write an unsigned trust root from operators' public keys
    #[command(
        after_help = "Example: two responders, ten hosts for one signature, a hundred for both\n  soc trust new --tenant acme --key alice.key.pub --key bob.key.pub \\\n      --hosts 1=10 --hosts 2=100 --root-threshold 2 -o acme-trust.json\n\nExample: who may isolate hosts as well; actions that are named take the place of the default ones\n  soc trust new --tenant acme --key alice.key.pub --key bob.key.pub --action advise --action scan \\\n      --action drill --action isolate --threshold 2 --hosts 2=20 --lease-max 1d -o acme-trust.json\n\nExample: one signs with an SSH key, one with a FIDO2 token (ssh-keygen -t ed25519-sk)\n  soc trust new --tenant acme --ssh-key carol=carol.pub --ssh-key dave=dave_sk.pub -o acme-trust.json\n\nExample: preserve may be ordered as well, and evidence is encrypted to this key\n  soc trust new --tenant acme --key alice.key.pub --action advise --action preserve --evidence-recipient age1… -o acme-trust.json\n\nSeveral roles are written as a TOML policy (--policy):\n  tenant = \"acme\"\n  evidence = [\"age1…\"]\n  [operators]\n  alice = \"Ap1x…=\"\n  carol = \"ssh-ed25519 AAAA… carol@laptop\"\n  dave = \"sk-ssh-ed25519@openssh.com AAAA…\"\n  [root]\n  operators = [\"alice\"]\n  threshold = 1\n  [roles.advisers]\n  operators = [\"alice\"]\n  threshold = 1\n  actions = [\"advise\"]\n  hosts = { 1 = 10 }\n  lease_max = \"7d\""
    )]
    New(TrustNewArguments),
    /// Show what a trust root file says, then add your signature to it
    #[command(
        after_help = "Examples:\n  soc trust sign acme-trust.json --key alice.key\n  soc trust sign acme-trust.json --ssh-key ~/.ssh/id_ed25519"
    )]
    Sign(SignArguments),
    /// Show the trust root in a file, or the one in force for a tenant
    #[command(after_help = "Examples:\n  soc trust show acme-trust.json\n  soc trust show --tenant acme")]
    Show {
        /// A trust root file
        #[arg(value_name = "FILE", required_unless_present = "tenant")]
        file: Option<PathBuf>,
        /// The one in force at the collector for this tenant
        #[arg(long, conflicts_with = "file")]
        tenant: Option<String>,
        /// Also write the envelope that is in force to this file
        #[arg(short, long, value_name = "FILE", requires = "tenant")]
        output: Option<PathBuf>,
    },
    /// Post a signed trust root to the collector, which passes it on to the tenant's agents
    #[command(after_help = "Example:\n  soc trust install acme-trust.json")]
    Install {
        /// The signed trust root
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// What the new trust root says.
#[derive(Debug, Args)]
pub struct TrustNewArguments {
    /// A policy in TOML, instead of the options below
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tenant", "key", "ssh_key", "operator", "hosts", "action", "evidence_recipient"])]
    pub policy: Option<PathBuf>,
    /// Whose agents obey it
    #[arg(long, required_unless_present = "policy")]
    pub tenant: Option<String>,
    /// An operator's public key, as `soc keygen` wrote it to FILE.pub (repeat it)
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// An operator's SSH key, ssh-ed25519 or sk-ssh-ed25519@openssh.com (repeat it); the operator is called by NAME, or
    /// else by the comment in the file
    #[arg(long, value_name = "[NAME=]FILE.pub")]
    pub ssh_key: Vec<String>,
    /// The same as text, of either kind (repeat it)
    #[arg(long, value_name = "NAME=PUBLIC")]
    pub operator: Vec<String>,
    /// How many of them must sign a command
    #[arg(long, default_value_t = 1)]
    pub threshold: u32,
    /// How many of them must sign the next trust root
    #[arg(long, default_value_t = 1)]
    pub root_threshold: u32,
    /// An action that they may order (repeat it), instead of the default advise, scan, drill: any of advise, scan,
    /// drill, isolate, isolate-unit, close-port, block, rate-limit, pin-neighbour, freeze-account, end-sessions,
    /// freeze-process, kill-process, quarantine-file, restore-file, preserve, assess, watch-closely, restore
    #[arg(long)]
    pub action: Vec<String>,
    /// A key that evidence is encrypted to, age1… (repeat it): of soc evidence keygen, or age-keygen. Without one no host
    /// collects any
    #[arg(long, value_name = "RECIPIENT")]
    pub evidence_recipient: Vec<String>,
    /// With so many signatures a command may name so many hosts (repeat it) [default: 1=10]
    #[arg(long, value_name = "SIGNATURES=HOSTS")]
    pub hosts: Vec<String>,
    /// Longest lease that they may order
    #[arg(long, value_name = "PERIOD", default_value = "7d")]
    pub lease_max: String,
    /// When it ends: a period from now, or a time
    #[arg(long, value_name = "WHEN", default_value = "365d")]
    pub expires: String,
    /// The trust root that it replaces: takes its version plus one
    #[arg(long, value_name = "FILE")]
    pub replaces: Option<PathBuf>,
    /// Where to write it
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}
