//! Crashes the ledger at every boundary between itself and the disk, and compares what is found with a plain
//! model: every confirmed entry is there exactly once with its state change, an unconfirmed one wholly or
//! not at all, the tree's root is the model's, and the key in force is usable.
//!
//! SQLite runs on a disk in memory that knows what was written and what was synced. A generated history of
//! commits, acknowledgements, key rotations, restarts, clock changes and failing writes and syncs is run
//! once; at each write, truncation, sync, creation and removal it is noted what a crash at that moment could
//! leave. Each such image is then opened and examined.
#![expect(clippy::indexing_slicing, reason = "a test that reads out of bounds has failed")]

mod disk;
mod keys;
mod vfs;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};

use disk::{Disk, Image};
use keys::DiskKeys;
use world::{Dump, EntrySpec, Operation, StateSpec, World};

fn layer(name: &str) -> &'static Disk {
    let disk: &'static Disk = Box::leak(Box::default());
    vfs::register(name, disk);
    disk
}

fn entry() -> impl Strategy<Value = EntrySpec> {
    let records = prop::collection::vec((0u8..5, 0u16..600), 0..5);
    let state = prop_oneof![
        3 => Just(StateSpec::None),
        4 => Just(StateSpec::Good),
        1 => Just(StateSpec::Refused),
    ];
    (records, state).prop_map(|(records, state)| EntrySpec { records, state })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        10 => (prop::collection::vec(entry(), 1..4), 0u16..900)
            .prop_map(|(entries, seconds)| Operation::Commit { entries, seconds }),
        3 => any::<u8>().prop_map(|part| Operation::Acknowledge { part }),
        2 => Just(Operation::Rotate),
        1 => Just(Operation::Shrink),
        2 => Just(Operation::Reopen),
        1 => (-4_000i32..4_000).prop_map(|seconds| Operation::ClockSet { seconds }),
        2 => (0u8..40).prop_map(|after| Operation::Fault { after }),
    ]
}

fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn the_ledger_does_what_the_plain_model_does() {
    let disk = layer("model");
    let histories = prop::collection::vec(operation(), 1..60);
    let config = Config { cases: cases(60), failure_persistence: None, ..Config::default() };
    let mut runner = prop::test_runner::TestRunner::new(config);
    let result = runner.run(&(histories, any::<u64>()), |(history, seed)| {
        let mut world = World::start(disk, "model", seed, false);
        history.iter().for_each(|operation| world.run(operation));
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn a_crash_at_any_boundary_loses_nothing_doubles_nothing_and_leaves_nothing_half() {
    let (disk, second) = (layer("history"), layer("after"));
    let histories = prop::collection::vec(operation(), 6..14);
    let config =
        Config { cases: cases(12), failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = prop::test_runner::TestRunner::new(config);
    let examined = std::cell::Cell::new(0usize);
    let result = runner.run(&(histories, any::<u64>()), |(history, seed)| {
        let mut world = World::start(disk, "history", seed, true);
        history.iter().for_each(|operation| world.run(operation));
        let images = disk.state().images.take().unwrap_or_default();
        examined.set(examined.get() + images.len());
        images.iter().enumerate().try_for_each(|(at, image)| examine(second, at, image, &world.dumps))
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    println!("{} crashes examined", examined.get());
    assert!(examined.get() > 500, "only {} crashes were examined", examined.get());
}

/// Opens what the crash left and compares it with what was there before the operation that was under way,
/// and after it.
fn examine(disk: &'static Disk, at: usize, image: &Image, dumps: &[Dump]) -> Result<(), TestCaseError> {
    disk.load(image);
    let store = World::reopen(disk, "after");
    let location =
        picket_agent::ledger::Location { path: world::DATABASE.into(), vfs: Some("after".to_owned()) };
    let found = Dump::read(&location);
    let before = image.operation.checked_sub(1).and_then(|before| dumps.get(before));
    let after = dumps.get(image.operation);
    prop_assert!(
        Some(&found) == before || Some(&found) == after,
        "image {at} ({:?}) in operation {}: {} records, {} acknowledged; before {:?}, after {:?}",
        image.luck,
        image.operation,
        found.size,
        found.acknowledged,
        before.map(|dump| (dump.size, dump.acknowledged)),
        after.map(|dump| (dump.size, dump.acknowledged))
    );
    world::carry_on(store, &location, &DiskKeys(disk));
    Ok(())
}
