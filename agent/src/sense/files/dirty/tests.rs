use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn set(paths_max: usize) -> DirtySet {
    DirtySet::new(Arc::from([PathBuf::from("/t")]), paths_max)
}

fn event(seconds: i64, due: Instant) -> Mark {
    Mark::event(Timestamp::from_seconds(seconds), due)
}

#[test]
fn many_events_on_a_path_are_one_mark_with_a_count() {
    let now = Instant::now();
    let mut set = set(10);
    for seconds in 1..=1_000 {
        set.mark(Path::new("/t/a"), event(seconds, now));
    }
    let taken = set.take_due(now, 10);
    assert_eq!(taken.len(), 1);
    let mark = &taken[0].1;
    assert_eq!((mark.count, mark.first.seconds(), mark.last.seconds()), (1_000, 1, 1_000));
    assert!(set.is_empty());
}

#[test]
fn a_mark_is_not_taken_before_it_is_due_and_an_earlier_one_pulls_it_forward() {
    let now = Instant::now();
    let mut set = set(10);
    set.mark(Path::new("/t/a"), event(1, now + Duration::from_secs(1)));
    assert!(set.take_due(now, 10).is_empty());
    assert_eq!(set.next_due(), Some(now + Duration::from_secs(1)));
    set.mark(Path::new("/t/a"), event(2, now));
    assert_eq!(set.take_due(now, 10).len(), 1);
}

#[test]
fn early_names_do_not_starve_late_ones() {
    let now = Instant::now();
    let mut set = set(10);
    set.mark(Path::new("/t/z"), event(1, now));
    set.mark(Path::new("/t/a"), event(1, now));
    assert_eq!(set.take_due(now, 1)[0].0, Path::new("/t/a"));
    set.mark(Path::new("/t/a"), event(2, now));
    assert_eq!(set.take_due(now, 1)[0].0, Path::new("/t/z"));
}

#[test]
fn both_ends_of_a_move_are_taken_together() {
    let now = Instant::now();
    let mut set = set(10);
    let to = Mark { moved_from: Some("/t/z".into()), ..event(1, now) };
    set.mark(Path::new("/t/a"), to);
    set.mark(Path::new("/t/z"), event(1, now + Duration::from_secs(9)));
    assert_eq!(set.take_due(now, 1).len(), 2);
}

#[test]
fn a_full_set_folds_the_fullest_directory_and_keeps_lone_marks() {
    let now = Instant::now();
    let mut set = set(10);
    set.mark(Path::new("/t/lone/file"), event(1, now));
    for number in 0..10 {
        set.mark(Path::new(&format!("/t/noisy/{number}")), event(2, now));
    }
    assert_eq!(set.collapsed(), 10);
    let taken = set.take_due(now, 100);
    let paths: Vec<_> = taken.iter().map(|(path, mark)| (path.to_str().unwrap(), mark.scope)).collect();
    assert_eq!(paths, [("/t/lone/file", Scope::Object), ("/t/noisy", Scope::Tree)]);
    assert_eq!(taken[1].1.count, 10);
}

#[test]
fn a_tree_absorbs_what_lies_beneath_and_what_comes_later() {
    let now = Instant::now();
    let mut set = set(10);
    set.mark(Path::new("/t/d/x"), event(1, now));
    set.mark(Path::new("/t/dd"), event(1, now));
    set.mark(
        Path::new("/t/d"),
        Mark::rescan(Timestamp::from_seconds(2), now, Some(Timestamp::from_seconds(0))),
    );
    set.mark(Path::new("/t/d/y"), event(3, now));
    let taken = set.take_due(now, 100);
    assert_eq!(taken.len(), 2);
    assert_eq!(taken[0].0, Path::new("/t/d"));
    assert_eq!((taken[0].1.count, taken[0].1.seen_by), (3, SeenBy::Rescan));
}

fn any_path() -> impl Strategy<Value = PathBuf> {
    proptest::collection::vec(0..4u8, 0..6)
        .prop_map(|parts| parts.iter().fold(PathBuf::from("/t"), |path, part| path.join(part.to_string())))
}

proptest! {
    /// Whatever is marked stays covered until it is taken, and the bound holds.
    #[test]
    fn nothing_is_forgotten(
        steps in proptest::collection::vec((any_path(), any::<bool>(), 0..20u8), 1..300),
        paths_max in 2..40usize,
    ) {
        let now = Instant::now();
        let mut set = set(paths_max);
        let mut open: Vec<PathBuf> = Vec::new();
        for (path, tree, take) in steps {
            let mark = event(1, now);
            set.mark(&path, if tree { mark.whole_tree() } else { mark });
            open.push(path);
            prop_assert!(set.len() <= paths_max);
            prop_assert!(open.iter().all(|path| set.covers(path)), "{open:?}");
            if take == 0 {
                let taken = set.take_due(now, 3);
                open.retain(|path| {
                    !taken.iter().any(|(at, mark)| {
                        path == at || (mark.scope == Scope::Tree && path.starts_with(at))
                    })
                });
            }
        }
        let bytes: usize = set.marks.keys().map(Vec::len).sum();
        prop_assert_eq!(set.bytes, bytes);
        prop_assert_eq!(set.trees_marked, set.marks.values().filter(|mark| mark.scope == Scope::Tree).count());
        while !set.is_empty() {
            prop_assert!(!set.take_due(now, 7).is_empty());
        }
    }
}

#[test]
fn what_lies_beneath_a_directory_comes_right_behind_it() {
    let paths = ["/", "/t", "/t/a", "/t/a/b", "/t/a-b", "/t/a.b", "/t-", "/t0"];
    let mut keys: Vec<Vec<u8>> = paths.iter().map(|path| order(Path::new(path))).collect();
    keys.reverse();
    keys.sort();
    assert_eq!(keys.iter().cloned().map(path_of).collect::<Vec<_>>(), paths.map(PathBuf::from));
    for (at, key) in keys.iter().enumerate() {
        let above: Vec<PathBuf> = std::iter::successors(Some(key.as_slice()), |key| above(key))
            .map(|key| path_of(key.to_vec()))
            .collect();
        assert_eq!(above, Path::new(paths[at]).ancestors().collect::<Vec<_>>());
        for (other, path) in keys.iter().zip(paths) {
            assert_eq!(
                is_within(other, key),
                Path::new(path).starts_with(paths[at]),
                "{path} in {}",
                paths[at]
            );
        }
    }
}
