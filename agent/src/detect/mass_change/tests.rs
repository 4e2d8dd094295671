use std::path::PathBuf;
use std::sync::Arc;

use picket_protocol::finding::{Observed, Severity};
use picket_protocol::record::{Draft, Kind as RecordKind};
use proptest::prelude::*;

use super::*;
use crate::sense::files::change::{Beneath, SeenBy};
use crate::sense::files::note::Note;
use crate::sense::files::object::{Content, Kind, Metadata, ObjectState};
use crate::sense::files::traits::{Format, Traits};

const START: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(START + seconds)
}

fn state(kind: Kind, format: Format, digest: u8) -> ObjectState {
    let entropy = if format.is_scrambled() { Some(127) } else { Some(65) };
    ObjectState {
        meta: Metadata {
            kind,
            size: 4_096,
            birth: 1,
            inode: 7,
            links: 1,
            mode: 0o644,
            ..Metadata::default()
        },
        content: if kind == Kind::File { Content::Digest([digest; 32]) } else { Content::None },
        traits: Traits { format, entropy },
        sample: None,
        ..ObjectState::default()
    }
}

fn file(format: Format, digest: u8) -> ObjectState {
    state(Kind::File, format, digest)
}

fn change(path: &str, before: Option<ObjectState>, after: Option<ObjectState>, seconds: i64) -> FileChange {
    FileChange {
        path: path.into(),
        before,
        after,
        moved_from: None,
        moved_to: None,
        seen_by: SeenBy::Event,
        window: None,
        observed: Observed::once(at(seconds)),
        beneath_count: 0,
        beneath: Vec::new(),
        actor: None,
        other_actors: Vec::new(),
        actor_unknown: None,
        text: None,
        note: None,
    }
}

fn program(name: &str) -> Option<Text> {
    Some(Text::from_bytes(name.as_bytes()))
}

/// A process with those above it, nearest first.
fn by(pid: u32, executable: &str, parents: &[(u32, &str)]) -> Option<Arc<Actor>> {
    Some(Arc::new(Actor {
        pid,
        started: Some(at(-10)),
        executable: program(executable),
        executable_deleted: false,
        command_line: None,
        command_line_cut: false,
        uid: Some(1_000),
        effective_uid: None,
        login_uid: None,
        audit_session: None,
        container: None,
        parents: parents
            .iter()
            .map(|&(pid, name)| Ancestor {
                pid,
                started: Some(at(-100)),
                executable: program(name),
                script: None,
            })
            .collect(),
        known_by: "bpf".to_owned(),
    }))
}

/// A detector with a counter for ids.
struct World {
    detector: MassChange,
    ids: u128,
    findings: Vec<Finding>,
}

impl World {
    fn new() -> Self {
        Self {
            detector: MassChange::new(Thresholds::default(), Habits::default()),
            ids: 0,
            findings: Vec::new(),
        }
    }

    fn observe(&mut self, change: &FileChange) -> Option<Uuid> {
        let ids = &mut self.ids;
        let seen = self.detector.observe(change, change.observed.last, &mut || {
            *ids += 1;
            Uuid::from_u128(*ids)
        });
        self.findings.extend(seen.findings);
        seen.part_of
    }

    fn tick(&mut self, seconds: i64) {
        let ids = &mut self.ids;
        let found = self.detector.tick(at(seconds), &mut || {
            *ids += 1;
            Uuid::from_u128(*ids)
        });
        self.findings.extend(found);
    }

    fn acts(&self) -> usize {
        let mut ids: Vec<Uuid> = self.findings.iter().map(|finding| finding.id).collect();
        ids.sort();
        ids.dedup();
        ids.len()
    }

    fn last(&self) -> &Finding {
        self.findings.last().unwrap()
    }
}

