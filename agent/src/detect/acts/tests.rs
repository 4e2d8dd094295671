use picket_protocol::finding::Text;
use proptest::prelude::*;

use super::*;
use crate::detect::packages::tests::{actor, change, link};
use crate::sense::processes::Ancestor;
use std::sync::Arc;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_nanos(1_000_000_000_000 + millis * 1_000_000)
}

fn by(pid: u32, executable: &str, above: &[(u32, &str)]) -> Option<Arc<crate::sense::processes::Actor>> {
    let text = |text: &str| Some(Text::from_bytes(text.as_bytes()));
    let parents = above.iter().map(|(pid, above)| Ancestor {
        pid: *pid,
        started: None,
        executable: text(above),
        script: None,
    });
    Some(Arc::new(crate::sense::processes::Actor {
        pid,
        executable: text(executable),
        parents: parents.collect(),
        ..actor()
    }))
}

/// A finding of its own for each.
fn told(change: &FileChange, n: u128) -> Finding {
    Finding { id: Uuid::from_u128(n), ..crate::detect::packages::tests::finding(change) }
}

struct World {
    stage: Stage,
    n: u128,
    told: Vec<Finding>,
}

impl World {
    fn new() -> Self {
        Self { stage: Stage::default(), n: 0, told: Vec::new() }
    }

    fn observe(&mut self, change: &FileChange, millis: i64) {
        self.n += 1;
        let finding = told(change, self.n);
        let (finding, outcome) = self.stage.observe(change, Some(finding), false, at(millis));
        self.told.extend(finding.into_iter().chain(outcome.findings));
    }

    fn tick(&mut self, millis: i64) {
        let outcome = self.stage.tick(at(millis));
        self.told.extend(outcome.findings);
    }

    fn also(&self, n: usize) -> Vec<&str> {
        let also = self.told[n].evidence["also"].as_array().into_iter().flatten();
        also.map(|part| part["path"]["path"]["text"].as_str().unwrap()).collect()
    }
}

#[test]
fn what_one_tool_does_is_one_finding_and_two_are_two() {
    let mut world = World::new();
    let files = ["/etc/passwd", "/etc/passwd-", "/etc/group", "/etc/group-"];
    for (n, path) in files.iter().enumerate() {
        let n = i64::try_from(n).unwrap();
        world.observe(
            &FileChange { actor: by(5, "/usr/sbin/useradd", &[(2, "/usr/bin/bash")]), ..change(path) },
            n * 100,
        );
        world.observe(
            &FileChange { actor: by(6, "/usr/sbin/groupadd", &[(2, "/usr/bin/bash")]), ..change(path) },
            n * 100,
        );
    }
    assert_eq!(world.told, []);
    assert!(world.stage.due_in(at(300)).is_some_and(|due| due == QUIET));
    world.tick(999);
    assert_eq!(world.told, []);
    world.tick(1_000);
    assert_eq!(world.told.len(), 2);
    assert_eq!(world.also(0).len(), 3);
    assert!(!world.also(0).contains(&"/etc/passwd"), "it leads: {:?}", world.also(0));
    assert_eq!((world.stage.bytes, world.stage.due_in(at(2_000))), (0, None));
}

#[test]
fn what_a_script_calls_is_one_act_and_what_a_shell_calls_is_not() {
    let mut world = World::new();
    world.observe(
        &FileChange {
            actor: by(5, "/usr/sbin/groupadd", &[(4, "/usr/bin/perl"), (2, "/bin/bash")]),
            ..change("/etc/group")
        },
        0,
    );
    world.observe(
        &FileChange {
            actor: by(6, "/usr/sbin/useradd", &[(4, "/usr/bin/perl"), (2, "/bin/bash")]),
            ..change("/etc/passwd")
        },
        9,
    );
    world.tick(2_000);
    assert_eq!(world.told.len(), 1);
}

#[test]
fn nobody_known_joins_by_time() {
    let mut world = World::new();
    world.observe(&change("/etc/group"), 0);
    world.observe(&change("/etc/passwd"), 9);
    world.tick(2_000);
    assert_eq!(world.told.len(), 1);
}

