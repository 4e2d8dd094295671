//! The command line of `soc command` and `soc isolate`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use picket_protocol::action::RATE_MAX;
use picket_protocol::command::{Limited, Mac, Profile, Service, Transport};

/// What to do about commands.
#[derive(Debug, Subcommand)]
pub enum CommandAction {
    /// Write an unsigned command; nothing is sent
    #[command(subcommand)]
    New(Box<NewAction>),
    /// List commands that were posted, newest first
    #[command(after_help = "Example:\n  soc command list --tenant acme --limit 10")]
    List {
        /// Only this customer's
        #[arg(long)]
        tenant: Option<String>,
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Show one command, and what became of it on each host
    #[command(after_help = "Example:\n  soc command show 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f")]
    Show {
        /// The command's id
        #[arg(value_name = "ID")]
        id: uuid::Uuid,
    },
}

/// Which command to write.
#[derive(Debug, Subcommand)]
pub enum NewAction {
    /// A message to the customer, shown on the host until acknowledged
    #[command(
        after_help = "Example:\n  soc command new advise --host web-1 --message 'Rotate the key of deploy' --reason 'leaked in a ticket' --ticket C-7 -o advise.json"
    )]
    Advise {
        /// The message
        #[arg(long)]
        message: String,
        /// How long it is shown at most
        #[arg(long, value_name = "PERIOD", default_value = "24h")]
        lease: String,
        /// For whom, until when, why.
        #[command(flatten)]
        frame: CommandFrame,
    },
    /// Re-examine files now
    #[command(
        after_help = "Example:\n  soc command new scan --host web-1 --paths /etc --reason 'after the incident' --ticket C-7 -o scan.json"
    )]
    Scan {
        /// Absolute paths within watched trees (repeat it, or separate by commas) [default: all]
        #[arg(long, value_delimiter = ',')]
        paths: Vec<String>,
        /// For whom, until when, why.
        #[command(flatten)]
        frame: CommandFrame,
    },
    /// Raise marked findings through the real path, to see how long each stage takes
    #[command(
        after_help = "Example:\n  soc command new drill --host web-1 --findings 10 --reason 'monthly exercise' --ticket X-1 -o drill.json"
    )]
    Drill {
        /// How many, 1 to 1,000
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        findings: u32,
        /// For whom, until when, why.
        #[command(flatten)]
        frame: CommandFrame,
    },
    /// Cut hosts off from all but the collector and what their owner's policy names
    #[command(
        after_help = "Example:\n  soc command new isolate --host web-1 --lease 2h --reason 'ransomware' --ticket C-7 -o isolate.json\n\n`soc isolate` does the same and shows how far it reaches."
    )]
    Isolate {
        /// For how long, for whom, why.
        #[command(flatten)]
        order: Order,
    },
    /// Cut one service off from the network; the host goes on
    #[command(
        after_help = "Example:\n  soc command new isolate-unit --host web-1 --unit nginx.service --lease 2h --reason 'web shell' --ticket C-7 -o unit.json"
    )]
    IsolateUnit {
        /// A systemd service, scope or slice
        #[arg(long)]
        unit: String,
        /// For how long, for whom, why.
        #[command(flatten)]
        order: Order,
    },
    /// Let nothing in to a port
    #[command(
        after_help = "Example:\n  soc command new close-port --host web-1 --protocol tcp --port 6379 --lease 1d --reason 'open redis' --ticket C-7 -o port.json"
    )]
    ClosePort {
        /// Of which protocol
        #[arg(long, value_parser = transport())]
        protocol: Transport,
        /// Which, 1 to 65,535
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
        /// For how long, for whom, why.
        #[command(flatten)]
        order: Order,
    },
    /// Exchange nothing with some networks
    #[command(
        after_help = "Example:\n  soc command new block --host web-1,web-2 --network 192.0.2.7,198.51.100.0/24 --lease 7d --reason 'command and control' --ticket C-7 -o block.json\n\nA file of networks has one a line; what follows # is a comment."
    )]
    Block {
        /// Address, or ADDRESS/LENGTH (repeat it, or separate by commas)
        #[arg(long, value_delimiter = ',', required_unless_present = "networks_file")]
        network: Vec<String>,
        /// A file of them (- for standard input)
        #[arg(long, value_name = "FILE")]
        networks_file: Option<PathBuf>,
        /// For how long, for whom, why.
        #[command(flatten)]
        order: Order,
    },
    /// Take no more than so much from each address
    #[command(
        after_help = "Examples:\n  soc command new rate-limit --host web-1 --protocol tcp --port 443 --per-second 50 --lease 6h --reason 'flood' --ticket C-7 -o limit.json\n  soc command new rate-limit --host web-1 --protocol icmp --per-second 10 --lease 6h --reason 'flood' --ticket C-7 -o limit.json"
    )]
    RateLimit {
        /// What is counted: new connections of tcp, datagrams of udp, messages of icmp
        #[arg(long, value_parser = limited())]
        protocol: Limited,
        /// To this port only; not for icmp
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// How many from each address, 1 to 1,000,000
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
        per_second: u32,
        /// For how long, for whom, why.
        #[command(flatten)]
        order: Order,
    },
    /// Keep a neighbour at its hardware address, whatever others say
    #[command(
        after_help = "Example:\n  soc command new pin-neighbour --host web-1 --interface eth0 --address 192.0.2.1 --mac 02:00:00:00:00:01 --lease 1d --reason 'ARP spoofing' --ticket C-7 -o pin.json"
    )]
    PinNeighbour {
        /// On which interface
        #[arg(long)]
        interface: String,
        /// Its IP address
        #[arg(long)]
        address: IpAddr,
        /// Its hardware address
        #[arg(long)]
        mac: Mac,
        /// For how long, for whom, why.
        #[command(flatten)]
        order: Order,
    },
    /// Let nobody log in as a user, and stop what runs as it
    #[command(
        after_help = "Example:\n  soc command new freeze-account --host web-1 --user deploy --lease 4h --reason 'key leaked' --ticket C-7 -o freeze.json\n\nThe account expires, which keys do not get around; its password stays. What the user runs by sudo goes on:\nend-sessions is for that. root, the agent's user and accounts of services that nobody can log in with are refused."
    )]
    FreezeAccount {
        /// A local account of the hosts
        #[arg(long)]
        user: String,
        /// For how long, for whom, why.
        #[command(flatten)]
        order: Order,
    },
    /// End the login sessions of a user, for good
    #[command(
        after_help = "Example:\n  soc command new end-sessions --host web-1 --user deploy --reason 'key leaked' --ticket C-7 -o end.json\n\nThe user can log in again: freeze the account before. What runs in the sessions is killed, with what the\nuser became by su or sudo, and evidence in its memory is lost."
    )]
    EndSessions {
        /// A local account of the hosts
        #[arg(long)]
        user: String,
        /// For whom, until when, why.
        #[command(flatten)]
        frame: CommandFrame,
    },
    /// Stop a process and all beneath it; they go on when the lease ends
    #[command(
        after_help = "Example:\n  soc command new freeze-process --host web-1 --pid 4711 --started 2026-01-02T03:04:05.678Z --sha256 9f86… --lease 2h --reason 'miner' --ticket C-7 -o stop.json\n\npid, started and the SHA-256 of the program are in the finding's evidence (soc show). One that does not fit\nis refused by the host: it would be another process."
    )]
    FreezeProcess {
        /// Which.
        #[command(flatten)]
        process: NamedProcess,
        /// For how long, for whom, why.
        #[command(flatten)]
        order: Order,
    },
    /// Kill a process, for good
    #[command(
        after_help = "Example:\n  soc command new kill-process --host web-1 --pid 4711 --started 2026-01-02T03:04:05.678Z --sha256 9f86… --reason 'miner' --ticket C-7 -o kill.json\n\nWhat it has started goes on, and evidence in its memory is lost: freeze-process keeps both still."
    )]
    KillProcess {
        /// Which.
        #[command(flatten)]
        process: NamedProcess,
        /// For whom, until when, why.
        #[command(flatten)]
        frame: CommandFrame,
    },
    /// Take a file away; it comes back as it was when the lease ends
    #[command(
        after_help = "Example:\n  soc command new quarantine-file --host web-1 --path /var/www/html/x.php --sha256 9f86… --lease 7d --reason 'web shell' --ticket C-7 -o take.json\n\nPrograms that have it open, or run it, keep what they have. If something else is at its place when the lease\nends, it stays with the agent, and the receipt says where."
    )]
    QuarantineFile {
        /// Absolute, through no symbolic link
        #[arg(long)]
        path: String,
        /// SHA-256 of its content, in hex: another content is not taken
        #[arg(long, value_name = "HEX")]
        sha256: String,
        /// For how long, for whom, why.
        #[command(flatten)]
        order: Order,
    },
    /// Give a file back before its lease ends, or put back what it held before a change
    #[command(
        group = clap::ArgGroup::new("from").required(true),
        after_help = "Examples:\n  soc command new restore-file --host web-1 --command 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f --reason 'false alarm' --ticket C-7 -o back.json\n  soc command new restore-file --host web-1 --finding 0199c2ad-7d10-7a44-b1f5-3a9d2c5e8f01 --reason 'sshd_config changed' --ticket C-7 -o back.json\n\n--finding: the host's file sensor keeps the text of small configuration files as it was, with owner and mode. It is put back\nonly while the file is as the finding tells that it became: what was changed again since stays. The change back is a finding of its\nown, explained by the command, and is taken back the same way."
    )]
    RestoreFile {
        /// Id of the command that took it away (quarantine-file)
        #[arg(long, value_name = "ID", group = "from")]
        command: Option<uuid::Uuid>,
        /// Id of that host's finding of the change, or of the removal
        #[arg(long, value_name = "ID", group = "from")]
        finding: Option<uuid::Uuid>,
        /// For whom, until when, why.
        #[command(flatten)]
        frame: CommandFrame,
    },
    /// Tell how the host stands: persistence, accounts, programs, listening ports that differ from what is usual there
    #[command(
        after_help = "Example:\n  soc command new assess --host web-1 --reason 'clean again?' --ticket C-7 -o assess.json\n\nThe receipt names each item (soc receipts --command ID --full). It changes nothing."
    )]
    Assess {
        /// For whom, until when, why.
        #[command(flatten)]
        frame: CommandFrame,
    },
    /// Have the agent tell more than usual, for a while
    #[command(
        after_help = "Example:\n  soc command new watch-closely --host web-1 --lease 1d --reason 'given back today' --ticket C-7 -o watch.json"
    )]
    WatchClosely {
        /// For how long, for whom, why.
        #[command(flatten)]
        order: Order,
    },
    /// Collect evidence before it is wiped, encrypted to the vendor, and hand it to the collector
    #[command(
        after_help = "Examples:\n  soc command new preserve --host web-1 --profile all --lease 1d --reason 'web shell' --ticket C-7 -o keep.json\n  soc command new preserve --host web-1 --profile processes,network --path /var/www/html --lease 1d --reason 'web shell' --ticket C-7 -o keep.json\n  soc command new preserve --host web-1 --pid 4711 --started 2026-01-02T03:04:05.678Z --sha256 9f86… --lease 1d --reason 'miner' --ticket C-7 -o keep.json\n\nThe lease says how long it stays on the host for the collector to fetch. applied: it is collected and sealed;\nconfirmed: the collector has all of it (soc evidence get). What is lost first is taken first: the memory of the process,\nthen processes, network, kernel, paths, logins, histories, persistence, journal, logs. Freeze or kill afterwards."
    )]
    Preserve {
        /// What to collect (repeat it, or separate by commas): all, processes, network, kernel, logins, histories,
        /// persistence, journal, logs
        #[arg(long, value_delimiter = ',', value_parser = profiles(), required_unless_present_any = ["path", "pid"])]
        profile: Vec<String>,
        /// Further files and directories, absolute, through no symbolic link (repeat it)
        #[arg(long)]
        path: Vec<String>,
        /// The process whose memory is to be taken: its number
        #[arg(long, requires = "started", requires = "sha256")]
        pid: Option<u32>,
        /// When it began, as findings tell it
        #[arg(long, value_name = "TIME", requires = "pid")]
        started: Option<String>,
        /// SHA-256 of the program that it runs, in hex
        #[arg(long, value_name = "HEX", requires = "pid")]
        sha256: Option<String>,
        /// For how long, for whom, why.
        #[command(flatten)]
        order: Order,
    },
    /// End an isolation in steps: assess, open service by service, release, watch closely
    #[command(
        after_help = "Example:\n  soc command new restore --host web-1 --command 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f --open tcp/22,tcp/443 --pause 2m \\\n      --accept 'account.changed /etc/shadow' --reason 'cleaned' --ticket C-7 -o restore.json\n\nWhen the assessment shows what nobody accepted, the host stays isolated. A critical finding while a service is\nopen closes all again. An accepted item is given as the receipt of assess names it."
    )]
    Restore {
        /// Id of the command that isolated the host, or the act of a playbook's step that did
        #[arg(long, value_name = "ID")]
        command: uuid::Uuid,
        /// Services to open before the rest, in this order: tcp/PORT or udp/PORT (repeat it, or separate by commas)
        #[arg(long, value_name = "SERVICE", value_delimiter = ',')]
        open: Vec<Service>,
        /// How long each is looked at before the next step, up to 1h
        #[arg(long, value_name = "PERIOD", default_value = "2m")]
        pause: String,
        /// What of an assessment you have judged to be harmless (repeat it)
        #[arg(long, value_name = "ITEM")]
        accept: Vec<String>,
        /// How long the host is watched closely afterwards
        #[arg(long, value_name = "PERIOD", default_value = "1d")]
        watch: String,
        /// For whom, until when, why.
        #[command(flatten)]
        frame: CommandFrame,
    },
}

