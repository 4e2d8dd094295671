use proptest::prelude::*;

use super::super::records::tests::{event, handle, named, record};
use super::*;

const WATCHED: &[u8] = b"watched!";
const OUTSIDE: &[u8] = b"outside!";
const ABOVE: &[u8] = b"above---";
const ENTRY: u8 = libc::FAN_EVENT_INFO_TYPE_DFID_NAME;
const OLD: u8 = libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME;
const NEW: u8 = libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME;
const OWN: i32 = 77;

fn key(directory: &[u8]) -> Vec<u8> {
    let mut key = Vec::new();
    write_key(&mut key, &Handle { filesystem: *b"fsid5678", handle_type: 1, bytes: directory });
    key
}

/// With one directory outside and one above the tree `/srv/www`.
fn told() -> Foreign {
    let foreign = Foreign::default();
    foreign.begin([b"/".to_vec(), b"srv".to_vec(), b"www".to_vec()].into());
    let epoch = epoch(&foreign);
    foreign.remember(&key(OUTSIDE), Side::Outside, epoch);
    foreign.remember(&key(ABOVE), Side::Above, epoch);
    foreign
}

fn sift(foreign: &Foreign, buffer: &[u8]) -> Sifted {
    foreign.sift(buffer, Some(OWN), &Aliases::default())
}

fn epoch(foreign: &Foreign) -> u64 {
    match sift(foreign, &written(b"never seen", b"x")) {
        Sifted::Something { epoch } => epoch,
        Sifted::Nothing { .. } => panic!("what is not known must be resolved"),
    }
}

fn written(directory: &[u8], name: &[u8]) -> Vec<u8> {
    event(libc::FAN_CREATE | libc::FAN_CLOSE_WRITE, 5, &[named(ENTRY, directory, name)])
}

fn moved(from: &[u8], to: &[u8]) -> Vec<u8> {
    let records = [named(OLD, from, b"a"), named(NEW, to, b"b")];
    event(libc::FAN_RENAME | libc::FAN_ONDIR, 5, &records)
}

fn is_dropped(foreign: &Foreign, buffer: &[u8]) -> bool {
    matches!(sift(foreign, buffer), Sifted::Nothing { .. })
}

#[test]
fn only_what_is_known_to_lie_outside_is_dropped() {
    let foreign = told();
    assert!(is_dropped(&foreign, &written(OUTSIDE, b"x")));
    assert!(is_dropped(&foreign, &written(ABOVE, b"tmp")));
    assert!(!is_dropped(&foreign, &written(ABOVE, b"www")));
    assert!(!is_dropped(&foreign, &written(ABOVE, b".")), "the directory itself");
    assert!(!is_dropped(&foreign, &written(WATCHED, b"x")));
    assert!(!is_dropped(&foreign, &[written(OUTSIDE, b"x"), written(WATCHED, b"x")].concat()));
    assert!(!is_dropped(&foreign, &event(libc::FAN_Q_OVERFLOW, 0, &[])));
    assert!(!is_dropped(&foreign, b"no event"));
    let object = record(libc::FAN_EVENT_INFO_TYPE_FID, &handle(b"file"));
    let links = event(libc::FAN_ATTRIB, 5, std::slice::from_ref(&object));
    assert!(!is_dropped(&foreign, &links), "a file whose directory is not told");
    let deletion = |at| event(libc::FAN_DELETE, 5, &[named(ENTRY, at, b"x"), object.clone()]);
    assert!(is_dropped(&foreign, &[links.clone(), deletion(OUTSIDE)].concat()));
    assert!(is_dropped(&foreign, &[deletion(OUTSIDE), links.clone()].concat()));
    assert!(!is_dropped(&foreign, &[links, deletion(WATCHED)].concat()));
    let own = event(libc::FAN_CLOSE_WRITE, OWN, &[named(ENTRY, WATCHED, b"x")]);
    assert_eq!(sift(&foreign, &own), Sifted::Nothing { own: 1 });
}

#[test]
fn a_directory_that_may_come_into_a_tree_makes_it_forget_all() {
    for (from, to) in [(OUTSIDE, WATCHED), (WATCHED, OUTSIDE), (OUTSIDE, b"unknown!")] {
        let foreign = told();
        assert!(is_dropped(&foreign, &moved(OUTSIDE, OUTSIDE)));
        let before = epoch(&foreign);
        assert!(!is_dropped(&foreign, &moved(from, to)));
        assert!(!is_dropped(&foreign, &written(OUTSIDE, b"x")));
        // What was resolved of events that were read before the move says nothing any more.
        foreign.remember(&key(OUTSIDE), Side::Outside, before);
        assert!(!is_dropped(&foreign, &written(OUTSIDE, b"x")));
        foreign.remember(&key(OUTSIDE), Side::Outside, epoch(&foreign));
        assert!(is_dropped(&foreign, &written(OUTSIDE, b"x")));
    }
    // What was read in one batch with the move may have been resolved to where it was before.
    let foreign = told();
    let batch = [written(OUTSIDE, b"x"), moved(OUTSIDE, WATCHED)].concat();
    let Sifted::Something { epoch: began } = sift(&foreign, &batch) else { panic!("a move into a tree") };
    foreign.remember(&key(OUTSIDE), Side::Outside, began);
    assert!(!is_dropped(&foreign, &written(OUTSIDE, b"x")));
    let foreign = told();
    foreign.begin(HashSet::new());
    assert!(!is_dropped(&foreign, &written(OUTSIDE, b"x")), "other trees");
}

#[test]
fn the_table_is_bounded_and_keeps_what_is_asked_for() {
    let foreign = told();
    let epoch = epoch(&foreign);
    for number in 0..10 * DIRECTORIES_MAX {
        foreign.remember(&key(&number.to_ne_bytes()), Side::Outside, epoch);
        assert!(is_dropped(&foreign, &written(OUTSIDE, b"x")), "after {number} others");
    }
    let table = foreign.lock();
    assert!(table.young.len() + table.old.len() <= 2 * DIRECTORIES_MAX);
}

proptest! {
    /// Whatever else is in a batch, what concerns a watched directory is never dropped with it.
    #[test]
    fn an_event_of_a_watched_directory_is_never_dropped(
        others in proptest::collection::vec((0..4usize, 0..3usize), 0..20),
        at in 0..20usize,
    ) {
        let foreign = told();
        let places = [OUTSIDE, ABOVE, b"unknown!", OUTSIDE];
        let mut events: Vec<Vec<u8>> = others
            .into_iter()
            .map(|(place, kind)| match kind {
                0 => written(places[place], b"tmp"),
                1 => moved(places[place], OUTSIDE),
                _ => event(libc::FAN_ATTRIB, OWN, &[named(ENTRY, places[place], b"y")]),
            })
            .collect();
        events.insert(at.min(events.len()), written(WATCHED, b"x"));
        prop_assert!(!is_dropped(&foreign, &events.concat()));
    }
}