#[test]
fn critical_never_waits_and_what_comes_after_names_it() {
    let mut world = World::new();
    let actor = by(5, "/usr/sbin/useradd", &[]);
    world.observe(&FileChange { actor: actor.clone(), ..change("/etc/group") }, 0);
    let passwd = FileChange { actor: actor.clone(), ..change("/etc/passwd") };
    let critical = Finding { severity: Severity::Critical, ..told(&passwd, 70) };
    let (finding, _) = world.stage.observe(&passwd, Some(critical), false, at(5));
    let finding = finding.expect("told at once");
    assert_eq!((finding.severity, finding.id), (Severity::Critical, Uuid::from_u128(70)));
    assert_eq!(finding.evidence["also"][0]["path"]["path"]["text"], "/etc/group");
    world.observe(&FileChange { actor, ..change("/etc/shadow") }, 10);
    assert_eq!(world.told, []);
    world.tick(5_000);
    assert_eq!(world.told[0].evidence["part_of"], Uuid::from_u128(70).to_string());
}

#[test]
fn a_tool_that_never_rests_is_told_all_the_same() {
    let mut world = World::new();
    for n in 0..10 {
        world.observe(&change("/etc/passwd"), n * 500);
        world.tick(n * 500);
    }
    assert!(!world.told.is_empty());
    let mut world = World::new();
    for _ in 0..PARTS_MAX {
        world.observe(&change("/etc/passwd"), 0);
    }
    assert_eq!(world.told.len(), 1);
    assert_eq!(world.told[0].evidence["also"].as_array().map(Vec::len), Some(PARTS_MAX - 1));
    let record = picket_protocol::record::Draft::new(
        picket_protocol::record::Kind::Finding,
        Severity::Low,
        &world.told[0],
    );
    assert!(record.is_ok(), "the largest act fits a record");
}

#[test]
fn the_links_of_one_service_are_one_act_whoever_made_them() {
    let wants = "/etc/systemd/system/multi-user.target.wants/ssh.service";
    let mut world = World::new();
    let made = |path: &str, target: &str, pid| FileChange {
        before: None,
        after: Some(link(target)),
        actor: by(pid, "/usr/bin/x", &[]),
        ..change(path)
    };
    world.observe(&made("/etc/rc2.d/S01ssh", "../init.d/ssh", 9), 0);
    world.observe(&made(wants, "/lib/systemd/system/ssh.service", 1), 0);
    world.observe(&made("/etc/systemd/system/sshd.service", "/lib/systemd/system/ssh.service", 1), 0);
    world.observe(
        &made("/etc/systemd/system/multi-user.target.wants/x.service", "/lib/systemd/system/x.service", 1),
        0,
    );
    world.tick(5_000);
    assert_eq!(world.told.len(), 2);
    assert_eq!(world.told[0].rule, "persistence.systemd");
}

fn swap(path: &str, mode: u32) -> FileChange {
    FileChange { before: None, after: Some(crate::detect::packages::tests::file(3, mode)), ..change(path) }
}

#[test]
fn what_an_editor_keeps_beside_a_file_is_told_only_when_it_stays() {
    let mut world = World::new();
    world.observe(&swap("/etc/.hosts.swp", 0o600), 0);
    let gone = FileChange {
        before: Some(crate::detect::packages::tests::file(3, 0o600)),
        after: None,
        ..change("/etc/.hosts.swp")
    };
    world.observe(&gone, 60_000);
    assert_eq!((world.told.len(), world.stage.bytes, world.stage.due_in(at(60_000))), (0, 0, None));
    // It stands in the file's place.
    world.observe(&swap("/etc/sudoers.tmp", 0o600), 70_000);
    world.observe(
        &FileChange { moved_from: Some("/etc/sudoers.tmp".into()), ..change("/etc/sudoers") },
        80_000,
    );
    assert_eq!((world.told.len(), world.stage.bytes), (1, 0));
    // It is left behind.
    world.observe(&swap("/etc/.hosts.swp", 0o600), 90_000);
    world.tick(90_000 + 3_600_000);
    assert_eq!(world.told.len(), 2);
    // It may be run.
    world.observe(&swap("/usr/bin/.ls.swp", 0o755), 0);
    assert_eq!(world.told.len(), 3);
    // It was there before.
    world.observe(
        &FileChange {
            before: Some(crate::detect::packages::tests::file(4, 0o600)),
            ..swap("/etc/.x.swp", 0o600)
        },
        0,
    );
    assert_eq!(world.told.len(), 4);
}

