//! Templates of playbooks: TOML with parameters, as `soc playbook show` prints them.
//!
//! ```toml
//! name = "contain-stolen-account"
//! summary = "one sentence"
//! [parameters.user]              # text, number, time, list (separated by commas) or networks
//! type = "text"
//! help = "one sentence"
//! optional = true                # or default = "…"; else it must be given
//! [[steps]]
//! name = "freeze"
//! action = "freeze-account"      # with its members below `with`, in which "$user" stands for the parameter
//! with = { user = "$user" }      # a table in it is left out when a parameter in that is not given
//! needs = ["user"]               # left out when one of these is not given, or an empty list
//! when = "always"                # or succeeded STEP, failed STEP, found RULE within 1h, not-found RULE within 1h
//! lease = "$lease"               # what the command line says, or a period; none where the action takes none
//! timeout = "40s"
//! otherwise = "go-on"            # or stop
//! ```
//!
//! A condition on a step that was left out holds like one on a step that failed: nothing was done for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use picket_protocol::command::Action;
use picket_protocol::finding::printable;
use picket_protocol::playbook::{Condition, Otherwise, Step};
use picket_protocol::time::Timestamp;
use serde_json::{Map, Value, json};

use super::super::error::SocError;
use super::super::networks;
use super::super::period::parse_period;
use super::super::screen::Screen;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Template {
    name: String,
    summary: String,
    #[serde(default)]
    parameters: BTreeMap<String, Parameter>,
    steps: Vec<Draft>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameter {
    #[serde(rename = "type")]
    kind: Kind,
    help: String,
    #[serde(default)]
    optional: bool,
    default: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Text,
    Number,
    Time,
    List,
    Networks,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Draft {
    name: String,
    action: String,
    #[serde(default)]
    with: Map<String, Value>,
    #[serde(default)]
    needs: Vec<String>,
    #[serde(default = "always")]
    when: String,
    lease: Option<String>,
    timeout: String,
    otherwise: Otherwise,
}

fn always() -> String {
    "always".to_owned()
}

/// What is wrong, in the template's own words.
fn wrong(what: impl std::fmt::Display) -> SocError {
    SocError::Usage(format!("the playbook's template: {}", printable(&what.to_string())))
}

impl Template {
    /// Reads one.
    pub(super) fn parse(text: &str) -> Result<Self, SocError> {
        let template: Self = toml::from_str(text).map_err(wrong)?;
        for step in &template.steps {
            let unknown = step.references().chain(step.needs.iter().map(String::as_str));
            let known = |name: &&str| template.parameters.contains_key(*name);
            if let Some(name) = unknown.into_iter().find(|name| !known(name)) {
                return Err(wrong(format!("step {}: there is no parameter {name}", step.name)));
            }
        }
        Ok(template)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn summary(&self) -> &str {
        &self.summary
    }

    pub(super) fn steps(&self) -> &[Draft] {
        &self.steps
    }

    /// The action, with what the command line sets (`NAME=VALUE`).
    pub(super) fn fill(&self, set: &[String], lease: Duration) -> Result<Action, SocError> {
        let values = self.values(set)?;
        let (mut steps, mut left_out) = (Vec::new(), BTreeSet::new());
        for draft in &self.steps {
            let is_given = |name: &String| values.get(name).is_some_and(|value| *value != json!([]));
            if !draft.needs.iter().all(is_given) {
                left_out.insert(draft.name.as_str());
                continue;
            }
            if let Some(step) = draft.fill(&values, lease, &left_out)? {
                steps.push(step);
            }
        }
        Ok(Action::Playbook { name: self.name.clone(), steps })
    }

    fn values(&self, set: &[String]) -> Result<BTreeMap<String, Value>, SocError> {
        let usage = |text: String| SocError::Usage(format!("--set: {}", printable(&text)));
        let mut given = BTreeMap::new();
        for text in set {
            let (name, value) =
                text.split_once('=').ok_or_else(|| usage(format!("{text:?} is not NAME=VALUE")))?;
            if !self.parameters.contains_key(name) {
                let names: Vec<&str> = self.parameters.keys().map(String::as_str).collect();
                let names = names.join(", ");
                return Err(usage(format!("{} has no parameter {name:?}; it has {names}", self.name)));
            }
            if given.insert(name, value.to_owned()).is_some() {
                return Err(usage(format!("{name} is given twice")));
            }
        }
        let mut values = BTreeMap::new();
        for (name, parameter) in &self.parameters {
            let text = given.get(name.as_str()).or(parameter.default.as_ref());
            match text {
                Some(text) => {
                    let value = parameter.kind.read(text).map_err(|why| usage(format!("{name}: {why}")))?;
                    values.insert(name.clone(), value);
                }
                None if parameter.optional => {}
                None => return Err(usage(format!("{} wants {name}={}", self.name, parameter.help))),
            }
        }
        Ok(values)
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let parameter = |(name, parameter): (&String, &Parameter)| {
            json!({ "name": name, "type": parameter.kind, "help": parameter.help, "default": parameter.default,
                "optional": parameter.optional || parameter.default.is_some() })
        };
        let step = |step: &Draft| {
            json!({ "name": step.name, "action": step.action, "with": step.with, "needs": step.needs, "when": step.when,
                "lease": step.lease, "timeout": step.timeout, "otherwise": step.otherwise })
        };
        json!({ "name": self.name, "summary": self.summary,
            "parameters": self.parameters.iter().map(parameter).collect::<Vec<_>>(),
            "steps": self.steps.iter().map(step).collect::<Vec<_>>() })
    }

    /// For people.
    pub(super) fn print(&self, screen: &mut Screen) -> Result<(), SocError> {
        screen.field("playbook", &self.name)?;
        screen.field("what", &self.summary)?;
        for (name, parameter) in &self.parameters {
            let how = match (&parameter.default, parameter.optional) {
                (Some(default), _) => format!(" [default: {default:?}]"),
                (None, true) => " [optional]".to_owned(),
                (None, false) => String::new(),
            };
            screen.field("parameter", format!("{name}: {}{how}", parameter.help))?;
        }
        for (number, step) in (1..).zip(&self.steps) {
            let with: Vec<String> = step.with.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let text = format!("{}: {} {}", step.name, step.action, with.join(" "));
            screen.field(&format!("step {number}"), text.trim_end())?;
            let lease = step.lease.as_ref().map_or(String::new(), |lease| format!("lease {lease}; "));
            let needs = if step.needs.is_empty() {
                String::new()
            } else {
                format!("only with {}; ", step.needs.join(", "))
            };
            let otherwise = match step.otherwise {
                Otherwise::Stop => "if it fails, the playbook stops",
                Otherwise::GoOn => "if it fails, the next step follows",
            };
            screen.field("", format!("{needs}{}; {lease}within {}; {otherwise}", step.when, step.timeout))?;
            if step.action == "preserve" {
                screen.field(
                    "",
                    "done when the evidence is sealed; the collector gets it meanwhile and afterwards",
                )?;
            }
        }
        Ok(())
    }
}

impl Kind {
    fn read(self, text: &str) -> Result<Value, String> {
        let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned);
        match self {
            Self::Text => Ok(text.into()),
            Self::Number => {
                text.parse::<u64>().map(Value::from).map_err(|_| format!("{text:?} is no number"))
            }
            Self::Time => Timestamp::parse(text)
                .map(|time| time.to_string().into())
                .ok_or_else(|| format!("{text:?} is no time like 2026-01-02T03:04:05.678Z")),
            Self::List => Ok(parts().collect::<Vec<_>>().into()),
            Self::Networks => {
                let networks = networks::collect(&parts().collect::<Vec<_>>(), None)?;
                serde_json::to_value(networks).map_err(|error| error.to_string())
            }
        }
    }
}

impl Draft {
    /// Parameters that its members stand for.
    fn references(&self) -> impl Iterator<Item = &str> {
        self.with.values().flat_map(texts).filter_map(|value| value.as_str()?.strip_prefix('$'))
    }

    /// The step; none when it could never be done, since it waits for the success of one that is left out.
    fn fill(
        &self,
        values: &BTreeMap<String, Value>,
        lease: Duration,
        left_out: &BTreeSet<&str>,
    ) -> Result<Option<Step>, SocError> {
        let bad = |what: String| wrong(format!("step {}: {what}", self.name));
        let Some(when) = condition(&self.when, left_out).map_err(bad)? else { return Ok(None) };
        let mut action = Map::from_iter([("type".to_owned(), Value::from(self.action.as_str()))]);
        // An optional one that is not given is not there.
        let with = self.with.iter();
        action.extend(with.filter_map(|(member, value)| Some((member.clone(), filled(value, values)?))));
        let action = serde_json::from_value(action.into()).map_err(|error| bad(error.to_string()))?;
        let lease = match self.lease.as_deref() {
            None => Duration::ZERO,
            Some("$lease") => lease,
            Some(period) => parse_period(period).map_err(bad)?,
        };
        let timeout = parse_period(&self.timeout).map_err(bad)?.as_secs();
        let (name, otherwise) = (self.name.clone(), self.otherwise);
        Ok(Some(Step { name, action, lease: lease.as_secs(), when, timeout, otherwise }))
    }
}

/// A member, and all that is in it.
fn texts(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(members) => members.values().flat_map(texts).collect(),
        value => vec![value],
    }
}

/// A member, with what parameters in it stand for; none when one of these is not given.
fn filled(value: &Value, values: &BTreeMap<String, Value>) -> Option<Value> {
    match value {
        Value::String(text) => match text.strip_prefix('$') {
            Some(name) => values.get(name).cloned(),
            None => Some(value.clone()),
        },
        Value::Object(members) => {
            let all: Option<Map<String, Value>> = members
                .iter()
                .map(|(member, value)| Some((member.clone(), filled(value, values)?)))
                .collect();
            all.map(Value::Object)
        }
        other => Some(other.clone()),
    }
}

/// Reads a condition; none when it can never hold.
fn condition(text: &str, left_out: &BTreeSet<&str>) -> Result<Option<Condition>, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let seconds = |period: &str| parse_period(period).map(|period| period.as_secs());
    Ok(Some(match words.as_slice() {
        ["always"] => Condition::Always {},
        ["succeeded", step] if left_out.contains(step) => return Ok(None),
        ["failed", step] if left_out.contains(step) => Condition::Always {},
        ["succeeded", step] => Condition::Succeeded { step: (*step).to_owned() },
        ["failed", step] => Condition::Failed { step: (*step).to_owned() },
        ["found", rule, "within", period] => {
            Condition::Found { rule: (*rule).to_owned(), seconds: seconds(period)? }
        }
        ["not-found", rule, "within", period] => {
            Condition::NotFound { rule: (*rule).to_owned(), seconds: seconds(period)? }
        }
        _ => return Err(format!("{text:?} is no condition")),
    }))
}

#[cfg(test)]
mod tests;
