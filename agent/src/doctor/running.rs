//! The agent itself, its sensors and what it responds with: as it tells, or as it would be when it does not run.

use std::os::unix::fs::FileTypeExt as _;

use super::setup::{UNIT, restart};
use super::{Case, Check, Grade};
use crate::core::probe;
use crate::guard::{GuardReport, GuardState};
use crate::respond::firewall;
use crate::sense::{RungProbe, SensorReport, SensorState};
use crate::status::{Protection, StatusReport};

pub(super) fn look(case: &Case) -> Vec<Check> {
    let Some(status) = case.running() else { return vec![dead(case)] };
    let mut checks = vec![alive(case, status), protection(status)];
    checks.push(guard(&status.guard));
    checks.extend(errors(status));
    checks
}

/// What the kernel refuses root about the agent itself.
fn guard(report: &GuardReport) -> Check {
    let name = "guard";
    match (report.state, &report.reason) {
        (GuardState::Disabled, _) => {
            Check::ok(name, "not wanted (guard.enabled in agent.toml): root can end the agent")
        }
        (GuardState::On, _) if report.left_out.is_empty() => {
            Check::ok(name, format!("on: {} files and directories, and the agent's processes", report.files))
        }
        (GuardState::On, _) => {
            let found = format!("on, without {}", report.left_out.join("; "));
            Check::warning(name, found, "keep these on ext4, XFS or F2FS, or do without")
        }
        (_, reason) => {
            let found = reason.clone().unwrap_or_default();
            Check::warning(name, found, report.fix.clone().unwrap_or_default())
        }
    }
}

fn dead(case: &Case) -> Check {
    let why = case.status.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let left_over =
        std::fs::symlink_metadata(case.layout.socket()).is_ok_and(|it| it.file_type().is_socket());
    let crashed = if left_over { "; its socket is still there, so it was killed or crashed" } else { "" };
    let fix = if case.is_of_the_unit() {
        format!("sudo systemctl start picket-agent; why it ended: journalctl -u {UNIT} -n 50")
    } else {
        "start `agent run`; the end of its log says why it ended".to_owned()
    };
    Check::fault("agent", format!("{why}{crashed}"), fix)
}

fn alive(case: &Case, status: &StatusReport) -> Check {
    let up = crate::cli::output::length(std::time::Duration::from_secs(status.uptime_seconds));
    let found = format!("process {}, version {}, up {up}", status.pid, status.version);
    let own = env!("CARGO_PKG_VERSION");
    if status.version == own {
        return Check::ok("agent", found);
    }
    let found = format!("{found}; the program on the disk has version {own}");
    Check::warning("agent", found, format!("let the new one take over: {}", restart(case)))
}

fn protection(status: &StatusReport) -> Check {
    let reasons = status.reasons.join("; ");
    let fix = "the checks below say what to do about each";
    match status.protection {
        Protection::On => Check::ok("protection", "on"),
        Protection::Degraded => Check::warning("protection", format!("degraded: {reasons}"), fix),
        Protection::Failing => Check::fault("protection", format!("failing: {reasons}"), fix),
    }
}

/// What last went wrong, as far as it is still of interest.
fn errors(status: &StatusReport) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(error) = &status.ledger.report.error {
        let fix = "make room on the disk of the state directory, or look at `dmesg`: it goes on by itself, and nothing is lost";
        checks.push(Check::fault("last error", format!("nothing can be sealed: {error}"), fix));
    }
    if let Some(link) = &status.link
        && let Some(error) = &link.last_error
    {
        let when = link.last_error_at.map_or(String::new(), |at| format!(" ({at})"));
        let found = format!("of the link to the collector{when}: {error}");
        checks.push(if status.connected {
            Check::ok("last error", format!("{found}; it is connected again"))
        } else {
            Check::warning("last error", found, "the checks of the way to the collector say where it ends")
        });
    }
    if checks.is_empty() {
        checks.push(Check::ok("last error", "none since the agent started"));
    }
    checks
}

pub(super) fn sensors(case: &Case) -> Vec<Check> {
    let mut checks: Vec<Check> = match case.running() {
        Some(status) => status.sensors.iter().map(|(name, report)| running(name, report)).collect(),
        None => {
            let probes = probe(&case.loaded.config);
            probes.iter().map(|probe| would_run(&format!("sensor {}", probe.sensor), &probe.rungs)).collect()
        }
    };
    checks.push(would_run("response", &firewall::probe()));
    checks
}

