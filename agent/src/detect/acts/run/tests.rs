use std::sync::Arc;

use picket_protocol::finding::Text;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::detect::acts::{RUN_PARTS_MAX, RUN_QUIET, Stage};
use crate::detect::packages::tests::{actor, change, finding};
use crate::sense::processes::Ancestor;

fn by(pid: u32, executable: &str, line: &str, above: &[(u32, &str)]) -> Arc<Actor> {
    let text = |text: &str| Some(Text::from_bytes(text.as_bytes()));
    let parents = above.iter().map(|(pid, above)| Ancestor {
        pid: *pid,
        started: None,
        executable: text(above),
        script: None,
    });
    Arc::new(Actor {
        pid,
        executable: text(executable),
        command_line: text(line),
        parents: parents.collect(),
        ..actor()
    })
}

fn run_of(actors: &[Arc<Actor>]) -> Option<(String, u32)> {
    let change = FileChange {
        actor: actors.first().cloned(),
        other_actors: actors.iter().skip(1).cloned().collect(),
        ..change("/srv/a")
    };
    of(&change, &finding(&change)).map(|run| (run.tool, run.pid))
}

#[test]
fn a_run_is_known_by_the_program_that_the_kernel_ran() {
    let rsync = |pid, above: &[(u32, &str)]| by(pid, "/usr/bin/rsync", "rsync -a a b", above);
    let found = |tool: &str, pid| Some((tool.to_owned(), pid));
    assert_eq!(run_of(&[rsync(5, &[(2, "/usr/bin/bash")])]), found("rsync", 5));
    // The receiver of files is a child of the one that was started; both touch the same files.
    let inner = [(6, "/usr/bin/rsync"), (5, "/usr/bin/rsync"), (2, "/usr/bin/bash")];
    assert_eq!(run_of(&[rsync(7, &inner), rsync(6, &inner[1..])]), found("rsync", 5));
    assert_eq!(run_of(&[rsync(7, &inner), rsync(9, &[])]), None, "two runs");
    assert_eq!(run_of(&[by(8, "/usr/bin/gcc", "gcc", &[(4, "/usr/bin/make")])]), found("make", 4));
    assert_eq!(run_of(&[by(8, "/tmp/rsync", "rsync", &[])]), None);
    assert_eq!(run_of(&[by(8, "/usr/bin/bash", "rsync -a", &[])]), None);
    assert_eq!(run_of(&[]), None);
}

#[test]
fn a_copy_of_one_file_does_not_wait_and_one_of_a_directory_does() {
    let run = |executable: &str, line: &str| run_of(&[by(5, executable, line, &[])]).is_some();
    assert!(!run("/usr/bin/cp", "cp a b"));
    assert!(!run("/usr/bin/cp", "cp -p --preserve=all a-r b"));
    assert!(run("/usr/bin/cp", "cp -pr a b"));
    assert!(run("/usr/bin/cp", "cp --archive a b"));
    assert!(run("/usr/bin/chmod", "chmod -R go-w /srv"));
    assert!(!run("/usr/bin/touch", "touch -r a b"));
}

#[test]
fn a_tool_that_is_given_several_files_is_a_run() {
    let run = |executable: &str, line: &str| run_of(&[by(5, executable, line, &[])]).is_some();
    for line in ["a b dir", "-p a b dir/", "-t dir a b", "--target-directory=dir a b", "-- -a -b dir"] {
        assert!(run("/usr/bin/cp", &format!("cp {line}")), "{line}");
        assert!(run("/usr/bin/mv", &format!("mv {line}")), "{line}");
    }
    assert!(run("/usr/bin/rm", "rm -f a b c"));
    assert!(run("/usr/bin/install", "install -o root -g root -m 644 a b dir"));
    for (executable, line) in [
        ("/usr/bin/cp", "cp --preserve=mode -v a b"),
        ("/usr/bin/cp", "cp -S .old a b"),
        ("/usr/bin/mv", "mv -f a b"),
        ("/usr/bin/mv", "mv --backup=simple --suffix .old a b"),
        ("/usr/bin/rm", "rm -f -v a b"),
        ("/usr/bin/install", "install -o root -g root -m 644 a b"),
        ("/usr/bin/install", "install -Dm 644 a b"),
        ("/usr/bin/touch", "touch a b c"),
        ("/tmp/cp", "cp a b c dir"),
    ] {
        assert!(!run(executable, line), "{line}");
    }
}