/// A process, so that no other is hit.
#[derive(Debug, Args)]
pub struct NamedProcess {
    /// Its number
    #[arg(long)]
    pub pid: u32,
    /// When it began, as findings tell it
    #[arg(long, value_name = "TIME")]
    pub started: String,
    /// SHA-256 of the program that it runs, in hex
    #[arg(long, value_name = "HEX")]
    pub sha256: String,
}

fn profiles() -> PossibleValuesParser {
    PossibleValuesParser::new(std::iter::once("all").chain(Profile::ALL.map(Profile::name)))
}

fn transport() -> impl TypedValueParser<Value = Transport> {
    PossibleValuesParser::new(["tcp", "udp"]).map(|word| match word.as_str() {
        "udp" => Transport::Udp,
        _ => Transport::Tcp,
    })
}

fn limited() -> impl TypedValueParser<Value = Limited> {
    PossibleValuesParser::new(["tcp", "udp", "icmp"]).map(|word| match word.as_str() {
        "icmp" => Limited::Icmp,
        "udp" => Limited::Udp,
        _ => Limited::Tcp,
    })
}

/// What every command says that changes a host.
#[derive(Debug, Args)]
pub struct Order {
    /// How long it lasts at most, from when a host applies it: 30m, 2h, 7d
    #[arg(long, value_name = "PERIOD")]
    pub lease: String,
    /// For whom, until when, why.
    #[command(flatten)]
    pub frame: CommandFrame,
}

