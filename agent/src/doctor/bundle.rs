//! `agent bundle`: what a supporter asks for, in one archive, without what is nobody else's business.
//!
//! **Promise.** In it is what [`Bundle::collect`] names and nothing else. No key, join string or credential of a proxy is in it
//! (`scrub.rs`); text that people or programs wrote (configuration, log) is redacted on top of that as diffs are. What the host's
//! findings say of people is left out unless it was asked for. Everything is bounded.

use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use picket_protocol::metrics::{Family, to_text};
use picket_protocol::tar;
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};

use super::scrub::Secrets;
use super::setup::UNIT;
use super::{Case, examine};
use crate::cli::client::ask_once;
use crate::clock;
use crate::detect::files::redact::{Grammar, lines};
use crate::ledger::{Reader, RecordFilter};
use crate::respond::firewall::{self, program};
use crate::status::Request;

/// Lines of the log.
const LOG_LINES: usize = 500;
/// Bytes of a log's end that are looked at for them.
const LOG_BYTES: u64 = 512 * 1024;
/// Newest findings, where they are asked for.
const FINDINGS: usize = 500;
/// Files of the state directory that are listed.
const LISTED_MAX: usize = 1_000;
/// Bytes of a file in the archive; what is beyond is cut.
const FILE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a configuration that are read: more is no configuration.
const CONFIG_BYTES: u64 = 256 * 1024;
/// zstd's usual level.
const LEVEL: i32 = 3;

/// What is asked for.
pub struct Wanted<'a> {
    /// The configuration file, when it is not the usual one.
    pub config: Option<&'a Path>,
    /// A log of the agent's that is no journal.
    pub log: Option<&'a Path>,
    /// With the newest findings.
    pub findings: bool,
}

/// One file of the archive.
#[derive(Debug, serde::Serialize)]
pub struct Part {
    /// Its name in the archive.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Its length.
    pub bytes: usize,
    #[serde(skip)]
    text: String,
}

/// An archive before it is written.
#[derive(Debug, serde::Serialize)]
pub struct Bundle {
    /// What is in it.
    pub parts: Vec<Part>,
    /// What is not, with the reason.
    pub left_out: Vec<String>,
    #[serde(skip)]
    time: Timestamp,
}

/// Puts parts together; every text passes the scrubber here and nowhere else.
struct Collector {
    secrets: Secrets,
    parts: Vec<Part>,
    left_out: Vec<String>,
}

impl Collector {
    fn put(&mut self, name: &'static str, about: &'static str, text: &str) {
        let mut text = self.secrets.scrub(text);
        if text.len() > FILE_BYTES {
            text.truncate(text.floor_char_boundary(FILE_BYTES));
            self.left_out.push(format!("{name}: what is beyond {FILE_BYTES} bytes"));
        }
        self.parts.push(Part { name, about, bytes: text.len(), text });
    }

    fn json(&mut self, name: &'static str, about: &'static str, value: &impl serde::Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.put(name, about, &text),
            Err(error) => self.left_out.push(format!("{name}: {error}")),
        }
    }

    /// A text that people or programs wrote.
    fn written(&mut self, name: &'static str, about: &'static str, text: &str) {
        let raw: Vec<&str> = text.lines().collect();
        let mut shown = lines(Grammar::Plain, &raw).join("\n");
        shown.push('\n');
        self.put(name, about, &shown);
    }

    fn file(&mut self, name: &'static str, about: &'static str, path: &Path) {
        match crate::layout::read_file(path, CONFIG_BYTES) {
            Ok(bytes) => self.written(name, about, &String::from_utf8_lossy(&bytes)),
            Err(error) => self.left_out.push(format!("{name}: {}: {error}", path.display())),
        }
    }
}