#[test]
fn what_matters_does_not_wait() {
    let actor = Some(by(5, "/usr/bin/rsync", "rsync -a a b", &[]));
    let change = FileChange { actor, ..change("/srv/a") };
    let is_told = |rule: &str, severity| {
        of(&change, &Finding { rule: rule.to_owned(), severity, ..finding(&change) }).is_none()
    };
    assert!(!is_told("file.created", Severity::Info));
    assert!(!is_told("file.modified", Severity::Medium));
    assert!(is_told("file.modified", Severity::High));
    assert!(!is_told("persistence.web-script", Severity::Low));
    assert!(is_told("persistence.web-script", Severity::Medium));
    assert!(is_told("persistence.git-hook", Severity::Low));
    assert!(is_told("account.created", Severity::Info));
    assert!(is_told("log.deleted", Severity::Info));
}

struct World {
    stage: Stage,
    now: Timestamp,
    n: u128,
    told: Vec<Finding>,
}

impl World {
    fn new() -> Self {
        Self { stage: Stage::default(), now: Timestamp::from_seconds(1_000), n: 0, told: Vec::new() }
    }

    fn observe(&mut self, path: &str, severity: Severity) {
        let actor = Some(by(5, "/usr/bin/rsync", "rsync -a a b", &[]));
        let change = FileChange { actor, ..change(path) };
        self.n += 1;
        let finding = Finding { id: Uuid::from_u128(self.n), severity, ..finding(&change) };
        let (finding, outcome) = self.stage.observe(&change, Some(finding), false, self.now);
        self.told.extend(finding.into_iter().chain(outcome.findings));
    }

    fn wait(&mut self) {
        self.now = self.now.plus(RUN_QUIET);
        let outcome = self.stage.tick(self.now);
        self.told.extend(outcome.findings);
    }

    /// All paths that were told, in whatever form.
    fn paths(&self) -> Vec<String> {
        let text = |value: &serde_json::Value| value["text"].as_str().unwrap().to_owned();
        let mut paths = Vec::new();
        for finding in &self.told {
            let Some(picket_protocol::finding::Entity::File { path }) = finding.entities.first() else {
                continue;
            };
            paths.push(path.text.clone());
            let list = |name: &str| finding.evidence[name].as_array().cloned().unwrap_or_default();
            paths.extend(list("also").iter().map(|also| text(&also["path"]["path"])));
            paths.extend(list("objects").iter().map(|object| object["path"].as_str().unwrap().to_owned()));
        }
        paths.sort();
        paths
    }
}

#[test]
fn five_hundred_files_are_one_finding_that_names_them_all() {
    let mut world = World::new();
    let names: Vec<String> = (0..500).map(|n| format!("/srv/app/part{}/{n:03}", n % 10)).collect();
    names.iter().for_each(|name| world.observe(name, Severity::Info));
    assert_eq!(world.told, []);
    world.wait();
    assert_eq!(world.told.len(), 1);
    assert_eq!(world.told[0].title, "rsync modified 500 objects below /srv/app");
    assert_eq!((world.told[0].rule.as_str(), world.told[0].severity), ("file.modified", Severity::Info));
    assert_eq!(world.told[0].observed.count, 500);
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(world.paths(), sorted);
    assert!(
        serde_json::to_vec(&world.told[0]).unwrap().len() < picket_protocol::record::RECORD_BYTES_MAX / 2
    );
    // What comes later of the same run says so.
    world.observe("/srv/app/late", Severity::Info);
    world.wait();
    assert_eq!(world.told[1].evidence["part_of"], world.told[0].id.to_string());
}

#[test]
fn a_single_file_is_told_as_ever() {
    let mut world = World::new();
    world.observe("/srv/a", Severity::Low);
    world.wait();
    assert_eq!(world.told.len(), 1);
    assert!(world.told[0].evidence.get("run").is_none() && !world.told[0].title.contains("rsync"));
}

