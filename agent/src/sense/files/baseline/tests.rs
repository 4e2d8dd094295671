use proptest::prelude::*;

use super::super::extended::Extended;
use super::super::object::Guards;
use super::*;

fn database() -> (tempfile::TempDir, Connection) {
    let directory = tempfile::tempdir().unwrap();
    let connection = Connection::open(directory.path().join("db")).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.pragma_update(None, "synchronous", "OFF").unwrap();
    connection.execute_batch(crate::sense::files::SCHEMA).unwrap();
    (directory, connection)
}

fn row(id: Option<i64>, size: u64) -> Row {
    let kind = if id.is_some() { Kind::Directory } else { Kind::File };
    let content = if id.is_some() { Content::None } else { Content::Digest([7; 32]) };
    let meta = Metadata {
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        size,
        mtime: -3,
        ctime: 4,
        birth: 5,
        inode: u64::MAX,
        links: 1,
        guards: Guards::from_bits(5),
    };
    let extended = Extended::from_bytes(&[1, 2, 3, 4]);
    let state =
        ObjectState { meta, content, racy: true, extended, traits: Traits::from_code(0x7a3), sample: None };
    Row { id, state, listed: id.is_some(), absent: false }
}

fn written(baseline: &mut Baseline, writes: Vec<Write>, seen_until: Option<Timestamp>) -> StateWrite {
    baseline.stage(writes);
    baseline.write(seen_until).unwrap()
}

fn commit(connection: &mut Connection, mut write: StateWrite) {
    let transaction = connection.transaction().unwrap();
    write(&transaction).unwrap();
    transaction.commit().unwrap();
}

fn key(parent: i64, name: &str) -> Key {
    Key { parent, name: name.as_bytes().to_vec() }
}

#[test]
fn every_content_comes_back_as_it_went() {
    let (directory, mut connection) = database();
    let mut baseline = Baseline::open(&directory.path().join("db")).unwrap();
    let contents = [
        (Kind::File, Content::Digest([9; 32])),
        (Kind::File, Content::Pending),
        (Kind::File, Content::Unreadable(5)),
        (Kind::Symlink, Content::Target(b"\xff/\n".to_vec())),
        (Kind::Symlink, Content::Target(vec![1; 32])),
        (Kind::Fifo, Content::None),
    ];
    let sampled = [(Kind::File, Content::Digest([7; 32])), (Kind::File, Content::Pending)];
    let contents = contents.into_iter().map(|content| (content, None));
    let contents = contents.chain(sampled.map(|content| (content, Some([5; 16]))));
    for (number, ((kind, content), sample)) in contents.enumerate() {
        let mut row = row(None, 1);
        row.state.sample = sample;
        row.state.meta.kind = kind;
        row.state.content = content;
        let key = key(1, &number.to_string());
        let write = written(&mut baseline, vec![Write::Put(key.clone(), row.clone())], None);
        commit(&mut connection, write);
        baseline.refresh().unwrap();
        assert_eq!(baseline.rows_in_flight(), 0);
        assert_eq!(baseline.get(&key).unwrap(), Some(row));
    }
}

#[test]
fn rows_in_flight_answer_and_a_moved_directory_takes_all_with_it() {
    let (directory, mut connection) = database();
    let mut baseline = Baseline::open(&directory.path().join("db")).unwrap();
    let tree = Path::new("/t");
    let (root, d) = (baseline.new_id(), baseline.new_id());
    let writes = vec![
        Write::Put(key(NO_PARENT, "/t"), row(Some(root), 0)),
        Write::Put(key(root, "d"), row(Some(d), 0)),
        Write::Put(key(d, "f"), row(None, 1)),
    ];
    let first = written(&mut baseline, writes, Some(Timestamp::from_seconds(9)));
    assert_eq!(baseline.locate(tree, Path::new("/t/d/f")).unwrap().key, key(d, "f"));
    assert!(baseline.locate(tree, Path::new("/t/d/f")).unwrap().row.is_some());
    let moved = vec![Write::Remove(key(root, "d")), Write::Put(key(root, "e"), row(Some(d), 0))];
    let second = written(&mut baseline, moved, None);
    for _ in 0..2 {
        assert!(baseline.locate(tree, Path::new("/t/e/f")).unwrap().row.is_some());
        assert_eq!(baseline.locate(tree, Path::new("/t/d/f")).unwrap().path, Path::new("/t/d"));
    }
    commit(&mut connection, first);
    baseline.refresh().unwrap();
    assert!(baseline.locate(tree, Path::new("/t/e/f")).unwrap().row.is_some());
    commit(&mut connection, second);
    baseline.refresh().unwrap();
    assert_eq!(baseline.rows_in_flight(), 0);
    assert!(baseline.locate(tree, Path::new("/t/e/f")).unwrap().row.is_some());
    assert_eq!(baseline.seen_until().unwrap(), Some(Timestamp::from_seconds(9)));
    let removal = written(&mut baseline, vec![Write::RemoveBeneath(root)], None);
    commit(&mut connection, removal);
    let left: i64 = connection.query_row("SELECT COUNT(*) FROM file_object", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Pages of rows stored and in flight, merged, are what a plain map says, whatever has been committed.
    #[test]
    fn pages_are_what_a_plain_map_says(
        steps in proptest::collection::vec((0..30u8, any::<bool>(), any::<bool>(), 0..6u8), 1..60),
        page in 1..9usize,
    ) {
        let (directory, mut connection) = database();
        let mut baseline = Baseline::open(&directory.path().join("db")).unwrap();
        let mut model: BTreeMap<Vec<u8>, Row> = BTreeMap::new();
        let mut waiting = Vec::new();
        for (name, put, is_directory, commits) in steps {
            let name = format!("n{name}");
            let row = row(is_directory.then_some(77), u64::from(name.as_bytes()[1]));
            let write = if put {
                model.insert(name.clone().into_bytes(), row.clone());
                Write::Put(key(1, &name), row)
            } else {
                model.remove(name.as_bytes());
                Write::Remove(key(1, &name))
            };
            waiting.push(written(&mut baseline, vec![write], None));
            for _ in 0..commits.min(u8::try_from(waiting.len()).unwrap()) {
                commit(&mut connection, waiting.remove(0));
            }
            if commits % 2 == 0 {
                baseline.refresh().unwrap();
            }
            for directories_only in [false, true] {
                let mut after = Vec::new();
                let mut all = Vec::new();
                loop {
                    let entries = baseline.entries(1, &after, page, directories_only).unwrap();
                    let Some((last, _)) = entries.last() else { break };
                    after.clone_from(last);
                    all.extend(entries);
                }
                let wanted: Vec<(Vec<u8>, Row)> = model
                    .clone()
                    .into_iter()
                    .filter(|(_, row)| !directories_only || row.id.is_some())
                    .collect();
                prop_assert_eq!(all, wanted);
            }
            if let Some(count) = baseline.entry_count(1).unwrap() {
                prop_assert_eq!(count, u64::try_from(model.len()).unwrap());
            }
        }
    }
}