#[test]
fn a_renewal_is_one_finding() {
    let mut world = World::new();
    let cert = FileChange { before: None, ..change("/etc/letsencrypt/archive/a/cert2.pem") };
    world.observe(&cert, 0);
    let live = FileChange {
        before: Some(link("../../archive/a/cert1.pem")),
        after: Some(link("../../archive/a/cert2.pem")),
        ..change("/etc/letsencrypt/live/a/cert.pem")
    };
    let mut finding = told(&live, 99);
    crate::detect::packages::tools::explain(&live, &mut finding);
    let (none, _) = world.stage.observe(&live, Some(finding), false, at(3));
    assert_eq!(none, None);
    world.tick(9_000);
    assert_eq!(world.told.len(), 1);
    assert_eq!(world.told[0].title, "Certificate a was renewed, 2 files");
    assert_eq!(world.told[0].severity, Severity::Info);
}

proptest! {
    /// Whatever comes in whatever order and though the agent dies: each finding is told once, by itself or in another.
    #[test]
    fn nothing_is_lost_and_nothing_is_told_twice(steps in prop::collection::vec((0..8_usize, 0..4_u32, 0..900_i64, any::<bool>()), 1..60)) {
        const PATHS: [&str; 8] = ["/etc/passwd", "/etc/shadow", "/etc/passwd-", "/etc/hosts", "/etc/rc2.d/S01x",
            "/etc/letsencrypt/live/a/cert.pem", "/usr/bin/x", "/etc/group"];
        let mut world = World::new();
        let mut now = 0;
        for (path, pid, wait, dies) in &steps {
            now += wait;
            world.tick(now);
            let actor = by(*pid, "/usr/sbin/useradd", &[]).filter(|_| *pid > 0);
            world.observe(&FileChange { actor, ..change(PATHS[*path]) }, now);
            if *dies {
                let parts: Vec<Part> = world.stage.acts.iter().flat_map(|act| act.parts.clone()).collect();
                let rows: Vec<Part> = parts.iter().map(|part| serde_json::from_str(&serde_json::to_string(part).unwrap()).unwrap()).collect();
                prop_assert_eq!(&parts, &rows);
                world.stage = Stage::restore(rows);
            }
        }
        world.tick(now + 10_000);
        let also = |finding: &Finding| finding.evidence["also"].as_array().map_or(0, Vec::len);
        let count: usize = world.told.iter().map(|finding| 1 + also(finding)).sum();
        prop_assert_eq!(count, steps.len());
        prop_assert_eq!(world.stage.bytes, 0);
    }
}

/// What `sed -i.bak` leaves, whichever of the two is looked at first.
#[test]
fn the_copy_of_what_was_is_part_of_the_edit_and_any_other_copy_is_not() {
    let state = |content: u8| {
        let mut state = change("/x").after.unwrap();
        state.content = crate::sense::files::object::Content::Digest([content; 32]);
        state
    };
    let edit = FileChange { before: Some(state(1)), after: Some(state(2)), ..change("/etc/ntp.conf") };
    let copy =
        |content| FileChange { before: None, after: Some(state(content)), ..change("/etc/ntp.conf.bak") };
    let told = |first: &FileChange, second: &FileChange| {
        let mut world = World::new();
        for (millis, each) in [(0, first), (5, second)] {
            world.n += 1;
            let finding = Finding { severity: Severity::Low, ..told(each, world.n) };
            let (finding, outcome) = world.stage.observe(each, Some(finding), false, at(millis));
            world.told.extend(finding.into_iter().chain(outcome.findings));
        }
        world.tick(2_000);
        assert_eq!(world.stage.waiting(), 0);
        world.told.len()
    };
    assert_eq!(told(&edit, &copy(1)), 1);
    assert_eq!(told(&copy(1), &edit), 1);
    // An editor's, which is gone when all is written.
    let gone = FileChange { before: copy(1).after, after: None, ..change("/etc/ntp.conf.bak") };
    assert_eq!(told(&edit, &gone), 1);
    assert_eq!(told(&copy(1), &gone), 0);
    // Of other content it is no copy.
    assert_eq!(told(&edit, &copy(3)), 2);
    assert_eq!(told(&copy(3), &edit), 2);
    // Nor when more people may read it.
    let mut open = copy(1);
    open.after.as_mut().unwrap().meta.mode = 0o666;
    assert_eq!(told(&edit, &open), 2);
}
