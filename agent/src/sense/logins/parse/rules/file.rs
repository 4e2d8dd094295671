//! Rule files as people write them: TOML, checked into a [`ServiceRules`], with every problem by line.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::matcher::Matcher;
use super::pattern::{Capture, Variant, compile, compile_value};
use super::service::{Builtin, Format, Rule, Sender, ServiceRules, Where};
use crate::sense::logins::event::{LoginKind, Reporter};

/// Largest rule file.
pub const FILE_BYTES_MAX: usize = 128 * 1024;
/// Most rules of a file.
pub const RULES_MAX: usize = 128;
/// Most samples of a file.
pub const SAMPLES_MAX: usize = 512;
/// Most programs, logs or prefixes of a file.
const NAMES_MAX: usize = 32;
/// Longest message that is believed where the file does not say: syslog senders cut at 1,024 bytes and above, and then the
/// end of the message is no longer the program's.
const MESSAGE_BYTES_MAX_DEFAULT: usize = 1_000;
/// As above, for logs that the program writes itself.
const LINE_BYTES_MAX_DEFAULT: usize = 7_168;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RuleProblem {
    /// Counted from 1.
    pub line: usize,
    /// What, and what to do.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    service: Spanned<String>,
    #[serde(default)]
    programs: Vec<Spanned<String>>,
    #[serde(default)]
    logs: Vec<Spanned<String>>,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    prefixes: Vec<Spanned<String>>,
    #[serde(default)]
    message_prefixes: Vec<Spanned<String>>,
    parser: Option<Spanned<String>>,
    message_bytes_max: Option<Spanned<usize>>,
    #[serde(default)]
    sender: Sender,
    #[serde(default)]
    rule: Vec<Spanned<RawRule>>,
    #[serde(default)]
    sample: Vec<Spanned<Sample>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    event: LoginKind,
    #[serde(default = "service_reports")]
    reporter: Reporter,
    pattern: Option<Spanned<String>>,
    #[serde(default)]
    keys: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    set: BTreeMap<String, Spanned<String>>,
    #[serde(default, rename = "where")]
    place: Where,
    #[serde(default)]
    may_overlap: bool,
}

fn service_reports() -> Reporter {
    Reporter::Service
}

/// A message that the file says what it means, or that it means nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Sample {
    /// The message, behind the program's name.
    pub message: Option<String>,
    /// A line of the service's own log instead.
    pub log: Option<String>,
    /// The program, where it is not the first.
    pub program: Option<String>,
    /// What happened; `none` when nothing.
    pub event: String,
    /// The reading must be ambiguous.
    #[serde(default)]
    pub ambiguous: bool,
    /// The fields, all of those that the event has.
    #[serde(flatten)]
    pub fields: BTreeMap<String, toml::Value>,
}

/// A sample and where it stands.
#[derive(Clone, Debug)]
pub struct PlacedSample {
    /// Counted from 1.
    pub line: usize,
    /// The sample.
    pub sample: Sample,
}

/// Reads a file. What it gives is as usable as the problems permit: none only when it is no such file at all.
pub fn read(text: &str) -> (Option<ServiceRules>, Vec<RuleProblem>) {
    let mut reader = Reader { text, problems: Vec::new() };
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file is {} bytes long; up to {FILE_BYTES_MAX} are accepted", text.len());
        return (None, vec![RuleProblem { line: 1, message }]);
    }
    let rules = match toml::from_str::<RawFile>(text) {
        Ok(raw) => Some(reader.file(raw)),
        Err(error) => {
            reader.report(error.span().unwrap_or(0..0), error.message().to_owned());
            None
        }
    };
    reader.problems.sort_by_key(|problem| problem.line);
    (rules, reader.problems)
}

/// What stands before every message of a service.
struct Prefixes {
    /// In its own logs.
    lines: Vec<String>,
    /// In syslog and the journal, for programs that write their own time there too. An empty one is none at all.
    messages: Vec<String>,
}

/// The prefixes, or the one that is empty.
fn or_bare(prefixes: &[String]) -> impl Iterator<Item = &str> {
    let bare = prefixes.is_empty().then_some("");
    bare.into_iter().chain(prefixes.iter().map(String::as_str))
}

