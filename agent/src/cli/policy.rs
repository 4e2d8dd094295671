//! `agent policy`: what may be done to this host, by the word of its owner.

use picket_protocol::action::Action;
use picket_protocol::finding::printable;
use serde_json::json;

use super::{Exit, Global, output};
use crate::config::policy::{Mode, Policy, Rule};
use crate::respond::continuity::{Continuity, Direction};

/// Show what the vendor may do on this host, what no action cuts off, and what the agent does by itself
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agent policy\n\nThe list of allowed actions is commands.allow in agent.toml; what goes on is policy.toml beside it."
)]
pub(super) struct Arguments {}

pub(super) fn run(global: &Global, _arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let allowed = &loaded.config.commands.allow;
    let policy = match Policy::load(&loaded.policy) {
        Ok(policy) => policy,
        Err(error) => {
            output::error(&format!(
                "{}; until it is mended, no action is taken that could cut something off",
                printable(&error.to_string())
            ));
            return Exit::Usage;
        }
    };
    if global.json {
        output::json(&json!({ "allowed": allowed, "file": loaded.policy, "policy": policy }));
        return Exit::Fine;
    }
    let refused: Vec<&str> =
        Action::NAMES.into_iter().filter(|name| !allowed.iter().any(|a| a == name)).collect();
    output::line(&format!("the vendor may, signed by enough operators: {}", list(allowed)));
    output::line(&format!("refused: {}", list(&refused)));
    if policy.continuity.is_empty() {
        output::line(&format!("nothing is named that goes on in an isolation ({})", loaded.policy.display()));
    }
    for entry in &policy.continuity {
        output::line(&format!("goes on: {}", describe(entry)));
    }
    for (action, count) in &policy.signers {
        output::line(&format!("{action}: at least {count} operators must have signed"));
    }
    let word = match policy.automatic.mode {
        Mode::Off => "the agent does nothing by itself",
        Mode::Simulate => "the agent records what it would do by itself",
        Mode::On => "the agent acts by itself",
    };
    output::line(word);
    for rule in policy.automatic.wanted() {
        output::line(&format!("  {}", describe_rule(&rule)));
    }
    Exit::Fine
}

fn describe_rule(rule: &Rule) -> String {
    let word = |value: &serde_json::Value| value.as_str().map(printable).unwrap_or_default().into_owned();
    let longest = rule.lease_max.map_or_else(String::new, |most| format!(", up to {}", word(&json!(most))));
    let hours = rule.hours.map_or_else(String::new, |hours| format!(", at {}", word(&json!(hours))));
    format!(
        "{}: {} for {}{longest} upon {} from {} on{hours}, {} times an hour at most",
        printable(&rule.name),
        word(&json!(rule.action)),
        word(&json!(rule.lease)),
        printable(&rule.findings.join(", ")),
        word(&json!(rule.severity)),
        rule.per_hour
    )
}

fn list<T: AsRef<str>>(words: &[T]) -> String {
    if words.is_empty() {
        return "nothing".to_owned();
    }
    words.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
}

fn describe(entry: &Continuity) -> String {
    let networks: Vec<String> = entry.networks.iter().map(ToString::to_string).collect();
    let ports: Vec<String> = entry.ports.iter().map(ToString::to_string).collect();
    let protocol = entry.protocol.map_or("any protocol".to_owned(), |protocol| protocol.to_string());
    let ports = if ports.is_empty() { String::new() } else { format!(" port {}", ports.join(", ")) };
    let way = match entry.direction {
        Direction::In => format!("from {} to {protocol}{ports} here", networks.join(", ")),
        Direction::Out => format!("from here to {protocol}{ports} of {}", networks.join(", ")),
    };
    format!("{} ({way})", printable(&entry.name))
}
