//! The rules of one service, ready to read its messages.

use serde::Deserialize;

use super::super::{Parsed, REPEATS_MAX, address, number, sshd, su, sudo};
use super::file::PlacedSample;
use super::matcher::{Fields, Matcher};
use super::pattern::{Capture, Variant};
use super::structured::Scratch;
use crate::sense::logins::event::{LoginKind, Reporter};

/// How the service writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Sentences.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// `key=value key="value"`.
    Logfmt,
}

/// Which messages a rule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Where {
    /// Those in syslog or the journal as well as those in the service's own logs.
    #[default]
    Both,
    /// Only the former.
    Message,
    /// Only the latter.
    Log,
}

/// Who may speak for the service in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sender {
    /// Executables, by path, or by name where there is no slash; none means any.
    #[serde(default)]
    pub executables: Vec<String>,
    /// Whether only root's processes may, when the executable is not known. Default true.
    pub root: Option<bool>,
}

/// A parser that is written in Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// OpenSSH's.
    Sshd,
    /// util-linux's and shadow's.
    Su,
    /// sudo's.
    Sudo,
}

impl Builtin {
    /// By the name in rule files.
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "builtin:sshd" => Some(Self::Sshd),
            "builtin:su" => Some(Self::Su),
            "builtin:sudo" => Some(Self::Sudo),
            _ => None,
        }
    }

    fn parse(self, message: &[u8]) -> Option<Parsed<'_>> {
        match self {
            Self::Sshd => sshd::parse(message),
            Self::Su => su::parse(message),
            Self::Sudo => sudo::parse(message),
        }
    }
}

/// What a rule makes of a message.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What happened.
    pub kind: LoginKind,
    /// Who says so.
    pub reporter: Reporter,
    /// What is known without reading.
    pub set: Vec<(Capture, Box<[u8]>)>,
    /// Where it stands in its file, counted from 1.
    pub line: usize,
    /// Another rule with another outcome may match the same message: then neither is believed.
    pub may_overlap: bool,
}

/// Matchers by the first byte of the message.
#[derive(Debug, Default)]
struct Dispatch {
    matchers: Vec<(usize, Matcher)>,
    /// By first byte; those that begin with a field are in all.
    by_first: Vec<Vec<u16>>,
}

/// One structured rule: each key's value must match one of its variants.
type Keys = Vec<(String, Vec<Matcher>)>;

/// The rules of one service.
#[derive(Debug)]
pub struct ServiceRules {
    /// Its name.
    pub name: String,
    /// Its programs, as in syslog tags; `*` is every program that has no file of its own.
    pub programs: Vec<String>,
    /// Its own logs.
    pub logs: Vec<String>,
    /// How it writes.
    pub format: Format,
    /// Instead of rules.
    pub builtin: Option<Builtin>,
    /// Who may speak for it.
    pub sender: Sender,
    /// Longest message that is believed.
    pub message_bytes_max: usize,
    /// Longest line of its own logs that is believed.
    pub line_bytes_max: usize,
    /// Its samples.
    pub samples: Vec<PlacedSample>,
    rules: Vec<Rule>,
    messages: Dispatch,
    lines: Dispatch,
    structured: Vec<(usize, Keys)>,
    /// The variants as they were compiled, for the check of overlaps and for tests.
    variants: Vec<(usize, Variant)>,
    /// Which of them are for lines of the service's own logs.
    of_lines: Vec<bool>,
}

impl Dispatch {
    fn add(&mut self, rule: usize, variant: Variant) {
        let matcher = Matcher::new(variant);
        let Ok(index) = u16::try_from(self.matchers.len()) else { return };
        if self.by_first.is_empty() {
            self.by_first = vec![Vec::new(); 256];
        }
        let first = matcher.first_literal().first().copied();
        for (byte, list) in (0..=u8::MAX).zip(&mut self.by_first) {
            if first.is_none_or(|first| first == byte) {
                list.push(index);
            }
        }
        self.matchers.push((rule, matcher));
    }

    fn candidates(&self, message: &[u8]) -> impl Iterator<Item = &(usize, Matcher)> {
        let first = message.first().map_or(0, |byte| usize::from(*byte));
        let list = self.by_first.get(first).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|index| self.matchers.get(usize::from(*index)))
    }
}

/// A message as it was read, by one rule or by several that agree.
struct Reading<'a> {
    fields: Fields<'a>,
    kind: LoginKind,
    reporter: Reporter,
}

