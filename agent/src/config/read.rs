//! Which keys there are, and what each accepts.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::document::{Document, Section};
use super::thresholds::{neighbour_thresholds, network_thresholds, thresholds};
use super::{
    CommandsConfig, Config, DAY, DefencesConfig, EvidenceConfig, FilesConfig, GIB, GuardConfig, HOUR,
    HostConfig, KIB, LedgerConfig, ListenersConfig, LoginsConfig, MIB, MINUTE, MetricsConfig,
    NeighboursConfig, NetworkConfig, Problem, ResponseConfig, ServiceLog, UplinkConfig,
};
use crate::respond::early_drop::INTERFACES_MAX;
use crate::respond::firewall::Rung as FirewallRung;
use crate::sense::network::Rung;

const TREES_MAX: usize = 256;
const CANARIES_MAX: usize = 64;
const EXCLUDES_MAX: usize = 1_024;
const LOGS_MAX: usize = 16;
const SERVICE_BYTES_MAX: usize = 64;
const FLEET_MAX: usize = 4_096;
const PATH_BYTES_MAX: usize = 4_095;
const RUNGS: [&str; 5] = ["auto", "fanotify", "fanotify-inode", "inotify", "scan"];
const ACTIONS: [&str; picket_protocol::action::Action::NAMES.len()] = picket_protocol::action::Action::NAMES;

/// Reads a whole file.
pub(super) fn config(text: &str) -> Result<Config, Vec<Problem>> {
    let document = Document::new(text);
    let tree = document.parse();
    let mut top = document.top(&tree);
    let default = Config::default();
    let config = Config {
        state_dir: top.text("state_dir", default.state_dir, absolute),
        run_dir: top.text("run_dir", default.run_dir, absolute),
        files: files(top.section("files")),
        logins: logins(top.section("logins")),
        host: host(top.section("host")),
        defences: defences(top.section("defences")),
        neighbours: neighbours(top.section("neighbours")),
        listeners: listeners(top.section("listeners")),
        network: network(top.section("network")),
        response: response(top.section("response")),
        guard: guard(top.section("guard")),
        ledger: ledger(top.section("ledger")),
        uplink: uplink(top.section("uplink")),
        commands: commands(top.section("commands")),
        evidence: evidence(top.section("evidence")),
        metrics: metrics(top.section("metrics")),
    };
    if config.state_dir == config.run_dir {
        top.reject("run_dir", "must not be the same directory as state_dir".to_owned());
    }
    if matches!(config.network.rung, Some(Rung::Xdp | Rung::XdpGeneric)) && !config.response.xdp.is_empty() {
        let why = "an interface takes one XDP program, and network.rung has it: leave one of them out";
        top.reject("response.xdp", why.to_owned());
    }
    top.finish();
    let problems = document.into_problems();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

fn files(mut section: Section<'_, '_>) -> FilesConfig {
    let default = FilesConfig::default();
    let trees = section.texts("trees", default.trees.clone(), TREES_MAX, tree);
    // Whoever chose the trees chose what is watched.
    let quiet = if trees == default.trees { default.quiet_trees } else { Vec::new() };
    let config = FilesConfig {
        enabled: section.boolean("enabled", default.enabled),
        trees,
        quiet_trees: section.texts("quiet_trees", quiet, TREES_MAX, tree),
        logs: section.texts("logs", default.logs, TREES_MAX, tree),
        canaries: section.texts("canaries", default.canaries, CANARIES_MAX, absolute),
        exclude: section.texts("exclude", default.exclude, EXCLUDES_MAX, glob),
        rung: section.text("rung", default.rung, rung),
        scan_interval: section.duration(
            "scan_interval",
            default.scan_interval,
            seconds(1)..=seconds(7 * DAY),
        ),
        hash_bytes_max: section.size("hash_bytes_max", default.hash_bytes_max, 4 * KIB..=1024 * GIB),
    };
    if config.enabled && config.trees.is_empty() {
        section.reject("trees", "must name at least one tree while files.enabled is true".to_owned());
    }
    section.finish();
    config
}

fn logins(mut section: Section<'_, '_>) -> LoginsConfig {
    let default = LoginsConfig::default();
    let (logs, service_logs) = login_logs(&mut section, default.logs);
    let config = LoginsConfig {
        enabled: section.boolean("enabled", default.enabled),
        logs,
        service_logs,
        journal: section.boolean("journal", default.journal),
        audit: section.boolean("audit", default.audit),
        audit_enable: section.boolean("audit_enable", default.audit_enable),
        fleet: section.texts("fleet", default.fleet, FLEET_MAX, address),
        records: section.texts("records", default.records, LOGS_MAX, absolute),
        thresholds: thresholds(section.section_called("thresholds", "logins.thresholds")),
        parsers_dir: section.text("parsers_dir", default.parsers_dir, absolute),
    };
    section.finish();
    config
}

/// The text logs, and those that a service is named with. Where only such are given the default text logs stay: whoever names
/// his web server's log does not mean to go without `auth.log`.
fn login_logs(section: &mut Section<'_, '_>, default: Vec<PathBuf>) -> (Vec<PathBuf>, Vec<ServiceLog>) {
    enum Log {
        Text(PathBuf),
        Service(ServiceLog),
    }
    let must = "must be a list of paths in quotes and of { path = \"/…\", service = \"…\" }";
    let entry = |value: &DeValue<'_>| match value {
        DeValue::String(path) => absolute(path).map(Log::Text),
        DeValue::Table(table) => service_log(table).map(Log::Service),
        _ => Err(must.to_owned()),
    };
    let given = section.list("logs", default.iter().cloned().map(Log::Text).collect(), LOGS_MAX, must, entry);
    let (mut logs, mut of_services) = (Vec::new(), Vec::new());
    for log in given {
        match log {
            Log::Text(path) => logs.push(path),
            Log::Service(log) => of_services.push(log),
        }
    }
    if let Some(twice) = of_services.iter().find(|log| logs.iter().any(|path| path == Path::new(&log.path))) {
        section.reject("logs", format!("names {} with a service and without one", twice.path));
    }
    if logs.is_empty() && !of_services.is_empty() {
        logs = default;
    }
    (logs, of_services)
}

