//! Playbooks: named sequences of actions that operators sign as one command.
//!
//! A playbook is no right of its own. The agent asks of every step what it would ask of its action as a command
//! ([`Action::parts`]), and refuses the whole when it would refuse one. What a step waits for is decided on the host, from what the
//! steps before it came to and from the host's own findings.

use std::collections::BTreeSet;
use std::fmt;

use uuid::{Builder, Uuid};

use crate::action::{Action, cover_too_much};
use crate::crypto::sha256;

/// Most steps of a playbook: more than a person reads before signing.
pub const STEPS_MAX: usize = 16;
/// Longest name of a playbook or of a step, in bytes.
pub const NAME_BYTES_MAX: usize = 40;
/// Longest pattern of rules, in bytes.
pub const RULE_BYTES_MAX: usize = 80;
/// Longest time that a step may take, and that a condition may look back, in seconds: a day.
pub const SECONDS_MAX: u64 = 86_400;

/// What ids of acts are derived under, so that they are none of anything else.
const ACT_DOMAIN: &[u8] = b"picket act of a step v1\0";

/// One step of a playbook.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What it is called within the playbook.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// How long what it does may last, in seconds; 0 for actions that leave nothing behind.
    pub lease: u64,
    /// When it is done at all.
    pub when: Condition,
    /// Within how many seconds it must have succeeded, 1 to 86,400; later it counts as failed, and what it did is undone. Evidence
    /// succeeds when it is sealed; that it is handed over is not waited for.
    pub timeout: u64,
    /// What becomes of the playbook when it fails.
    pub otherwise: Otherwise,
}

/// When a step is done. It is decided once, when the steps before it are over.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Condition {
    /// In any case.
    Always {},
    /// When that earlier step succeeded.
    Succeeded {
        /// Its name.
        step: String,
    },
    /// When that earlier step failed.
    Failed {
        /// Its name.
        step: String,
    },
    /// When this host has a finding of such a rule, sealed within that time; explained ones and exercises do not count.
    Found {
        /// A rule, or the beginning of one and `*`.
        rule: String,
        /// How far it looks back, 1 to 86,400 seconds.
        seconds: u64,
    },
    /// When it has none.
    NotFound {
        /// See [`Condition::Found`].
        rule: String,
        /// See [`Condition::Found`].
        seconds: u64,
    },
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always {} => f.write_str("in any case"),
            Self::Succeeded { step } => write!(f, "if {step} succeeded"),
            Self::Failed { step } => write!(f, "if {step} failed"),
            Self::Found { rule, seconds } => {
                write!(f, "if there is a finding {rule} of the last {seconds} s")
            }
            Self::NotFound { rule, seconds } => {
                write!(f, "if there is no finding {rule} of the last {seconds} s")
            }
        }
    }
}

/// What becomes of a playbook one of whose steps fails. What earlier steps did stays for their leases in both cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Otherwise {
    /// No further step is done.
    Stop,
    /// The next one is.
    GoOn,
}

/// The id of what step `number` (from 1) of a command does on a host: a UUID of version 8 from the SHA-256 of a domain, the command's
/// id and the number. No command has such an id, and each step has one only, however often the agent is started meanwhile.
pub fn act_id(command: Uuid, number: u32) -> Uuid {
    let digest = sha256(&[ACT_DOMAIN, command.as_bytes(), &number.to_be_bytes()]);
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest).for_each(|(byte, digest)| *byte = digest);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// Whether a rule is meant by a pattern: itself, or one that begins with what stands before `*`.
pub fn is_meant(pattern: &str, rule: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == rule, |begin| rule.starts_with(begin))
}

/// Whether a text can be the name of a playbook or of a step: `a` to `z`, digits and `-`, beginning with a letter.
pub fn is_name(text: &str) -> bool {
    let fits =
        |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.chars().all(fits)
        && text.starts_with(|first: char| first.is_ascii_lowercase())
}

/// Checks the bounds of a playbook.
///
/// # Errors
/// What is out of its bounds.
pub(crate) fn check(name: &str, steps: &[Step]) -> Result<(), &'static str> {
    let bounds = |fits: bool, what| if fits { Ok(()) } else { Err(what) };
    bounds(is_name(name), "playbook has no name of a-z, 0-9 and - (40 at most)")?;
    bounds((1..=STEPS_MAX).contains(&steps.len()), "playbook has not 1 to 16 steps")?;
    let mut earlier = BTreeSet::new();
    for step in steps {
        bounds(is_name(&step.name), "playbook has a step without a name of a-z, 0-9 and - (40 at most)")?;
        bounds(
            fits_in(&step.action),
            "playbook has a step that none may have: advise, drill, restore, a plan or a playbook",
        )?;
        step.action.check()?;
        bounds(
            (1..=SECONDS_MAX).contains(&step.timeout),
            "playbook has a step whose timeout is not 1 to 86,400 s",
        )?;
        step.when.check(&earlier)?;
        bounds(earlier.insert(step.name.as_str()), "playbook has two steps of one name")?;
    }
    // One signature is one block, in however many steps.
    let blocked = steps.iter().filter_map(|step| match &step.action {
        Action::Block { networks } => Some(networks),
        _ => None,
    });
    let fits = !cover_too_much(blocked.flatten());
    bounds(fits, "playbook blocks more than a sixteenth of all addresses: that is an isolation")
}