impl ServiceRules {
    /// Without rules yet.
    pub fn new(
        name: String,
        programs: Vec<String>,
        logs: Vec<String>,
        format: Format,
        builtin: Option<Builtin>,
        sender: Sender,
    ) -> Self {
        Self {
            name,
            programs,
            logs,
            format,
            builtin,
            sender,
            message_bytes_max: 0,
            line_bytes_max: 0,
            samples: Vec::new(),
            rules: Vec::new(),
            messages: Dispatch::default(),
            lines: Dispatch::default(),
            structured: Vec::new(),
            variants: Vec::new(),
            of_lines: Vec::new(),
        }
    }

    /// Adds a rule; gives its number.
    pub fn add_rule(&mut self, rule: Rule) -> usize {
        self.rules.push(rule);
        self.rules.len() - 1
    }

    /// Adds a variant for messages.
    pub fn add_message(&mut self, rule: usize, variant: Variant) {
        self.variants.push((rule, variant.clone()));
        self.of_lines.push(false);
        self.messages.add(rule, variant);
    }

    /// Adds a variant for lines of the service's own logs.
    pub fn add_log(&mut self, rule: usize, variant: Variant) {
        self.variants.push((rule, variant.clone()));
        self.of_lines.push(true);
        self.lines.add(rule, variant);
    }

    /// Adds a structured rule.
    pub fn add_structured(&mut self, rule: usize, keys: Keys) {
        self.structured.push((rule, keys));
    }

    /// Forgets what only checks need, which is more than what reading needs.
    pub fn compact(&mut self) {
        self.variants = Vec::new();
        self.of_lines = Vec::new();
        self.samples = Vec::new();
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Every variant with its rule's number.
    pub fn variants(&self) -> &[(usize, Variant)] {
        &self.variants
    }

    /// Whether the variant with this index is for lines of the service's own logs.
    pub fn is_line(&self, variant: usize) -> bool {
        self.of_lines.get(variant) == Some(&true)
    }

    /// Whether it is for messages of `program`.
    pub fn speaks_as(&self, program: &[u8]) -> bool {
        self.programs.iter().any(|known| known.as_bytes() == program)
    }

    /// Reads a message of syslog or the journal.
    pub fn message<'a>(&'a self, message: &'a [u8], scratch: &'a mut Scratch) -> Option<Parsed<'a>> {
        match self.format {
            Format::Text => self.text_message(message),
            format => self.may_be(message).then(|| self.values(scratch.read(format, message)?))?,
        }
    }

    /// Reads a line of the service's own log.
    pub fn line<'a>(&'a self, line: &'a [u8], scratch: &'a mut Scratch) -> Option<Parsed<'a>> {
        match self.format {
            Format::Text => self.text_line(line),
            format => self.may_be(line).then(|| self.values(scratch.read(format, line)?))?,
        }
    }

    /// As [`Self::message`], where the service writes sentences.
    pub fn text_message<'a>(&'a self, message: &'a [u8]) -> Option<Parsed<'a>> {
        match self.builtin {
            Some(builtin) => builtin.parse(message),
            None => self.text(&self.messages, message, self.message_bytes_max),
        }
    }

    /// As [`Self::line`], where the service writes sentences.
    pub fn text_line<'a>(&'a self, line: &'a [u8]) -> Option<Parsed<'a>> {
        self.text(&self.lines, line, self.line_bytes_max)
    }

    fn text<'a>(&'a self, dispatch: &'a Dispatch, message: &'a [u8], bytes_max: usize) -> Option<Parsed<'a>> {
        let mut reading: Option<Reading<'a>> = None;
        for (rule, matcher) in dispatch.candidates(message) {
            let Some(mut fields) = matcher.read(message) else { continue };
            if message.len() > bytes_max && matcher.has_text() {
                // It may have been cut, and then its end is what a peer chose.
                fields.forget();
            }
            self.merge(&mut reading, *rule, fields);
        }
        self.finish(&reading?)
    }

    /// Whether a structured message has the keys of some rule; cheaper than to take it apart.
    pub fn may_be(&self, message: &[u8]) -> bool {
        let likely = |keys: &Keys| {
            keys.iter().all(|(key, _)| {
                let top = key.split('.').next().unwrap_or(key);
                memchr::memmem::find(message, top.as_bytes()).is_some()
            })
        };
        self.structured.iter().any(|(_, keys)| likely(keys))
    }

    /// Reads a structured message that was taken apart.
    pub fn values<'a>(&'a self, values: &'a [(String, Vec<u8>)]) -> Option<Parsed<'a>> {
        let mut reading: Option<Reading<'a>> = None;
        for (rule, keys) in &self.structured {
            if let Some(fields) = read_keys(keys, values) {
                self.merge(&mut reading, *rule, fields);
            }
        }
        self.finish(&reading?)
    }

    fn merge<'a>(&'a self, reading: &mut Option<Reading<'a>>, rule: usize, mut fields: Fields<'a>) {
        let Some(rule) = self.rules.get(rule) else { return };
        for (capture, value) in &rule.set {
            fields.set(*capture, value);
        }
        match reading {
            None => *reading = Some(Reading { fields, kind: rule.kind, reporter: rule.reporter }),
            Some(reading) => {
                reading.fields.share(&fields);
                if let Some(kind) = common(reading.kind, rule.kind) {
                    reading.kind = kind;
                } else {
                    reading.kind = LoginKind::Probe;
                    reading.fields.forget();
                }
            }
        }
    }

    fn finish<'a>(&'a self, reading: &Reading<'a>) -> Option<Parsed<'a>> {
        let Reading { fields, kind, reporter } = reading;
        let text = |capture| fields.get(capture).filter(|text| !text.is_empty());
        let service = text(Capture::Service).and_then(|name| std::str::from_utf8(name).ok());
        let (address, port) = match text(Capture::Peer) {
            Some(text) => super::peer(text)?,
            None => {
                let port = text(Capture::Port)
                    .map(|digits| number(digits).and_then(|port| u16::try_from(port).ok()));
                (text(Capture::Address).and_then(address), port.flatten())
            }
        };
        let web = *kind == LoginKind::WebRequest;
        let status = text(Capture::Status).and_then(number).and_then(|status| u16::try_from(status).ok());
        let repeats = text(Capture::Repeats).and_then(number).unwrap_or(1).clamp(1, REPEATS_MAX);
        Some(Parsed {
            user: fields.get(Capture::User).filter(|user| !(web && matches!(*user, b"-" | b""))),
            address,
            port,
            method: text(Capture::Method),
            key: text(Capture::Key),
            tty: text(Capture::Tty),
            target: text(Capture::Target),
            command: text(Capture::Command),
            reason: text(Capture::Reason),
            request: text(Capture::Request).map(without_version),
            status,
            repeats,
            ambiguous: fields.ambiguous,
            time: fields.time(),
            pid: text(Capture::Pid).and_then(number),
            ..Parsed::new(*kind, service.unwrap_or(&self.name), *reporter)
        })
    }

    /// How far each rule got with a message or line, the furthest first; for people.
    pub fn explain(&self, text: &[u8], own_log: bool) -> Vec<(usize, usize, String)> {
        let dispatch = if own_log { &self.lines } else { &self.messages };
        let mut reached: Vec<(usize, usize, String)> = dispatch
            .matchers
            .iter()
            .filter_map(|(rule, matcher)| {
                let (bytes, why) = matcher.explain(text);
                Some((bytes, self.rules.get(*rule)?.line, why))
            })
            .collect();
        reached.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        reached.dedup_by_key(|(_, line, _)| *line);
        reached
    }
}