struct Reader<'a> {
    text: &'a str,
    problems: Vec<RuleProblem>,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }

    fn report(&mut self, at: Range<usize>, message: String) {
        let line = self.line(at.start);
        self.problems.push(RuleProblem { line, message });
    }

    fn file(&mut self, raw: RawFile) -> ServiceRules {
        if !is_name(raw.service.get_ref()) {
            self.report(raw.service.span(), "service must be 1 to 32 letters, digits and dashes".to_owned());
        }
        let builtin = raw.parser.as_ref().and_then(|parser| {
            let builtin = Builtin::of_name(parser.get_ref());
            if builtin.is_none() {
                self.report(
                    parser.span(),
                    "parser must be one of builtin:sshd, builtin:su, builtin:sudo".to_owned(),
                );
            }
            builtin
        });
        let programs = self.names(&raw.programs, "programs");
        let logs = self.names(&raw.logs, "logs");
        for log in raw.logs.iter().filter(|log| !log.get_ref().starts_with('/')) {
            self.report(log.span(), "a log must be an absolute path, which may have * in it".to_owned());
        }
        if programs.is_empty() && logs.is_empty() {
            self.report(
                0..0,
                "names neither programs nor logs, so nothing would ever be read by it".to_owned(),
            );
        }
        let prefixes = Prefixes {
            lines: self.names(&raw.prefixes, "prefixes"),
            messages: self.names(&raw.message_prefixes, "message_prefixes"),
        };
        if raw.rule.len() > RULES_MAX || raw.sample.len() > SAMPLES_MAX {
            self.report(0..0, format!("up to {RULES_MAX} rules and {SAMPLES_MAX} samples are accepted"));
        }
        if raw.rule.is_empty() && builtin.is_none() {
            self.report(0..0, "has no [[rule]]".to_owned());
        }
        let mut rules =
            ServiceRules::new(raw.service.into_inner(), programs, logs, raw.format, builtin, raw.sender);
        rules.message_bytes_max =
            raw.message_bytes_max.map_or(MESSAGE_BYTES_MAX_DEFAULT, Spanned::into_inner);
        rules.line_bytes_max = rules.message_bytes_max.max(LINE_BYTES_MAX_DEFAULT);
        for rule in raw.rule.into_iter().take(RULES_MAX) {
            self.rule(rule, &prefixes, &mut rules);
        }
        for sample in raw.sample.into_iter().take(SAMPLES_MAX) {
            let line = self.line(sample.span().start);
            rules.samples.push(PlacedSample { line, sample: sample.into_inner() });
        }
        rules
    }

    fn names(&mut self, names: &[Spanned<String>], key: &str) -> Vec<String> {
        if let Some(excess) = names.get(NAMES_MAX) {
            self.report(
                excess.span(),
                format!("{key} has {} entries; up to {NAMES_MAX} are accepted", names.len()),
            );
        }
        let may_be_empty = key == "message_prefixes";
        if let Some(empty) = names.iter().find(|name| !may_be_empty && name.get_ref().is_empty()) {
            self.report(empty.span(), format!("{key} has an empty entry"));
        }
        names.iter().take(NAMES_MAX).map(|name| name.get_ref().clone()).collect()
    }

    fn rule(&mut self, raw: Spanned<RawRule>, prefixes: &Prefixes, rules: &mut ServiceRules) {
        let span = raw.span();
        let line = self.line(span.start);
        let raw = raw.into_inner();
        let set = self.constants(&raw.set);
        let id = rules.add_rule(Rule {
            kind: raw.event,
            reporter: raw.reporter,
            set,
            line,
            may_overlap: raw.may_overlap,
        });
        let structured = rules.format != Format::Text;
        match (raw.pattern, structured) {
            (Some(pattern), false) if raw.keys.is_empty() => {
                if raw.place != Where::Log {
                    for prefix in or_bare(&prefixes.messages) {
                        self.compile(&pattern, prefix, |variant| rules.add_message(id, variant));
                    }
                }
                if raw.place != Where::Message && !rules.logs.is_empty() {
                    for prefix in or_bare(&prefixes.lines) {
                        self.compile(&pattern, prefix, |variant| rules.add_log(id, variant));
                    }
                }
            }
            (None, true) if !raw.keys.is_empty() => self.keys(id, raw.keys, rules),
            (_, false) => self.report(span, "a rule of a text format has a pattern and no keys".to_owned()),
            (_, true) => {
                self.report(span, "a rule of a structured format has keys and no pattern".to_owned())
            }
        }
    }

    fn compile(&mut self, pattern: &Spanned<String>, prefix: &str, mut add: impl FnMut(Variant)) {
        let prefix = &without_address(prefix, pattern.get_ref());
        match compile(&format!("{prefix}{}", pattern.get_ref())) {
            Ok(variants) => variants.into_iter().for_each(&mut add),
            Err(why) => {
                let behind =
                    if prefix.is_empty() { String::new() } else { format!(" behind the prefix {prefix:?}") };
                self.report(pattern.span(), format!("the pattern{behind} {why}"));
            }
        }
    }

    fn keys(&mut self, id: usize, keys: BTreeMap<String, Spanned<String>>, rules: &mut ServiceRules) {
        let mut values = Vec::new();
        for (key, pattern) in keys {
            match compile_value(pattern.get_ref()) {
                Ok(variants) => values.push((key, variants.into_iter().map(Matcher::new).collect())),
                Err(why) => self.report(pattern.span(), format!("the pattern of {key} {why}")),
            }
        }
        rules.add_structured(id, values);
    }

    fn constants(&mut self, set: &BTreeMap<String, Spanned<String>>) -> Vec<(Capture, Box<[u8]>)> {
        let mut constants = Vec::new();
        for (name, value) in set {
            let capture = match name.as_str() {
                "user" => Capture::User,
                "method" => Capture::Method,
                "target" => Capture::Target,
                "reason" => Capture::Reason,
                _ => {
                    self.report(
                        value.span(),
                        format!("set has {name}; it may have user, method, target and reason"),
                    );
                    continue;
                }
            };
            constants.push((capture, value.get_ref().as_bytes().into()));
        }
        constants
    }
}

/// The prefix; where the rule itself knows the address, that of the prefix is not kept.
fn without_address(prefix: &str, pattern: &str) -> String {
    let knows = ["{host", "{address", "{peer"].iter().any(|field| pattern.contains(field));
    if knows {
        prefix.replace("{host}", "{word:host}").replace("{address}", "{word:address}")
    } else {
        prefix.to_owned()
    }
}

fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