fn encrypted(number: u64, actor: Option<Arc<Actor>>, seconds: i64) -> FileChange {
    let path = format!("/srv/data/{}/{number}.odt", number % 5);
    FileChange { actor, ..change(&path, Some(file(Format::Text, 1)), Some(file(Format::Opaque, 2)), seconds) }
}

#[test]
fn ten_encrypted_files_are_an_alarm_that_names_the_process() {
    let mut world = World::new();
    let actor = by(77, "/tmp/locker", &[(76, "/usr/bin/bash"), (1, "/usr/lib/systemd/systemd")]);
    for number in 0..9 {
        world.observe(&encrypted(number, actor.clone(), 0));
    }
    assert!(world.findings.is_empty());
    let part_of = world.observe(&encrypted(9, actor, 0));
    let finding = world.last();
    assert_eq!((finding.rule.as_str(), finding.severity), ("file.mass-change", Severity::Critical));
    assert_eq!(part_of, Some(finding.id));
    assert_eq!(finding.title, "locker (process 77) encrypted 10 files in 5 folders");
    assert_eq!(finding.evidence["origin"]["pid"], 77);
    assert!(finding.attack.contains(&"T1486".to_owned()));
}

#[test]
fn a_script_that_starts_a_process_for_each_file_is_one_act_of_the_script() {
    let mut world = World::new();
    let above = [(50, "/usr/bin/dash"), (40, "/usr/bin/bash"), (30, "/usr/sbin/sshd"), (1, "/sbin/init")];
    for number in 0..200u32 {
        let actor = by(1_000 + number, "/usr/bin/openssl", &above);
        world.observe(&encrypted(u64::from(number), actor, i64::from(number) / 20));
    }
    world.tick(60);
    assert_eq!(world.acts(), 1);
    assert!(world.findings.len() < 8, "{} findings", world.findings.len());
    let finding = world.last();
    assert_eq!(finding.observed.count, 200);
    assert_eq!(finding.title, "dash (process 50) by openssl encrypted 200 files in 5 folders");
}

#[test]
fn batches_of_one_script_are_one_act() {
    let mut world = World::new();
    for batch in 0..4u32 {
        let actor = by(200 + batch, "/usr/bin/find", &[(50, "/usr/bin/dash"), (1, "/sbin/init")]);
        for number in 0..30 {
            world.observe(&encrypted(u64::from(batch) * 30 + number, actor.clone(), i64::from(batch)));
        }
    }
    world.tick(60);
    assert_eq!(world.acts(), 1);
    assert_eq!(world.last().observed.count, 120);
}

#[test]
fn a_new_file_beside_the_one_that_vanishes_is_its_encryption() {
    for deleted_first in [false, true] {
        let mut world = World::new();
        for number in 0..12 {
            let path = format!("/srv/data/{number}.odt");
            let gone = change(&path, Some(file(Format::Text, 1)), None, 0);
            let new = change(&format!("{path}.locked"), None, Some(file(Format::Encrypted, 2)), 0);
            let order = if deleted_first { [gone, new] } else { [new, gone] };
            order.iter().for_each(|change| {
                world.observe(change);
            });
        }
        let finding = world.last();
        assert_eq!(finding.rule, "file.mass-change");
        assert_eq!(finding.evidence["harms"][0]["harm"], "encrypted");
        assert!(finding.title.contains("now named *.locked"), "{}", finding.title);
        assert!(finding.title.starts_with("In /srv/data, a process that is not known"), "{}", finding.title);
    }
}