impl Bundle {
    /// Looks at everything, as `agent doctor` does, and keeps what may be told.
    pub fn collect(wanted: &Wanted<'_>) -> Self {
        let diagnosis = examine(wanted.config);
        let case = Case::open(wanted.config);
        let secrets = Secrets::gather(&case.layout, &case.loaded.config);
        let mut collector = Collector { secrets, parts: Vec::new(), left_out: Vec::new() };
        collector.json("doctor.json", "what agent doctor says", &diagnosis);
        running(&mut collector, &case, wanted.findings);
        let mechanisms =
            json!({ "sensors": crate::core::probe(&case.loaded.config), "response": firewall::probe() });
        collector.json("mechanisms.json", "which mechanisms work here, and why others do not", &mechanisms);
        collector.json("host.json", "versions of agent, system and kernel; interfaces", &versions());
        if let Some(source) = &case.loaded.source {
            collector.file("agent.toml", "the configuration", source);
        }
        collector.file("policy.toml", "what the owner of the host allows", &case.loaded.policy);
        ledger(&mut collector, &case, wanted.findings);
        collector.put(
            "state.txt",
            "files of the state directory: mode, owner, size, name",
            &listing(case.layout.state()),
        );
        log(&mut collector, &case, wanted.log);
        collector.left_out.push("keys, join strings and credentials: never in a bundle".to_owned());
        if !wanted.findings {
            let said =
                "what findings, advice and actions in force say of people and programs (--with-findings)";
            collector.left_out.push(said.to_owned());
        }
        let Collector { parts, left_out, .. } = collector;
        Self { parts, left_out, time: clock::now() }
    }

    /// What is in the archive and what is not, for its first file and for whoever made it.
    pub fn contents(&self) -> String {
        let part = |part: &Part| format!("  {:<18} {:>9}  {}\n", part.name, part.bytes, part.about);
        let parts: String = self.parts.iter().map(part).collect();
        let left: String = self.left_out.iter().map(|what| format!("  {what}\n")).collect();
        let version = env!("CARGO_PKG_VERSION");
        format!(
            "Made by agent bundle, version {version}, at {}.\n\nIn it:\n{parts}\nLeft out:\n{left}",
            self.time
        )
    }

    /// Writes it to a file that nobody but its owner can read, and that must not be there yet.
    ///
    /// # Errors
    /// What the system says; nothing is left behind then.
    pub fn write(&self, path: &Path) -> io::Result<u64> {
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let written = self.archive(file);
        if written.is_err() {
            // The error that is told is the first one.
            let _gone = std::fs::remove_file(path).is_err();
        }
        written
    }

    fn archive(&self, file: std::fs::File) -> io::Result<u64> {
        let mut archive = zstd::stream::write::Encoder::new(file, LEVEL)?;
        let mtime = u64::try_from(self.time.seconds()).unwrap_or(0);
        let contents = self.contents();
        let first = std::iter::once(("CONTENTS.txt", contents.as_str()));
        for (name, text) in first.chain(self.parts.iter().map(|part| (part.name, part.text.as_str()))) {
            let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
            let header = tar::Header { name: format!("picket-bundle/{name}"), size, mtime };
            archive.write_all(&header.to_bytes().map_err(io::Error::other)?)?;
            archive.write_all(text.as_bytes())?;
            archive.write_all(&vec![0; tar::padding(size)])?;
        }
        archive.write_all(&tar::end())?;
        let file = archive.finish()?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }

    /// Where it goes when nobody says: here, by host and time.
    pub fn default_path(&self) -> PathBuf {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let host: String = host.chars().take(64).map(plain).collect();
        PathBuf::from(format!("picket-bundle-{host}-{}.tar.zst", self.time.seconds()))
    }
}

/// What only a running agent can tell.
fn running(collector: &mut Collector, case: &Case, findings: bool) {
    let Ok(status) = &case.status else {
        collector.left_out.push("status.json, metrics.txt: the agent is not running".to_owned());
        return;
    };
    let mut status = json!(status);
    if !findings {
        count_only(&mut status);
    }
    collector.json("status.json", "what agent status says", &status);
    match ask_once::<Vec<Family>>(&case.layout.socket(), &Request::Metrics {}) {
        Ok(families) => collector.put("metrics.txt", "the agent's figures", &to_text(&families)),
        Err(error) => collector.left_out.push(format!("metrics.txt: {error}")),
    }
}