fn service_log(table: &DeTable<'_>) -> Result<ServiceLog, String> {
    let of = |name: &str| table.get(name).and_then(|value| value.get_ref().as_str());
    if let Some(unknown) = table.keys().find(|key| !["path", "service"].contains(&key.get_ref().as_ref())) {
        let unknown = picket_protocol::finding::printable(unknown.get_ref()).into_owned();
        return Err(format!("{unknown} is an unknown key; known here: path, service"));
    }
    let (Some(path), Some(service)) = (of("path"), of("service")) else {
        return Err("must have a path and a service, both texts in quotes".to_owned());
    };
    let path = absolute(path).map_err(|why| format!("path {why}"))?;
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if service.is_empty() || service.len() > SERVICE_BYTES_MAX || !service.chars().all(plain) {
        return Err("service must be the name of a rule file's service, such as \"nginx\"".to_owned());
    }
    Ok(ServiceLog { path: path.to_string_lossy().into_owned(), service: service.to_owned() })
}

fn host(mut section: Section<'_, '_>) -> HostConfig {
    let default = HostConfig::default();
    let config =
        HostConfig { heartbeat: section.duration("heartbeat", default.heartbeat, seconds(5)..=seconds(60)) };
    section.finish();
    config
}

fn defences(mut section: Section<'_, '_>) -> DefencesConfig {
    let default = DefencesConfig::default();
    let config = DefencesConfig { enabled: section.boolean("enabled", default.enabled) };
    section.finish();
    config
}

fn neighbours(mut section: Section<'_, '_>) -> NeighboursConfig {
    let default = NeighboursConfig::default();
    let config = NeighboursConfig {
        enabled: section.boolean("enabled", default.enabled),
        thresholds: neighbour_thresholds(section.section_called("thresholds", "neighbours.thresholds")),
    };
    section.finish();
    config
}

fn listeners(mut section: Section<'_, '_>) -> ListenersConfig {
    let default = ListenersConfig::default();
    let config = ListenersConfig { enabled: section.boolean("enabled", default.enabled) };
    section.finish();
    config
}

fn network(mut section: Section<'_, '_>) -> NetworkConfig {
    let default = NetworkConfig::default();
    let config = NetworkConfig {
        enabled: section.boolean("enabled", default.enabled),
        rung: section.text("rung", default.rung, network_rung),
        thresholds: network_thresholds(section.section_called("thresholds", "network.thresholds")),
    };
    section.finish();
    config
}

fn response(mut section: Section<'_, '_>) -> ResponseConfig {
    let default = ResponseConfig::default();
    let lease = seconds(5)..=seconds(DAY);
    let config = ResponseConfig {
        freeze_mass_change: section.boolean("freeze_mass_change", default.freeze_mass_change),
        freeze_lease: section.duration("freeze_lease", default.freeze_lease, lease),
        rung: section.text("rung", default.rung, firewall_rung),
        xdp: section.texts("xdp", default.xdp, INTERFACES_MAX, interface),
    };
    section.finish();
    config
}

fn guard(mut section: Section<'_, '_>) -> GuardConfig {
    let config = GuardConfig { enabled: section.boolean("enabled", GuardConfig::default().enabled) };
    section.finish();
    config
}

fn ledger(mut section: Section<'_, '_>) -> LedgerConfig {
    let default = LedgerConfig::default();
    let bytes = MIB..=1024 * GIB;
    let config = LedgerConfig {
        retention_bytes: section.size("retention_bytes", default.retention_bytes, bytes.clone()),
        retention_age: section.duration(
            "retention_age",
            default.retention_age,
            seconds(HOUR)..=seconds(3_650 * DAY),
        ),
        disk_bytes_max: section.size("disk_bytes_max", default.disk_bytes_max, bytes),
        key_lifetime: section.duration(
            "key_lifetime",
            default.key_lifetime,
            seconds(MINUTE)..=seconds(30 * DAY),
        ),
    };
    if config.disk_bytes_max < config.retention_bytes {
        section.reject("disk_bytes_max", "must not be below ledger.retention_bytes".to_owned());
    }
    section.finish();
    config
}