/// Messages, exercises and other sequences stand for themselves.
fn fits_in(action: &Action) -> bool {
    use Action::{Advise, Drill, Plan, Playbook, Restore};
    !matches!(action, Advise { .. } | Drill { .. } | Restore { .. } | Plan { .. } | Playbook { .. })
}

impl Condition {
    fn check(&self, earlier: &BTreeSet<&str>) -> Result<(), &'static str> {
        let bounds = |fits: bool, what| if fits { Ok(()) } else { Err(what) };
        match self {
            Self::Always {} => Ok(()),
            Self::Succeeded { step } | Self::Failed { step } => bounds(
                earlier.contains(step.as_str()),
                "playbook has a step whose condition names no earlier step",
            ),
            Self::Found { rule, seconds } | Self::NotFound { rule, seconds } => {
                bounds(
                    is_pattern(rule),
                    "playbook has a condition whose rule is no rule, nor the beginning of one and *",
                )?;
                let fits = (1..=SECONDS_MAX).contains(seconds);
                bounds(fits, "playbook has a condition that looks back not 1 to 86,400 s")
            }
        }
    }
}

fn is_pattern(text: &str) -> bool {
    let fits = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let begin = text.strip_suffix('*').unwrap_or(text);
    (1..=RULE_BYTES_MAX).contains(&text.len()) && !begin.is_empty() && begin.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, when: Condition) -> Step {
        let (name, otherwise) = (name.to_owned(), Otherwise::Stop);
        Step { name, action: Action::Isolate {}, lease: 60, when, timeout: 60, otherwise }
    }

    fn always(name: &str) -> Step {
        step(name, Condition::Always {})
    }

    fn after(name: &str) -> Condition {
        Condition::Succeeded { step: name.to_owned() }
    }

    fn found(rule: &str, seconds: u64) -> Condition {
        Condition::Found { rule: rule.to_owned(), seconds }
    }

    #[test]
    fn a_playbook_has_its_bounds() {
        let good =
            [always("contain"), step("assess", after("contain")), step("cut", found("file.mass*", 60))];
        assert_eq!(check("contain-ransomware", &good), Ok(()));
        let name = |text: &str| check(text, &good).is_err();
        assert!(name("") && name("Contain") && name("-x") && name(&"x".repeat(41)));
        assert!(check("x", &[]).is_err());
        let many: Vec<Step> = (0..17).map(|number| always(&format!("s{number}"))).collect();
        assert!(check("x", &many).is_err() && check("x", many.split_last().unwrap().1).is_ok());
        for bad in [
            vec![always("a"), always("a")],
            vec![step("a", after("a"))],
            vec![step("a", after("b")), always("b")],
            vec![step("a", found("", 60))],
            vec![step("a", found("*", 60))],
            vec![step("a", found("x", 0))],
            vec![step("a", found("x", SECONDS_MAX + 1))],
            vec![step("a", found("a b", 60))],
            vec![Step { timeout: 0, ..always("a") }],
            vec![Step { timeout: SECONDS_MAX + 1, ..always("a") }],
            vec![Step { action: Action::Drill { findings: 1 }, ..always("a") }],
            vec![Step {
                action: Action::Playbook { name: "b".to_owned(), steps: vec![always("c")] },
                ..always("a")
            }],
            vec![Step { action: Action::IsolateUnit { unit: String::new() }, ..always("a") }],
        ] {
            assert!(check("x", &bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_steps_together_are_no_wider_than_one_block() {
        let block = |name: &str, network: &str| {
            let networks = vec![network.parse().unwrap()];
            Step { action: Action::Block { networks }, ..always(name) }
        };
        let twice = [block("a", "16.0.0.0/4"), block("b", "16.0.0.0/4"), block("c", "17.0.0.0/8")];
        assert_eq!(check("x", &twice), Ok(()));
        assert!(check("x", &[block("a", "16.0.0.0/4"), block("b", "32.0.0.0/4")]).is_err());
    }

    #[test]
    fn acts_have_ids_of_their_own_that_stay() {
        let command = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);
        assert_eq!(act_id(command, 1).to_string(), "37340ea8-9e8f-85ed-baf8-f022f0ce949b");
        let ids: BTreeSet<Uuid> = (1..=16).map(|number| act_id(command, number)).collect();
        assert!(ids.len() == 16 && ids.iter().all(|id| id.get_version_num() == 8));
    }

    #[test]
    fn a_pattern_means_a_rule_or_all_that_begin_so() {
        assert!(
            is_meant("file.mass-change", "file.mass-change") && !is_meant("file.mass", "file.mass-change")
        );
        assert!(is_meant("file.*", "file.mass-change") && !is_meant("net.*", "file.mass-change"));
    }

    #[test]
    fn it_is_read_in_its_one_form() {
        let text = r#"{"name":"a","action":{"type":"isolate"},"lease":60,"when":{"type":"not-found","rule":"x*","seconds":9},"timeout":5,"otherwise":"go-on"}"#;
        let read: Step = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        let more = text.replace("\"timeout\"", "\"more\":1,\"timeout\"");
        assert!(serde_json::from_str::<Step>(&more).is_err());
    }
}