fn running(name: &str, report: &SensorReport) -> Check {
    let check = format!("sensor {name}");
    let refused = refused_above(&report.ladder, &report.rung);
    let by = if report.rung.is_empty() { String::new() } else { format!(" by {}", report.rung) };
    let why = if report.reason.is_empty() { String::new() } else { format!(": {}", report.reason) };
    let found = |word: &str| format!("{word}{by}{why}{refused}");
    match report.state {
        SensorState::Running => Check::ok(&check, found("running")),
        SensorState::Starting => {
            Check::warning(&check, found("starting"), "wait: the first look at all files takes a while")
        }
        SensorState::Degraded => Check::warning(
            &check,
            found("degraded"),
            "mend what is named; `agent probe` shows all mechanisms",
        ),
        SensorState::Disabled => {
            let fix = "turn it on in agent.toml, if that was not on purpose, and restart the agent";
            Check::warning(&check, "turned off in the configuration", fix)
        }
        SensorState::Failed => {
            let fix = "mend what is named and restart the agent; `agent probe` shows all mechanisms";
            Check::fault(&check, found("does not run"), fix)
        }
    }
}

/// Better mechanisms than the one in use, with why they are refused.
fn refused_above(ladder: &[RungProbe], used: &str) -> String {
    let above = ladder.iter().take_while(|rung| rung.rung != used).filter(|rung| !rung.usable);
    let above: Vec<String> = above.map(|rung| format!("{} is refused: {}", rung.rung, rung.reason)).collect();
    if above.is_empty() { String::new() } else { format!(" ({})", above.join("; ")) }
}

fn would_run(check: &str, ladder: &[RungProbe]) -> Check {
    match ladder.iter().find(|rung| rung.usable) {
        Some(best) => {
            let refused = refused_above(ladder, &best.rung);
            Check::ok(check, format!("works by {}: {}{refused}", best.rung, best.reason))
        }
        None => {
            let all: Vec<String> =
                ladder.iter().map(|rung| format!("{}: {}", rung.rung, rung.reason)).collect();
            let fix = "give the agent one of these mechanisms: install the program, or a kernel that has it";
            Check {
                grade: Grade::Warning,
                ..Check::fault(check, format!("no mechanism works here ({})", all.join("; ")), fix)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(name: &str, usable: bool) -> RungProbe {
        RungProbe { rung: name.to_owned(), usable, reason: format!("about {name}") }
    }

    #[test]
    fn better_mechanisms_are_named_with_why_they_are_refused() {
        let ladder = [rung("fanotify", false), rung("inotify", true), rung("scan", true)];
        assert_eq!(refused_above(&ladder, "inotify"), " (fanotify is refused: about fanotify)");
        let check = would_run("sensor files", &ladder);
        assert!(
            check.grade == Grade::Ok && check.found.starts_with("works by inotify: about inotify (fanotify")
        );
        assert_eq!(would_run("response", &[rung("nft", false)]).grade, Grade::Warning);
    }

    #[test]
    fn a_guard_that_is_wanted_and_not_on_is_a_warning_with_its_fix() {
        let report = GuardReport { files: 11, ..GuardReport::default() };
        assert_eq!(guard(&report).grade, Grade::Ok);
        let on = GuardReport { state: GuardState::On, ..report };
        assert_eq!(guard(&on).grade, Grade::Ok);
        let without = GuardReport { left_out: vec!["/usr/bin/agent: why".to_owned()], ..on.clone() };
        assert!(guard(&without).grade == Grade::Warning && guard(&without).found.contains("/usr/bin/agent"));
        for state in [GuardState::Off, GuardState::Refused] {
            let (reason, fix) = (Some("why not".to_owned()), Some("what to do".to_owned()));
            let check = guard(&GuardReport { state, reason, fix: fix.clone(), ..on.clone() });
            assert_eq!((check.grade, check.found.as_str(), check.fix), (Grade::Warning, "why not", fix));
        }
    }

    #[test]
    fn states_of_a_sensor_have_their_grades() {
        let grade = |state| running("files", &SensorReport { state, ..SensorReport::default() }).grade;
        assert_eq!(grade(SensorState::Running), Grade::Ok);
        assert_eq!(grade(SensorState::Degraded), Grade::Warning);
        assert_eq!(grade(SensorState::Failed), Grade::Fault);
    }
}