/// What is in force names people, addresses and programs: how many there are is enough for most questions.
fn count_only(status: &mut Value) {
    for list in ["advice", "running", "in_force", "playbooks", "frozen"] {
        if let Some(list) = status.pointer_mut(&format!("/commands/{list}")) {
            *list = json!(list.as_array().map_or(0, Vec::len));
        }
    }
}

fn versions() -> Value {
    let facts = crate::sense::host::facts();
    json!({ "agent": env!("CARGO_PKG_VERSION"), "host": facts, "command_line": read_line("/proc/cmdline") })
}

fn read_line(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| crate::detect::files::redact::line(text.trim()))
}

fn ledger(collector: &mut Collector, case: &Case, findings: bool) {
    let reader = match Reader::open(&case.layout.database()) {
        Ok(reader) => reader,
        Err(error) => return collector.left_out.push(format!("ledger.json: {error}")),
    };
    let head = json!({
        "size": reader.size().ok(), "acknowledged": reader.acknowledged().ok(),
        "checkpoint": reader.latest_checkpoint().ok(), "cosigned": reader.cosigned().ok(),
        "head": reader.verify_head().map(|head| head.map_err(|problem| problem.to_string())).map_err(|e| e.to_string()),
    });
    collector.json("ledger.json", "the ledger's head, as signed and as cosigned", &head);
    if !findings {
        return;
    }
    let filter = RecordFilter {
        kind: Some(picket_protocol::record::Kind::Finding),
        limit: FINDINGS,
        ..RecordFilter::default()
    };
    match reader.records(&filter) {
        Ok(records) => {
            let text = records.iter().rev().map(|record| String::from_utf8_lossy(&record.bytes) + "\n");
            collector.put("findings.jsonl", "the newest findings, as sealed", &text.collect::<String>());
        }
        Err(error) => collector.left_out.push(format!("findings.jsonl: {error}")),
    }
}

/// Mode, owner, size and name of what lies below, two levels deep: where the agent keeps things.
fn listing(state: &Path) -> String {
    let mut text = String::new();
    let mut waiting = vec![(state.to_owned(), 0)];
    let mut listed = 0;
    while let Some((path, depth)) = waiting.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        listed += 1;
        if listed > LISTED_MAX {
            text.push_str("and more\n");
            break;
        }
        let mode = metadata.mode() & 0o7777;
        let name = picket_protocol::finding::printable(&path.display().to_string()).into_owned();
        text.push_str(&format!(
            "{mode:04o} {}:{} {:>12} {name}\n",
            metadata.uid(),
            metadata.gid(),
            metadata.len()
        ));
        if metadata.is_dir() && depth < 3 {
            let mut below: Vec<PathBuf> =
                std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            below.sort_by(|a, b| b.cmp(a));
            waiting.extend(below.into_iter().map(|path| (path, depth + 1)));
        }
    }
    text
}

fn log(collector: &mut Collector, case: &Case, file: Option<&Path>) {
    let about = "the last lines of the agent's log";
    let text = match file {
        Some(path) => end_of(path).map_err(|error| format!("{}: {error}", path.display())),
        None if case.is_of_the_unit() => {
            let count = LOG_LINES.to_string();
            let arguments = ["--unit", UNIT, "--lines", &count, "--no-pager", "--output", "short-iso"];
            program::run("journalctl", &arguments, None).map(|ran| ran.text)
        }
        None => Err("this agent is not the unit's; --log names its log".to_owned()),
    };
    match text {
        Ok(text) => {
            let all: Vec<&str> = text.lines().collect();
            let last = all.get(all.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
            collector.written("log.txt", about, &last.join("\n"));
        }
        Err(why) => collector.left_out.push(format!("log.txt: {why}")),
    }
}

/// The end of a file, from the beginning of a line.
fn end_of(path: &Path) -> io::Result<String> {
    let mut file = crate::layout::open_file(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(if length > LOG_BYTES {
        text.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_owned())
    } else {
        text
    })
}