#[test]
fn what_weighs_most_leads_with_all_that_is_known_of_it() {
    let mut world = World::new();
    (0..40).for_each(|n| world.observe(&format!("/srv/{n}"), Severity::Info));
    world.observe("/usr/local/bin/x", Severity::Medium);
    (40..60).for_each(|n| world.observe(&format!("/srv/{n}"), Severity::Info));
    world.wait();
    assert_eq!((world.told.len(), world.told[0].severity), (1, Severity::Medium));
    assert!(world.told[0].evidence.get("object").is_none());
    assert_eq!(world.paths().len(), 61);
    assert_eq!(world.told[0].title, "rsync modified 61 objects below /");
}

#[test]
fn a_run_without_end_is_told_in_pieces_and_nothing_is_lost() {
    let mut world = World::new();
    let count = RUN_PARTS_MAX * 2 + 10;
    (0..count).for_each(|n| world.observe(&format!("/srv/{n:05}"), Severity::Info));
    world.wait();
    assert_eq!(world.paths().len(), count);
    assert!(world.told.len() >= 3 && world.told.len() <= 6, "{}", world.told.len());
    assert!(world.told.iter().all(|one| one.evidence["run"]["left_out"] == 0));
}

#[test]
fn packages_of_npm_are_named() {
    let mut told = Vec::new();
    for (path, part) in
        [("a/package.json", Some("a 1.2")), ("a/x.js", None), ("@s/b/y.js", None), (".bin/x", None)]
    {
        let change = change(&format!("/srv/node_modules/{path}"));
        let mut finding = finding(&change);
        crate::detect::packages::transaction::note(&mut finding, "hand", serde_json::json!({ "part": part }));
        told.push((change.path.clone(), finding));
    }
    let run = Run { tool: "npm".to_owned(), pid: 1, started: Timestamp::default(), explained: true };
    let finding = telling::one(&run, told).unwrap();
    assert_eq!(finding.title, "npm modified 4 objects below /srv/node_modules: @s/b and 1 more");
    assert_eq!(finding.evidence["run"]["packages"], serde_json::json!(["@s/b", "a 1.2"]));
    assert!(finding.evidence["run"]["proof"].as_str().unwrap().contains("archive"));
}

/// As snapd and flatpak lay things out on a host of theirs.
#[test]
fn images_of_snapd_and_applications_of_flatpak_are_named() {
    let title = |tool: &str, paths: &[&str]| {
        let told = paths.iter().map(|path| (path.into(), finding(&change(path)))).collect();
        let run = Run { tool: tool.to_owned(), pid: 1, started: Timestamp::default(), explained: true };
        telling::one(&run, told).unwrap().title
    };
    let snap = ["/var/lib/snapd/snaps/core22_864.snap", "/var/lib/snapd/state.json", "/var/lib/snapd/x.snap"];
    assert_eq!(title("snapd", &snap), "snapd modified 3 objects below /var/lib/snapd: core22 revision 864");
    let flatpak = [
        "/var/lib/flatpak/app/org.example.A/x86_64/stable/0123/files/x",
        "/var/lib/flatpak/runtime/org.example.P/x86_64/1/4567",
        "/var/lib/flatpak/repo/objects/01/23.file",
    ];
    let expected = "flatpak modified 3 objects below /var/lib/flatpak: org.example.A and 1 more";
    assert_eq!(title("flatpak", &flatpak), expected);
}

proptest! {
    #[test]
    fn whatever_comes_each_path_is_told_once(
        steps in proptest::collection::vec((0..3_u8, "[a-z\u{1}\u{e9}\"]{1,400}", 0..4_u8), 1..120)
    ) {
        let mut world = World::new();
        for (n, (step, name, severity)) in steps.iter().enumerate() {
            if *step == 2 {
                world.wait();
            }
            let severity = [Severity::Info, Severity::Low, Severity::Medium, Severity::High][usize::from(*severity)];
            world.observe(&format!("/srv/{n}/{name}"), severity);
        }
        world.wait();
        prop_assert_eq!(world.paths().len(), steps.len());
        prop_assert_eq!(world.stage.waiting(), 0);
        for finding in &world.told {
            prop_assert!(serde_json::to_vec(finding).unwrap().len() < picket_protocol::record::RECORD_BYTES_MAX);
        }
    }
}