#[test]
fn deletions_wait_for_what_is_written_in_their_place() {
    let deletion = |number: u64, seconds| {
        let actor = by(9, "/usr/bin/rm", &[]);
        let path = format!("/srv/data/{number}.odt");
        FileChange { actor, ..change(&path, Some(file(Format::Text, 1)), None, seconds) }
    };
    let mut world = World::new();
    (0..25).for_each(|number| {
        world.observe(&deletion(number, 0));
    });
    assert!(world.findings.is_empty());
    assert_eq!(world.detector.due_in(at(0)), Some(Duration::from_secs(3)));
    world.tick(3);
    assert_eq!(world.last().severity, Severity::Critical);
    assert_eq!(world.last().attack, ["T1485"]);

    let mut world = World::new();
    (0..25).for_each(|number| {
        world.observe(&deletion(number, 0));
    });
    for number in 0..20 {
        let new = change(&format!("/srv/data/{number}.html"), None, Some(file(Format::Text, 9)), 1);
        world.observe(&FileChange { actor: by(9, "/usr/bin/rm", &[]), ..new });
    }
    world.tick(3);
    assert!(world.findings.is_empty());
}

/// A file that is emptied, and a moment later written.
fn anew(number: u64, before: ObjectState, after: ObjectState) -> [FileChange; 2] {
    let path = format!("/srv/data/{}/{number}.odt", number % 5);
    let mut empty = file(Format::Empty, 0);
    empty.meta.size = 0;
    [change(&path, Some(before), Some(empty.clone()), 1), change(&path, Some(empty), Some(after), 1)]
}

#[test]
fn a_file_that_is_emptied_to_be_written_anew_came_to_no_harm() {
    let mut world = World::new();
    let same = |number: u64| anew(number, file(Format::Text, 1), file(Format::Text, 1));
    // All are caught empty before any is written again: the same text in every folder, and what nobody could read before.
    let keys = |number: u64| anew(number, file(Format::Opaque, 3), file(Format::Opaque, 4));
    let pairs: Vec<[FileChange; 2]> = (0..40).map(same).chain((40..80).map(keys)).collect();
    for which in 0..2 {
        pairs.iter().for_each(|pair| {
            world.observe(&pair[which]);
        });
    }
    world.tick(10);
    assert!(world.findings.is_empty(), "{:#?}", world.findings);

    let mut world = World::new();
    (0..20).for_each(|number| {
        world.observe(&same(number)[0]);
    });
    assert!(world.findings.is_empty());
    world.tick(10);
    assert_eq!((world.last().rule.as_str(), world.acts()), ("file.mass-change", 1));

    let mut world = World::new();
    for number in 0..10 {
        anew(number, file(Format::Text, 1), file(Format::Opaque, 2)).iter().for_each(|change| {
            world.observe(change);
        });
    }
    assert_eq!(
        (world.last().severity, world.acts()),
        (Severity::Critical, 1),
        "encrypted after it was emptied"
    );

    let mut world = World::new();
    for number in 0..12 {
        anew(number, file(Format::Text, 1), file(Format::Text, 2)).iter().for_each(|change| {
            world.observe(change);
        });
    }
    assert_eq!(world.acts(), 1, "the same other text in all of them");
}

#[test]
fn a_directory_that_goes_counts_with_what_it_held() {
    let beneath = |name: &str| Beneath { path: name.into(), state: file(Format::Text, 1) };
    let mut gone = change("/srv/data", Some(state(Kind::Directory, Format::Unknown, 0)), None, 0);
    (gone.beneath_count, gone.beneath) =
        (400, (0..200).map(|number| beneath(&format!("{number}.txt"))).collect());
    let mut world = World::new();
    world.observe(&gone);
    world.tick(3);
    assert_eq!(world.last().observed.count, 400);
    // A build's own directory is nobody's loss.
    gone.path = PathBuf::from("/srv/data/node_modules");
    let mut world = World::new();
    world.observe(&gone);
    world.tick(3);
    assert!(world.findings.is_empty());
}

#[test]
fn slow_deletions_by_hand_are_none() {
    let mut world = World::new();
    for number in 0..60 {
        let path = format!("/srv/data/{number}.odt");
        world.observe(&change(&path, Some(file(Format::Text, 1)), None, number * 10));
        world.tick(number * 10 + 4);
    }
    assert!(world.findings.is_empty());
}

