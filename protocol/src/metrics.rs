//! Figures for monitoring systems, in the text format of Prometheus (0.0.4), which node-exporter's textfile collector and most others read.
//!
//! What the format asks for holds of every text: each family has its HELP and its TYPE line before its samples, and values of labels and
//! help are escaped, so that whatever they hold stays one line.
//!
//! Figures are in base units (seconds, bytes); what only grows ends in `_total`. Times are given as times, never as ages: what reads them
//! knows how late it is.

use std::fmt::Write as _;

use crate::time::Timestamp;

/// What kind of figure a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricKind {
    /// Only grows; starts anew with the program, where the help does not say otherwise.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One figure of a family.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Sample {
    /// Names and values that tell it from the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(String, String)>,
    /// The figure.
    pub value: f64,
}

impl Sample {
    /// The only figure of its family.
    pub fn plain(value: f64) -> Self {
        Self { labels: Vec::new(), value }
    }

    /// One of several.
    pub fn labelled(labels: &[(&str, &str)], value: f64) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { labels, value }
    }
}

/// Figures of one name.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Family {
    /// The name.
    pub name: String,
    /// What it is, in a sentence.
    pub help: String,
    /// What kind of figure.
    pub kind: MetricKind,
    /// The figures; none where there is nothing to tell.
    pub samples: Vec<Sample>,
}

/// Families of one program, put together one by one.
#[derive(Clone, Debug)]
pub struct Book {
    prefix: &'static str,
    families: Vec<Family>,
}

impl Book {
    /// An empty one; all names begin with `prefix`.
    pub fn new(prefix: &'static str) -> Self {
        Self { prefix, families: Vec::new() }
    }

    /// A family of several figures, or of none.
    pub fn add(&mut self, name: &str, kind: MetricKind, help: &str, samples: Vec<Sample>) {
        let name = format!("{}{name}", self.prefix);
        self.families.push(Family { name, help: help.to_owned(), kind, samples });
    }

    /// A figure that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.add(name, MetricKind::Gauge, help, vec![Sample::plain(value)]);
    }

    /// A figure that only grows.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.add(name, MetricKind::Counter, help, vec![Sample::plain(number(value))]);
    }

    /// A time, where there is one.
    pub fn time(&mut self, name: &str, help: &str, time: Option<Timestamp>) {
        let samples = time.map(|time| Sample::plain(seconds(time))).into_iter().collect();
        self.add(name, MetricKind::Gauge, help, samples);
    }

    /// All of it, in the order in which it was put together.
    pub fn into_families(self) -> Vec<Family> {
        self.families
    }
}

/// The families as text. Those without a figure are left out.
pub fn to_text(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let kind = match family.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
        };
        let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String cannot fail.
        let _written = writeln!(text, "# HELP {0} {help}\n# TYPE {0} {kind}", family.name).is_ok();
        for sample in &family.samples {
            let labels: Vec<String> = sample.labels.iter().map(|(name, value)| label(name, value)).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _written = writeln!(text, "{}{labels} {}", family.name, sample.value).is_ok();
        }
    }
    text
}

fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// 1 or 0.
pub fn truth(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// Exact up to 2^53, which no figure here reaches.
#[expect(clippy::cast_precision_loss, reason = "the format knows nothing but floating-point numbers")]
pub fn number(value: u64) -> f64 {
    value as f64
}

/// Seconds since 1970, to the millisecond.
#[expect(clippy::cast_precision_loss, reason = "to the microsecond, which is more than anybody asks")]
pub fn seconds(time: Timestamp) -> f64 {
    (time.nanos() / 1_000_000) as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_labels_and_help_are_escaped() {
        let family = Family {
            name: "picket_agent_x".to_owned(),
            help: "a\nb\\c".to_owned(),
            kind: MetricKind::Gauge,
            samples: vec![Sample::labelled(&[("state", "a\"b\\c\nd")], 1.0)],
        };
        let empty = Family { samples: Vec::new(), ..family.clone() };
        assert_eq!(
            to_text(&[family, empty]),
            "# HELP picket_agent_x a\\nb\\\\c\n# TYPE picket_agent_x gauge\npicket_agent_x{state=\"a\\\"b\\\\c\\nd\"} 1\n"
        );
    }

    #[test]
    fn whole_numbers_and_times_are_written_plainly() {
        assert_eq!(number(1_234_567_890_123).to_string(), "1234567890123");
        let time = Timestamp::parse("2026-11-29T21:10:00.25Z").expect("a time");
        assert_eq!(seconds(time).to_string(), "1795986600.25");
    }
}
