//! Configuration, policy and unit: what the agent was told, and who starts it.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Case, Check};
use crate::config::policy::Policy;
use crate::config::{ConfigError, DEFAULT_PATH};
use crate::respond::firewall::program;

/// Problems of a file that are named; `agent check-config` names all.
const PROBLEMS_SHOWN: usize = 3;
/// A unit that was restarted so often does not simply have had a bad moment.
const RESTARTS_MANY: u64 = 3;
/// The packaged unit.
pub(super) const UNIT: &str = "picket-agent.service";

pub(super) fn look(case: &Case) -> Vec<Check> {
    vec![configuration(case), policy(case), unit(case), guarded(case)]
}

fn configuration(case: &Case) -> Check {
    let name = "configuration";
    if let Some(error) = &case.broken {
        let mut found = error.to_string();
        if let ConfigError::Invalid { problems, .. } = error {
            for problem in problems.iter().take(PROBLEMS_SHOWN) {
                found.push_str(&format!("; {problem}"));
            }
        }
        found.push_str("; what follows was looked at by the built-in defaults");
        let fix = "mend it (agent check-config names every problem), then restart the agent";
        return Check::fault(name, found, fix);
    }
    let Some(source) = &case.loaded.source else {
        return Check::ok(name, format!("there is no {DEFAULT_PATH}; the built-in defaults are in force"));
    };
    let changed = std::fs::metadata(source).and_then(|metadata| metadata.modified());
    let is_newer = |running: &crate::status::StatusReport| {
        changed
            .as_ref()
            .is_ok_and(|changed| picket_protocol::time::Timestamp::from(*changed) > running.started)
    };
    if case.running().is_some_and(is_newer) {
        let found = format!("{} is fine, and was changed after the agent started", source.display());
        return Check::warning(name, found, format!("restart the agent: {}", restart(case)));
    }
    Check::ok(name, format!("{} is fine", source.display()))
}

fn policy(case: &Case) -> Check {
    let (name, path) = ("policy", case.loaded.policy.display());
    match Policy::load(&case.loaded.policy) {
        Ok(_) if case.loaded.policy.exists() => Check::ok(name, format!("{path} is fine")),
        Ok(_) => {
            Check::ok(name, format!("there is no {path}: nothing is named that goes on in an isolation"))
        }
        Err(error) => Check::fault(
            name,
            format!("{error}; until it is mended, no action is taken that could cut something off"),
            "mend it (agent policy shows what it says)",
        ),
    }
}

/// Whether the agent watches what it is made of.
fn guarded(case: &Case) -> Check {
    let name = "self-protection";
    let files = &case.loaded.config.files;
    let trees = if files.enabled { crate::core::trees::resolve(&files.trees) } else { Vec::new() };
    let own = crate::core::agent_files(&case.loaded);
    let missed = own.known().filter(|path| path.exists() && !trees.iter().any(|tree| path.starts_with(tree)));
    let missed: Vec<String> = missed.map(|path| path.display().to_string()).collect();
    if missed.is_empty() {
        return Check::ok(name, "the agent's program, configuration, identity and ledger keys are watched");
    }
    let fix = "add them to files.trees of agent.toml (the default has them), and restart the agent";
    Check::warning(name, format!("not watched: {}", missed.join(", ")), fix)
}

/// How the agent is started again, here.
pub(super) fn restart(case: &Case) -> &'static str {
    if case.is_of_the_unit() {
        "sudo systemctl restart picket-agent"
    } else {
        "stop it and start `agent run`"
    }
}

fn unit(case: &Case) -> Check {
    let name = "unit";
    if !Path::new("/run/systemd/system").is_dir() {
        return Check::ok(name, "systemd does not run this host: whoever starts `agent run` looks after it");
    }
    if !case.is_of_the_unit() {
        return Check::ok(name, format!("the run directory is not that of {UNIT}, which is not looked at"));
    }
    let properties = "LoadState,ActiveState,SubState,UnitFileState,NRestarts,Result";
    let arguments = ["show", UNIT, "--no-pager", "--property", properties];
    match program::run("systemctl", &arguments, None) {
        Ok(ran) => judge_unit(&ran.text),
        Err(why) => Check::warning(name, why, format!("systemctl status {UNIT} should answer as root")),
    }
}

fn judge_unit(text: &str) -> Check {
    let name = "unit";
    let of: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let get = |key: &str| of.get(key).copied().unwrap_or_default();
    let restarts: u64 = get("NRestarts").parse().unwrap_or(0);
    let state = format!("{UNIT} is {} ({}), {}", get("ActiveState"), get("SubState"), get("UnitFileState"));
    if get("LoadState") != "loaded" {
        let found = format!("{UNIT} is not installed ({})", get("LoadState"));
        return Check::warning(
            name,
            found,
            "install the package picket-agent, or start `agent run` by other means",
        );
    }
    if get("ActiveState") != "active" {
        let why = format!("{state}; it ended with {}", get("Result"));
        let fix = format!("sudo systemctl restart {UNIT}; why it ended: journalctl -u {UNIT} -n 50");
        return Check::fault(name, why, fix);
    }
    if !get("UnitFileState").starts_with("enabled") {
        let fix = format!("sudo systemctl enable {UNIT}");
        return Check::warning(name, format!("{state}: it does not start at the next boot"), fix);
    }
    if restarts >= RESTARTS_MANY {
        let fix = format!("journalctl -u {UNIT} -p warning tells why it ended");
        return Check::warning(name, format!("{state}; it was restarted {restarts} times"), fix);
    }
    Check::ok(name, state)
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn the_state_of_the_unit_is_judged_by_what_systemctl_says() {
        let unit = |load: &str, active: &str, file: &str, restarts: u32| {
            judge_unit(&format!(
                "LoadState={load}\nActiveState={active}\nSubState=x\nUnitFileState={file}\nNRestarts={restarts}\nResult=exit-code\n"
            ))
        };
        assert_eq!(unit("loaded", "active", "enabled", 0).grade, Grade::Ok);
        assert_eq!(unit("loaded", "active", "enabled", 7).grade, Grade::Warning);
        assert_eq!(unit("loaded", "active", "disabled", 0).grade, Grade::Warning);
        assert_eq!(unit("not-found", "inactive", "", 0).grade, Grade::Warning);
        let failed = unit("loaded", "failed", "enabled", 1);
        assert!(failed.grade == Grade::Fault && failed.found.contains("exit-code"), "{failed:?}");
        assert_eq!(judge_unit("nonsense").grade, Grade::Warning);
    }
}