fn uplink(mut section: Section<'_, '_>) -> UplinkConfig {
    let default = UplinkConfig::default();
    let config = UplinkConfig {
        user: section.text("user", default.user, user),
        proxy: section.text("proxy", default.proxy, proxy),
        backoff_max: section.duration("backoff_max", default.backoff_max, seconds(1)..=seconds(HOUR)),
    };
    section.finish();
    config
}

fn commands(mut section: Section<'_, '_>) -> CommandsConfig {
    let default = CommandsConfig::default();
    let config = CommandsConfig { allow: section.texts("allow", default.allow, ACTIONS.len(), action) };
    section.finish();
    config
}

fn evidence(mut section: Section<'_, '_>) -> EvidenceConfig {
    let default = EvidenceConfig::default();
    let config = EvidenceConfig {
        free_bytes_min: section.size("free_bytes_min", default.free_bytes_min, KIB..=1024 * GIB),
        free_percent_min: section.number("free_percent_min", default.free_percent_min, 0..=90),
        bundle_bytes_max: section.size("bundle_bytes_max", default.bundle_bytes_max, MIB..=1024 * GIB),
        bytes_per_second: section.size("bytes_per_second", default.bytes_per_second, 64 * KIB..=GIB),
    };
    section.finish();
    config
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn metrics(mut section: Section<'_, '_>) -> MetricsConfig {
    let default = MetricsConfig::default();
    let config = MetricsConfig { textfile: section.text("textfile", default.textfile, prom_file) };
    section.finish();
    config
}

/// node-exporter reads files of that name alone.
fn prom_file(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let path = absolute(text).ok().filter(|path| path.extension().is_some_and(|end| end == "prom"));
    path.map(Some).ok_or_else(|| "must be \"\" or an absolute path that ends in .prom".to_owned())
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let fits =
        path.is_absolute() && plain && text.len() <= PATH_BYTES_MAX && !text.contains(char::is_control);
    if !fits || text == "/" {
        return Err("must be an absolute path without \"..\", below /".to_owned());
    }
    Ok(path.components().collect())
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "must be an IPv4 or IPv6 address".to_owned())
}

fn tree(text: &str) -> Result<PathBuf, String> {
    let path = absolute(text)?;
    glob(text)?;
    Ok(path)
}

fn glob(text: &str) -> Result<String, String> {
    if !text.starts_with('/') || text.len() > PATH_BYTES_MAX {
        return Err("must be a glob over absolute paths, such as \"/etc/**/*.swp\"".to_owned());
    }
    match crate::glob::Glob::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("is not a valid glob: {error}")),
    }
}

fn rung(text: &str) -> Result<Option<String>, String> {
    match text {
        "auto" => Ok(None),
        name if RUNGS.contains(&name) => Ok(Some(name.to_owned())),
        _ => Err(format!("must be one of {}", RUNGS.join(", "))),
    }
}

fn firewall_rung(text: &str) -> Result<Option<FirewallRung>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let names = || FirewallRung::ALL.map(FirewallRung::name).join(", ");
    FirewallRung::named(text).map(Some).ok_or_else(|| format!("must be one of auto, {}", names()))
}

/// As the kernel takes them (`dev_valid_name`).
fn interface(text: &str) -> Result<String, String> {
    let bytes = text.bytes();
    let is_name = (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && bytes.into_iter().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if is_name { Ok(text.to_owned()) } else { Err("must hold names of interfaces, like \"eth0\"".to_owned()) }
}

fn network_rung(text: &str) -> Result<Option<Rung>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let names = || Rung::ALL.map(Rung::name).join(", ");
    Rung::named(text).map(Some).ok_or_else(|| format!("must be one of auto, {}", names()))
}

fn user(text: &str) -> Result<String, String> {
    let number = text.parse::<u32>().is_ok_and(|uid| uid > 0 && uid < u32::MAX);
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let name = first
        && text.len() <= 32
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if (number || name) && text != "root" {
        Ok(text.to_owned())
    } else {
        Err("must be a user's name or number, and not root".to_owned())
    }
}

fn proxy(text: &str) -> Result<Option<String>, String> {
    let wanted = || "must be \"\" or http://[user:password@]host:port".to_owned();
    if text.is_empty() {
        return Ok(None);
    }
    let rest = text.strip_prefix("http://").ok_or_else(wanted)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (credentials, address) =
        rest.rsplit_once('@').map_or((None, rest), |(user, address)| (Some(user), address));
    let fits = credentials
        .is_none_or(|user| user.contains(':') && !user.contains(|c: char| c.is_control() || c == '/'));
    if fits && picket_protocol::join::is_address(address) {
        Ok(Some(format!("http://{rest}")))
    } else {
        Err(wanted())
    }
}

fn action(text: &str) -> Result<String, String> {
    if ACTIONS.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("must be one of {}", ACTIONS.join(", ")))
    }
}