#[test]
fn package_managers_and_git_may_delete_and_no_one_may_encrypt() {
    for (name, parents) in
        [("/usr/bin/dpkg", vec![]), ("/usr/bin/rm", vec![(5, "/usr/bin/dpkg")]), ("/usr/bin/git", vec![])]
    {
        let mut world = World::new();
        for number in 0..100 {
            let path = format!("/usr/bin/{number}");
            let deletion = change(&path, Some(file(Format::Executable, 1)), None, 0);
            world.observe(&FileChange { actor: by(9, name, &parents), ..deletion });
        }
        world.tick(3);
        assert!(world.findings.is_empty(), "{name}");
        (0..10).for_each(|number| {
            world.observe(&encrypted(number, by(9, name, &parents), 1));
        });
        assert_eq!(world.acts(), 1, "{name}");
    }
}

#[test]
fn the_temporary_files_of_a_process_are_its_own() {
    let mut world = World::new();
    for number in 0..50 {
        let mut own = file(Format::Text, 1);
        own.meta.birth = at(-5).nanos();
        let path = format!("/srv/data/{number}.part1");
        world
            .observe(&FileChange { actor: by(9, "/usr/bin/sort", &[]), ..change(&path, Some(own), None, 0) });
    }
    world.tick(3);
    assert!(world.findings.is_empty());
}

#[test]
fn what_a_program_does_every_day_is_a_habit() {
    let mut habits = Habits::default();
    for day in 0..4 {
        let mut detector = MassChange::new(Thresholds::default(), habits);
        let mut found = Vec::new();
        let start = day * 86_400;
        for number in 0..30 {
            let path = format!("/srv/backup/{day}-{number}.tar");
            let gone = change(&path, Some(file(Format::Compressed, 1)), None, start);
            let gone = FileChange { actor: by(9, "/usr/bin/find", &[]), ..gone };
            detector.observe(&gone, at(start), &mut || Uuid::nil());
        }
        found.extend(detector.tick(at(start + 3), &mut || Uuid::nil()));
        assert_eq!(found.len(), 1);
        let expected = if day < 2 { Severity::Critical } else { Severity::Medium };
        assert_eq!(found[0].severity, expected, "day {day}");
        // By way of the database.
        habits = Habits::restore(detector.take_habits().unwrap());
    }
}

fn dropped(folder: u64, text: &str, actor: Option<Arc<Actor>>) -> FileChange {
    let note = Note::of(text.as_bytes());
    let new = change(&format!("/srv/data/{folder}/README.txt"), None, Some(file(Format::Text, 9)), 0);
    FileChange { actor, note, ..new }
}

const DEMAND: &str = "Your files were encrypted. To decrypt them pay one bitcoin, or they will be published. Visit us by Tor browser";
const LICENCE: &str =
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software";

#[test]
fn a_demand_in_five_folders_is_critical_and_its_text_has_a_fingerprint() {
    let mut world = World::new();
    for folder in 0..60 {
        world.observe(&dropped(folder, &format!("{DEMAND} id {folder}"), by(9, "/usr/bin/dash", &[])));
    }
    world.tick(60);
    assert_eq!(world.acts(), 1);
    let first = &world.findings[0];
    assert_eq!(
        (first.rule.as_str(), first.severity, first.observed.count),
        ("file.note-dropped", Severity::Critical, 5)
    );
    let fingerprint = Note::of(DEMAND.as_bytes()).unwrap().fingerprint;
    let given = u64::from_str_radix(first.evidence["note"]["fingerprint"].as_str().unwrap(), 16).unwrap();
    assert!((fingerprint ^ given).count_ones() <= 7);
    assert_eq!(world.last().observed.count, 60);
}

