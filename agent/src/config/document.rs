//! Walks a TOML tree key by key, keeps the line of everything, and gathers all problems instead of stopping at
//! the first.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;
use super::units::{format_duration, format_size, parse_duration, parse_size};

/// A whole file: its problems so far, and where its lines begin.
pub(super) struct Document<'i> {
    text: &'i str,
    problems: RefCell<Vec<Problem>>,
}

/// A table of the file, read key by key; what nobody asked for is reported by [`Section::finish`].
pub(super) struct Section<'a, 'i> {
    document: &'a Document<'i>,
    name: &'static str,
    table: Option<&'a DeTable<'i>>,
    asked: BTreeSet<&'static str>,
}

impl<'i> Document<'i> {
    pub(super) fn new(text: &'i str) -> Self {
        Self { text, problems: RefCell::default() }
    }

    /// Parses the text; syntax errors become problems.
    pub(super) fn parse(&self) -> DeTable<'i> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            self.report(error.span().unwrap_or(0..0), String::new(), error.message().to_owned());
        }
        root.into_inner()
    }

    pub(super) fn report(&self, at: Range<usize>, key: String, message: String) {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        self.problems.borrow_mut().push(Problem { line, key, message });
    }

    /// Every problem, by line.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by(|a, b| (a.line, &a.key).cmp(&(b.line, &b.key)));
        problems
    }

    /// The top of the file.
    pub(super) fn top<'a>(&'a self, table: &'a DeTable<'i>) -> Section<'a, 'i> {
        Section { document: self, name: "", table: Some(table), asked: BTreeSet::new() }
    }
}

impl<'a, 'i> Section<'a, 'i> {
    /// The table `[name]`, empty when it is absent.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'a, 'i> {
        self.section_called(name, name)
    }

    /// The table at `key`, whose dotted name is `name`.
    pub(super) fn section_called(&mut self, key: &'static str, name: &'static str) -> Section<'a, 'i> {
        let value = self.take(key);
        let table = value.and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                self.problem(value.span(), key, format!("must be a table, not {}", article(other)));
                None
            }
        });
        Section { document: self.document, name, table, asked: BTreeSet::new() }
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        self.value(key, default, |value| value.as_bool().ok_or_else(|| "must be true or false".to_owned()))
    }

    /// A text that `check` turns into what it stands for, or says what would be accepted.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        default: T,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        self.value(key, default, |value| check(value.as_str().ok_or("must be a text in quotes")?))
    }

    /// As [`Section::text`] for up to `count_max` of them; each bad one is a problem of its own.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        default: Vec<T>,
        count_max: usize,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let text = |value: &DeValue<'i>| {
            check(value.as_str().ok_or_else(|| "must hold texts in quotes only".to_owned())?)
        };
        self.list(key, default, count_max, "must be a list of texts in quotes", text)
    }

    /// As [`Section::texts`] for what is not always a text; `must` says what the list holds.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        default: Vec<T>,
        count_max: usize,
        must: &str,
        check: impl Fn(&DeValue<'i>) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(value) = self.take(key) else { return default };
        let DeValue::Array(items) = value.get_ref() else {
            self.problem(value.span(), key, must.to_owned());
            return default;
        };
        if items.len() > count_max {
            self.problem(
                value.span(),
                key,
                format!("has {} entries; up to {count_max} are accepted", items.len()),
            );
            return default;
        }
        let mut out = Vec::with_capacity(items.len());
        for item in items.iter() {
            match check(item.get_ref()) {
                Ok(checked) => out.push(checked),
                Err(message) => self.problem(item.span(), key, message),
            }
        }
        out
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let accepted = between(format_duration(*range.start()), format_duration(*range.end()));
        self.value(key, default, |value| {
            let parsed = value.as_str().and_then(parse_duration);
            parsed.filter(|parsed| range.contains(parsed)).ok_or_else(|| {
                format!("must be a duration such as \"{}\", {accepted}", format_duration(default))
            })
        })
    }

    pub(super) fn number(&mut self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let accepted = between(range.start(), range.end());
        self.value(key, default, |value| {
            let integer = value.as_integer();
            let parsed =
                integer.and_then(|integer| u32::from_str_radix(integer.as_str(), integer.radix()).ok());
            parsed
                .filter(|parsed| range.contains(parsed))
                .ok_or_else(|| format!("must be a whole number such as {default}, {accepted}"))
        })
    }

    pub(super) fn size(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let accepted = between(format_size(*range.start()), format_size(*range.end()));
        self.value(key, default, |value| {
            let parsed = value.as_str().and_then(parse_size);
            parsed
                .filter(|parsed| range.contains(parsed))
                .ok_or_else(|| format!("must be a size such as \"{}\", {accepted}", format_size(default)))
        })
    }

    /// Reports a problem of `key` at the place where it stands (the top of the file when it is absent).
    pub(super) fn reject(&self, key: &'static str, message: String) {
        let span = self.table.and_then(|table| find(table, key)).map_or(0..0, |(name, _)| name.span());
        self.problem(span, key, message);
    }

    /// Reports what stands in the table and was never asked for.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        let mut known: Vec<&str> = self.asked.iter().copied().collect();
        known.sort_unstable();
        for (name, _) in table {
            if !self.asked.contains(name.get_ref().as_ref()) {
                let message = format!("unknown key; known here: {}", known.join(", "));
                let key = printable_key(name.get_ref());
                self.document.report(name.span(), self.dotted(&key), message);
            }
        }
    }

    fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&DeValue<'i>) -> Result<T, String>,
    ) -> T {
        let Some(value) = self.take(key) else { return default };
        read(value.get_ref()).unwrap_or_else(|message| {
            self.problem(value.span(), key, message);
            default
        })
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.asked.insert(key);
        self.table.and_then(|table| find(table, key)).map(|(_, value)| value)
    }

    fn problem(&self, at: Range<usize>, key: &str, message: String) {
        self.document.report(at, self.dotted(key), message);
    }

    fn dotted(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

type Found<'a, 'i> = (&'a Spanned<toml::de::DeString<'i>>, &'a Spanned<DeValue<'i>>);

fn find<'a, 'i>(table: &'a DeTable<'i>, key: &str) -> Option<Found<'a, 'i>> {
    table.iter().find(|(name, _)| name.get_ref() == key)
}

fn between(from: impl Display, to: impl Display) -> String {
    format!("from {from} to {to}")
}

fn article(value: &DeValue<'_>) -> String {
    format!("a value of type {}", value.type_str())
}

fn printable_key(key: &str) -> String {
    picket_protocol::finding::printable(&key.chars().take(100).collect::<String>()).into_owned()
}
