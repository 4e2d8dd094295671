//! Checks a rule file beyond its form: its samples, and that no message can be read as two outcomes.

use std::collections::BTreeSet;

use super::file::{PlacedSample, RuleProblem, Sample};
use super::overlap::{Steps, overlap, rivals};
use super::service::{ServiceRules, contradict};
use super::structured::Scratch;
use crate::sense::logins::parse::{Parsed, repeated_by};

/// Every problem that reading the file did not show.
pub fn check(rules: &ServiceRules) -> Vec<RuleProblem> {
    let mut problems: Vec<RuleProblem> =
        rules.samples.iter().filter_map(|sample| check_sample(rules, sample)).collect();
    problems.extend(check_overlaps(rules));
    problems.extend(untested(rules));
    problems.sort_by_key(|problem| problem.line);
    problems
}

/// Rules that contradict one another in some message.
fn check_overlaps(rules: &ServiceRules) -> Vec<RuleProblem> {
    let variants = rules.variants();
    let steps: Vec<Steps> = variants.iter().map(|(_, variant)| Steps::of(variant)).collect();
    let mut told = BTreeSet::new();
    rivals(&steps, |index, other_index| {
        let pair = || Some((variants.get(index)?.0, variants.get(other_index)?.0));
        let Some((first, second)) = pair().filter(|pair| !told.contains(pair)) else { return };
        let (Some(one), Some(other)) = (rules.rules().get(first), rules.rules().get(second)) else { return };
        let accepted = one.may_overlap || other.may_overlap;
        let apart = rules.is_line(index) != rules.is_line(other_index);
        let meet = || steps.get(index).zip(steps.get(other_index)).is_some_and(|(a, b)| overlap(a, b));
        if !accepted && !apart && contradict(one, other) && meet() {
            told.insert((first, second));
        }
    });
    let problem = |(first, second): &(usize, usize)| {
        let (one, other) = (rules.rules().get(*first)?, rules.rules().get(*second)?);
        let message = format!(
            "some message could match this rule and that of line {}, which says otherwise; make a field tighter \
             ({{account}} for {{user}}), or set may_overlap = true: then such a message tells nothing",
            one.line
        );
        Some(RuleProblem { line: other.line, message })
    };
    told.iter().filter_map(problem).collect()
}

/// Rules that no sample shows at work.
fn untested(rules: &ServiceRules) -> Vec<RuleProblem> {
    let mut problems = Vec::new();
    for rule in rules.rules() {
        let shown = rules.samples.iter().any(|placed| placed.sample.event == rule.kind.as_str());
        if !shown {
            let message = format!("no [[sample]] shows a {}; add a true message", rule.kind.as_str());
            problems.push(RuleProblem { line: rule.line, message });
        }
    }
    if !rules.samples.iter().any(|placed| placed.sample.event == "none") {
        let message = "no [[sample]] with event = \"none\": add a message that must not match".to_owned();
        problems.push(RuleProblem { line: 1, message });
    }
    problems
}

fn check_sample(rules: &ServiceRules, placed: &PlacedSample) -> Option<RuleProblem> {
    let sample = &placed.sample;
    let mut scratch = Scratch::default();
    let wrong = match (&sample.message, &sample.log) {
        (Some(message), None) => {
            let parsed = repeated_by(message.as_bytes(), |message| rules.message(message, &mut scratch));
            compare(sample, parsed.as_ref())
        }
        (None, Some(line)) => compare(sample, rules.line(line.as_bytes(), &mut scratch).as_ref()),
        _ => Err("a sample has either a message or a log".to_owned()),
    };
    wrong.err().map(|message| RuleProblem { line: placed.line, message })
}

fn compare(sample: &Sample, parsed: Option<&Parsed<'_>>) -> Result<(), String> {
    let Some(parsed) = parsed else {
        let nothing = sample.event == "none";
        return if nothing {
            Ok(())
        } else {
            Err(format!("the sample matches no rule, but {} is wanted", sample.event))
        };
    };
    if parsed.kind.as_str() != sample.event {
        return Err(format!(
            "the sample is read as {}, but {} is wanted",
            parsed.kind.as_str(),
            sample.event
        ));
    }
    if parsed.ambiguous != sample.ambiguous {
        return Err(format!("the sample is {}ambiguous", if parsed.ambiguous { "" } else { "not " }));
    }
    let found = described(parsed);
    for (name, wanted) in &sample.fields {
        let wanted = match wanted {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match found.iter().find(|(known, _)| known == name) {
            Some((_, found)) if *found == wanted => {}
            Some((_, found)) => return Err(format!("{name} is read as {found:?}, but {wanted:?} is wanted")),
            None => return Err(format!("{name} is not read, but {wanted:?} is wanted")),
        }
    }
    let excess = found.iter().find(|(name, _)| !sample.fields.contains_key(*name) && *name != "reason");
    match excess {
        Some((name, found)) => Err(format!("{name} is read as {found:?}, of which the sample says nothing")),
        None => Ok(()),
    }
}

/// The fields of a reading, by name.
fn described(parsed: &Parsed<'_>) -> Vec<(&'static str, String)> {
    let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let mut found = vec![
        ("user", text(parsed.user)),
        ("address", parsed.address.map(|address| address.to_string())),
        ("port", parsed.port.map(|port| port.to_string())),
        ("method", text(parsed.method)),
        ("key", text(parsed.key)),
        ("tty", text(parsed.tty)),
        ("target", text(parsed.target)),
        ("command", text(parsed.command)),
        ("reason", text(parsed.reason)),
        ("request", text(parsed.request)),
        ("status", parsed.status.map(|status| status.to_string())),
    ];
    if parsed.repeats != 1 {
        found.push(("repeats", Some(parsed.repeats.to_string())));
    }
    found.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
