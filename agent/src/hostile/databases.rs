//! The files in which a host keeps who logged in last, through the very readers that the sensor uses: those take a path.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

use crate::detect::logins::AccountFacts;
use crate::sense::logins::database::{Database, DatabasePosition, Form, ROUND_ROWS, Row, last_logins};
use crate::sense::logins::facts;
use crate::sense::logins::watch::Watch;

/// When the files are read.
const NOW: Timestamp = Timestamp::from_seconds(1_795_000_000);
/// Longest text of a row: each byte of a name may have become a character of three.
const ROW_TEXT_MAX: usize = 3 * 256;
/// Longest input: the work of SQLite on one stays far below a second.
const FILE_BYTES_MAX: usize = 64 * 1024;
/// Rounds of reading one file.
const ROUNDS_MAX: usize = 64;
/// Rows of one round: those that are new, each with its end, and ends of those that were open.
const ROWS_MAX: usize = 2 * ROUND_ROWS + 512;

/// A file of its own for each thread, in memory where the host has a place for that.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let thread: String =
            format!("{:?}", std::thread::current().id()).chars().filter(char::is_ascii_digit).collect();
        let directory = parent.join(format!("picket-hostile-{}-{thread}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for hostile files");
        Self(directory)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _stays = std::fs::remove_dir_all(&self.0).is_err();
    }
}

/// What `read` makes of a file called `name` that holds `bytes`.
fn with_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path, &Path) -> T) -> T {
    thread_local!(static PLACE: OnceCell<Place> = const { OnceCell::new() });
    PLACE.with(|place| {
        let directory = &place.get_or_init(Place::new).0;
        let path = directory.join(name);
        std::fs::write(&path, bytes).expect("written");
        let answer = read(&path, directory);
        std::fs::remove_file(&path).expect("removed");
        answer
    })
}

/// One byte for the form, then a database of wtmpdb or lastlog2. It is read to its end in bounded rounds, what a row tells
/// is short, and nothing is left behind.
pub fn login_database(input: &[u8]) -> bool {
    let Some((which, bytes)) = input.split_first() else { return false };
    if bytes.len() > FILE_BYTES_MAX {
        return false;
    }
    let (name, form, begin) = match which % 2 {
        0 => ("wtmp.db", Form::Wtmpdb, DatabasePosition::Wtmpdb(Default::default())),
        _ => ("lastlog2.db", Form::Lastlog2, DatabasePosition::Lastlog2(Default::default())),
    };
    with_file(name, bytes, |path, scratch| {
        let watch = Watch::new().expect("inotify");
        let mut database = Database::new(path, form, scratch, Some(begin), NOW);
        let (mut now, mut read) = (NOW, 0);
        for _ in 0..ROUNDS_MAX {
            database.look(&watch, now).expect("watched");
            // A file that has just changed is left alone for a moment.
            now = now.plus(Duration::from_secs(1));
            let Some((rows, more)) = database.read(now) else { break };
            assert!(rows.len() <= ROWS_MAX, "{} rows in one round", rows.len());
            rows.iter().for_each(|row| is_short(&database, row));
            read += rows.len();
            if !more {
                break;
            }
        }
        let last = last_logins(path, scratch).unwrap_or_default();
        assert!(last.iter().all(|login| login.user.len() <= ROW_TEXT_MAX));
        let left = std::fs::read_dir(scratch).expect("listed").count();
        assert_eq!(left, 1, "a reader leaves nothing beside the file");
        read > 0
    })
}

fn is_short(database: &Database, row: &Row) {
    let texts = [Some(&row.user), row.tty.as_ref(), row.host.as_ref()];
    let short = |text: &Text| text.text.len() <= ROW_TEXT_MAX;
    assert!(texts.into_iter().flatten().all(short) && row.service.len() <= ROW_TEXT_MAX);
    if let Some(event) = database.event(row) {
        assert_eq!(event.user.as_ref(), Some(&row.user), "another name than the row's");
        assert_eq!(event.time, row.time);
    }
}

/// `lastlog`, records by user number. Each account has at most one, its own, after the epoch.
pub fn lastlog(input: &[u8]) -> bool {
    const UIDS: [u32; 6] = [0, 1, 2, 33, 1_000, u32::MAX];
    let account = |uid: u32| (format!("u{uid}"), AccountFacts { uid, ..AccountFacts::default() });
    let accounts: BTreeMap<String, AccountFacts> = UIDS.into_iter().map(account).collect();
    let logins = with_file("lastlog", input, |path, _scratch| facts::lastlog(path, &accounts));
    assert!(logins.len() <= accounts.len());
    for login in &logins {
        let facts = accounts.get(&login.user).expect("an account of the host");
        let begin = usize::try_from(facts.uid).expect("a place") * facts::LASTLOG_BYTES;
        let record = input.get(begin..begin + facts::LASTLOG_BYTES).expect("a whole record");
        let [a, b, c, d, ..] = record else { panic!("a record has a time") };
        assert_eq!(login.time.seconds(), i64::from(u32::from_ne_bytes([*a, *b, *c, *d])));
        assert!(login.time.seconds() > 0);
        assert!(login.from.is_none_or(|from| from == from.to_canonical()));
    }
    !logins.is_empty()
}