#[test]
fn a_licence_in_every_folder_of_an_archive_is_none() {
    let mut world = World::new();
    for folder in 0..60 {
        for number in 0..20 {
            let path = format!("/srv/data/{folder}/{number}.c");
            world.observe(&change(&path, None, Some(file(Format::Text, number)), 0));
        }
        world.observe(&dropped(folder, LICENCE, None));
    }
    assert!(world.findings.is_empty());
    // Beside a demand in folders that the archive brings itself.
    for folder in 100..160 {
        world.observe(&change(
            &format!("/srv/data/{folder}"),
            None,
            Some(state(Kind::Directory, Format::Unknown, 0)),
            0,
        ));
        world.observe(&dropped(folder, DEMAND, None));
    }
    assert!(world.findings.is_empty());
}

#[test]
fn what_is_already_dense_or_own_format_is_not_encrypted_by_a_save() {
    let mut world = World::new();
    for number in 0..100 {
        let formats = [Format::Compressed, Format::Media, Format::Opaque, Format::Encrypted];
        let format = formats[usize::try_from(number).unwrap() % 4];
        let (mut before, mut after) = (file(format, 1), file(format, u8::try_from(number).unwrap()));
        (before.traits.entropy, after.traits.entropy) = (Some(126), Some(127));
        world.observe(&change(&format!("/srv/data/{number}"), Some(before), Some(after), 0));
    }
    world.tick(3);
    assert!(world.findings.is_empty());
}

fn any_change() -> impl Strategy<Value = FileChange> {
    let any_file = || {
        (0usize..15, any::<u8>(), any::<bool>()).prop_map(|(format, digest, directory)| {
            let format = Traits::from_code(u16::try_from(format).unwrap()).format;
            state(if directory { Kind::Directory } else { Kind::File }, format, digest % 4)
        })
    };
    let states = (prop::option::of(any_file()), prop::option::of(any_file()));
    let who = prop::option::of((1u32..8, 8u32..12).prop_map(|(pid, above)| (pid, above)));
    (states, "/(srv|home)/[a-c]/[a-z]{1,2}(\\.[a-z]{1,3})?", who, 0i64..500, prop::bool::ANY).prop_map(
        |((before, after), path, who, seconds, noted)| {
            let note = if noted { Note::of(DEMAND.as_bytes()) } else { None };
            let actor = who.and_then(|(pid, above)| by(pid, "/usr/bin/x", &[(above, "/usr/bin/dash")]));
            FileChange { note, actor, ..change(&path, before, after, seconds) }
        },
    )
}

proptest! {
    /// Whatever comes: bounded tables, findings that fit into a record, counts that only grow, the same twice.
    #[test]
    fn whatever_comes_is_bounded_and_deterministic(changes in proptest::collection::vec(any_change(), 0..400)) {
        let run = || {
            let mut world = World::new();
            world.detector.thresholds.groups_max = 8;
            for change in &changes {
                world.observe(change);
                assert!(world.detector.groups.len() <= 8);
            }
            world.tick(10_000);
            world.findings
        };
        let findings = run();
        for finding in &findings {
            prop_assert!(Draft::new(RecordKind::Finding, finding.severity, finding).is_ok());
            prop_assert!(finding.title.chars().count() < 1_000);
        }
        let counts = |id| findings.iter().filter(move |finding| finding.id == id).map(|finding| finding.observed.count);
        for finding in &findings {
            prop_assert!(counts(finding.id).is_sorted());
        }
        prop_assert_eq!(run(), findings);
    }

    /// However the victims are ordered and whoever they belong to: twenty are enough.
    #[test]
    fn twenty_victims_of_one_tree_suffice(order in Just((0u64..20).collect::<Vec<_>>()).prop_shuffle(), processes in 1u32..20) {
        let mut world = World::new();
        for number in order {
            let pid = 100 + u32::try_from(number).unwrap() % processes;
            world.observe(&encrypted(number, by(pid, "/usr/bin/openssl", &[(50, "/usr/bin/dash")]), 0));
        }
        prop_assert!(world.findings.iter().any(|finding| finding.severity == Severity::Critical));
        prop_assert_eq!(world.acts(), 1);
    }
}