fn read_keys<'a>(keys: &'a Keys, values: &'a [(String, Vec<u8>)]) -> Option<Fields<'a>> {
    let mut all = Fields::default();
    for (key, variants) in keys {
        let mut found = values.iter().filter(|(known, _)| known == key);
        let (_, value) = found.next()?;
        if found.next().is_some() {
            // Twice: whose is it?
            return None;
        }
        let mut readings = variants.iter().filter_map(|variant| variant.read(value));
        let first = readings.next()?;
        all.add(&readings.fold(first, |mut reading, other| {
            reading.share(&other);
            reading
        }));
    }
    Some(all)
}

/// What two outcomes have in common; none when one denies the other.
fn common(a: LoginKind, b: LoginKind) -> Option<LoginKind> {
    use LoginKind::{Failure, InvalidUser};
    match (a, b) {
        _ if a == b => Some(a),
        (Failure | InvalidUser, Failure | InvalidUser) => Some(Failure),
        _ => None,
    }
}

/// Whether two rules may not match the same message.
pub fn contradict(a: &Rule, b: &Rule) -> bool {
    common(a.kind, b.kind).is_none()
}

/// `GET /path HTTP/1.1` without the version.
fn without_version(request: &[u8]) -> &[u8] {
    match memchr::memrchr(b' ', request) {
        Some(at) if request.get(at + 1..).is_some_and(|version| version.starts_with(b"HTTP/")) => {
            request.get(..at).unwrap_or(request)
        }
        _ => request,
    }
}