/// `soc isolate`.
#[derive(Debug, Args)]
pub struct IsolateArguments {
    /// Hosts: agent ids, unique prefixes of one, or unique names
    #[arg(value_name = "HOST", required = true, value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// How long it lasts at most, from when a host applies it: 30m, 2h, 7d
    #[arg(long, value_name = "PERIOD")]
    pub lease: String,
    /// Have the hosts tell what it would change, whom it would spare and what they would refuse, and change nothing: soc send
    /// FILE --wait shows it, and so does soc receipts --command ID --full
    #[arg(long)]
    pub dry_run: bool,
    /// Until when, why.
    #[command(flatten)]
    pub text: CommandText,
    /// The tenant's trust root, which says how many must sign [default: the one in force at the collector]
    #[arg(long, value_name = "FILE")]
    pub trust: Option<PathBuf>,
    /// Where to write it [default: isolate-<end of the command's id>.json]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// What every command says, and where it goes.
#[derive(Debug, Args)]
pub struct CommandFrame {
    /// A host: agent id, unique prefix of one, or unique name (repeat it, or separate by commas)
    #[arg(long, required = true, value_delimiter = ',')]
    pub host: Vec<String>,
    /// Have the hosts tell what it would change, whom it would spare and what they would refuse, and change nothing: soc send
    /// FILE --wait shows it, and so does soc receipts --command ID --full
    #[arg(long)]
    pub dry_run: bool,
    /// Until when, why.
    #[command(flatten)]
    pub text: CommandText,
    /// Where to write it
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// What every command says besides what it does.
#[derive(Debug, Args)]
pub struct CommandText {
    /// Whose hosts; with this and whole agent ids no collector is needed
    #[arg(long)]
    pub tenant: Option<String>,
    /// Why, in a sentence
    #[arg(long)]
    pub reason: String,
    /// The case
    #[arg(long)]
    pub ticket: String,
    /// When it stops being obeyed: a period from now, or a time
    #[arg(long, value_name = "WHEN", default_value = "1h")]
    pub expires: String,
    /// When it starts being obeyed [default: 5 minutes ago, for clocks that are late]
    #[arg(long, value_name = "WHEN")]
    pub not_before: Option<String>,
}
