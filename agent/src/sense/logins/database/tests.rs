//! Databases as the PAM modules make them (their own statements, a connection for every row, no patience with locks), and
//! as nobody should.

use super::*;

/// As pam_wtmpdb does: Debian 12 does not have it.
const WTMP: &str = "CREATE TABLE IF NOT EXISTS wtmp(ID INTEGER PRIMARY KEY, Type INTEGER, User TEXT NOT NULL, Login INTEGER, \
    Logout INTEGER, TTY TEXT, RemoteHost TEXT, Service TEXT) STRICT;";
const LASTLOG2: &str = "CREATE TABLE IF NOT EXISTS Lastlog2(Name TEXT PRIMARY KEY, Time INTEGER, TTY TEXT, RemoteHost TEXT, \
    Service TEXT);";
const START: i64 = 1_700_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_seconds(START + second)
}

fn came(path: &Path, user: &str, second: i64) -> i64 {
    let connection = Connection::open(path).expect("open");
    connection.busy_timeout(Duration::ZERO).expect("no patience");
    connection.execute_batch(WTMP).expect("the table");
    let login = (START + second) * 1_000_000;
    let row = (3, user, login, "ssh", "192.0.2.7", "sshd");
    let insert = "INSERT INTO wtmp (Type,User,Login,TTY,RemoteHost,Service) VALUES(?,?,?,?,?,?);";
    connection.execute(insert, row).expect("nobody keeps the module from writing");
    connection.last_insert_rowid()
}

fn went(path: &Path, id: i64, second: i64) {
    let connection = Connection::open(path).expect("open");
    let changed =
        connection.execute("UPDATE wtmp SET Logout = ? WHERE ID = ?", ((START + second) * 1_000_000, id));
    assert_eq!(changed, Ok(1));
}

fn logged_in(path: &Path, user: &str, second: i64) {
    let connection = Connection::open(path).expect("open");
    connection.execute_batch(LASTLOG2).expect("the table");
    let row = (user, START + second, "pts/0", "192.0.2.7", "sshd");
    connection.execute("REPLACE INTO Lastlog2 VALUES(?,?,?,?,?);", row).expect("written");
}

struct Reader {
    dir: tempfile::TempDir,
    scratch: tempfile::TempDir,
    path: PathBuf,
    watch: Watch,
    database: Database,
    now: Timestamp,
}

impl Reader {
    /// Of a database that `fill` makes before somebody looks at it, at [`START`].
    fn of(name: &str, fill: impl FnOnce(&Path)) -> Self {
        let (dir, scratch) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let path = dir.path().join(name);
        fill(&path);
        let form = Form::of(&path).expect("a database's name");
        let database = Database::new(&path, form, scratch.path(), None, at(0));
        Self { dir, scratch, path, watch: Watch::new().expect("inotify"), database, now: at(0) }
    }

    /// All that is new, `user` or `-user`, over as many rounds as it takes.
    fn news(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        for _ in 0..200 {
            self.now = self.now.plus(SETTLE);
            self.database.look(&self.watch, self.now).expect("watched");
            let Some((rows, more)) = self.database.read(self.now) else {
                if self.database.due_in(self.now).is_none() {
                    break;
                }
                continue;
            };
            let word = |row: &Row| format!("{}{}", if row.ended { "-" } else { "" }, row.user.text);
            news.extend(rows.iter().map(word));
            if !more && self.database.due_in(self.now).is_none() {
                break;
            }
        }
        news
    }

    /// The agent was killed; its position was kept.
    fn restart(&mut self) {
        let text = serde_json::to_string(&self.database.position()).expect("rendered");
        let position: Option<DatabasePosition> = serde_json::from_str(&text).expect("parsed");
        self.database =
            Database::new(&self.path, self.database.form, self.scratch.path(), position, self.now);
    }

    fn names(&self) -> Vec<std::ffi::OsString> {
        let list = |dir: &Path| {
            std::fs::read_dir(dir).expect("listed").map(|entry| entry.expect("a name").file_name())
        };
        let mut names: Vec<_> = list(self.dir.path()).chain(list(self.scratch.path())).collect();
        names.sort();
        names
    }
}

#[test]
fn sessions_are_told_once_from_where_reading_began_with_their_ends() {
    let mut long = 0;
    let mut reader = Reader::of("wtmp.db", |path| {
        came(path, "history", -1_000);
        long = came(path, "long", -500);
    });
    assert_eq!(reader.news(), Vec::<String>::new());
    let al = came(&reader.path, "al", 10);
    assert_eq!(reader.news(), ["al"]);
    went(&reader.path, long, 11);
    reader.restart();
    assert_eq!(reader.news(), ["-long"], "a session from before the agent ends");
    went(&reader.path, al, 12);
    let bo = came(&reader.path, "bo", 13);
    went(&reader.path, bo, 14);
    assert_eq!(reader.news(), ["-al", "bo", "-bo"]);
    assert_eq!(reader.news(), Vec::<String>::new());
    assert_eq!((reader.database.place(), reader.database.trouble.clone()), ("row 4".to_owned(), None));
    assert_eq!(reader.names(), ["wtmp.db"], "nothing is left beside it");
}

#[test]
fn a_database_that_is_made_later_is_read_from_its_first_row_without_the_history_that_is_imported_into_it() {
    let mut reader = Reader::of("wtmp.db", |_| {});
    assert_eq!(reader.news(), Vec::<String>::new());
    assert!(!reader.database.exists());
    for second in -900..-300 {
        came(&reader.path, "imported", second);
    }
    came(&reader.path, "first", 5);
    assert_eq!(reader.news(), ["first"]);
}

#[test]
fn after_a_rotation_that_moved_all_rows_away_numbers_begin_anew_and_nothing_is_lost_or_told_twice() {
    let mut reader = Reader::of("wtmp.db", |_| {});
    for n in 0..5 {
        came(&reader.path, &format!("before{n}"), n);
    }
    assert_eq!(reader.news().len(), 5);
    let rotate = |path: &Path, until: i64| {
        let connection = Connection::open(path).expect("open");
        connection
            .execute("DELETE FROM wtmp WHERE Login <= ?", [(START + until) * 1_000_000])
            .expect("moved away");
    };
    // Some stay: numbers go on.
    rotate(&reader.path, 2);
    came(&reader.path, "between", 20);
    assert_eq!(reader.news(), ["between"]);
    // None stays, and more come than there were.
    rotate(&reader.path, 30);
    for n in 0..9 {
        came(&reader.path, &format!("after{n}"), 40 + n);
    }
    reader.restart();
    assert_eq!(reader.news(), (0..9).map(|n| format!("after{n}")).collect::<Vec<_>>());
    assert_eq!(reader.news(), Vec::<String>::new());
}

#[test]
fn the_module_is_never_kept_from_writing_and_every_row_is_read_once() {
    let mut reader = Reader::of("wtmp.db", |path| {
        came(path, "history", -1);
    });
    assert_eq!(reader.news(), Vec::<String>::new());
    let path = reader.path.clone();
    let writer = std::thread::spawn(move || {
        for n in 0..200 {
            came(&path, &format!("u{n}"), n);
        }
    });
    let mut all = Vec::new();
    while !writer.is_finished() {
        all.extend(reader.news());
    }
    writer.join().expect("no row was refused");
    all.extend(reader.news());
    assert_eq!(all, (0..200).map(|n| format!("u{n}")).collect::<Vec<_>>());
}

#[test]
fn a_transaction_that_is_not_over_is_waited_for() {
    let mut reader = Reader::of("wtmp.db", |path| {
        came(path, "history", -1);
    });
    assert_eq!(reader.news(), Vec::<String>::new());
    let writer = Connection::open(&reader.path).expect("open");
    writer.execute_batch("PRAGMA cache_spill = 1; PRAGMA cache_size = 1; BEGIN IMMEDIATE").expect("begun");
    for n in 0..2_000 {
        let row = "INSERT INTO wtmp (Type,User,Login,TTY,RemoteHost,Service) VALUES(3,?,?,'ssh','h','sshd')";
        writer.execute(row, (format!("half{n}"), (START + 1) * 1_000_000)).expect("written");
    }
    assert_eq!(reader.news(), Vec::<String>::new(), "what is not committed is nothing");
    for _ in 0..400 {
        reader.now = reader.now.plus(SETTLE);
        reader.database.look(&reader.watch, reader.now).expect("watched");
        assert_eq!(reader.database.read(reader.now), None);
    }
    let trouble = reader.database.trouble.clone().unwrap_or_default();
    assert!(trouble.contains("being written to since"), "{trouble}");
    writer.execute_batch("COMMIT").expect("committed");
    assert_eq!(reader.news().len(), 2_000);
    assert_eq!(reader.database.trouble, None);
}

#[test]
fn rows_in_a_write_ahead_log_are_read_and_nothing_is_written_beside_it() {
    let mut reader = Reader::of("wtmp.db", |path| {
        came(path, "history", -1);
    });
    let holder = Connection::open(&reader.path).expect("open");
    holder.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;").expect("set");
    assert_eq!(reader.news(), Vec::<String>::new());
    came(&reader.path, "one", 1);
    let before = reader.names();
    assert_eq!(reader.news(), ["one"]);
    assert_eq!(reader.names(), before);
    holder.close().expect("closed");
    came(&reader.path, "two", 2);
    assert_eq!(reader.news(), ["two"]);
}

#[test]
fn lastlog2_tells_each_login_once() {
    let mut reader = Reader::of("lastlog2.db", |path| logged_in(path, "old", -100_000));
    assert_eq!(reader.news(), Vec::<String>::new());
    logged_in(&reader.path, "al", 3);
    logged_in(&reader.path, "bo", 3);
    assert_eq!(reader.news(), ["al", "bo"]);
    logged_in(&reader.path, "al", 3);
    logged_in(&reader.path, "cy", 3);
    reader.restart();
    assert_eq!(reader.news(), ["cy"]);
    logged_in(&reader.path, "old", 9);
    assert_eq!(reader.news(), ["old"]);
    let logins = last_logins(&reader.path, reader.scratch.path()).expect("read");
    let old = logins.iter().find(|login| login.user == "old").expect("known");
    assert_eq!((old.time, old.from), (at(9), "192.0.2.7".parse().ok()));
}

#[test]
fn many_of_one_second_are_all_told() {
    let mut reader = Reader::of("lastlog2.db", |path| logged_in(path, "old", -1));
    let connection = Connection::open(&reader.path).expect("open");
    connection.execute_batch("BEGIN").expect("begun");
    for n in 0..900 {
        let row = (format!("u{n:04}"), START + 5, "ssh", "h", "sshd");
        connection.execute("REPLACE INTO Lastlog2 VALUES(?,?,?,?,?);", row).expect("written");
    }
    connection.execute_batch("COMMIT").expect("committed");
    assert_eq!(reader.news(), (0..900).map(|n| format!("u{n:04}")).collect::<Vec<_>>());
}

#[test]
fn a_row_becomes_an_event_of_the_service_and_jobs_are_none() {
    let reader = Reader::of("wtmp.db", |_| {});
    let row = |service: &str, host: &str| Row {
        number: 7,
        user: Text::from_bytes(b"al"),
        service: service.to_owned(),
        tty: Some(Text::from_bytes(b"ssh")),
        host: Some(Text::from_bytes(host.as_bytes())),
        time: at(1),
        ended: false,
    };
    let event = reader.database.event(&row("sshd", "::ffff:192.0.2.7")).expect("a login");
    assert_eq!((event.event, &*event.service, event.source), (LoginKind::Success, "sshd", Source::Wtmpdb));
    assert_eq!((event.address, event.tty), ("192.0.2.7".parse().ok(), None));
    assert_eq!(reader.database.event(&row("sshd", "gw.example")).and_then(|event| event.address), None);
    let service = |name: &str| reader.database.event(&row(name, "")).map(|event| event.service.into_owned());
    assert_eq!(service("gdm-password").as_deref(), Some("desktop"));
    for job in ["cron", "sudo", "su-l", "systemd-user", ""] {
        assert_eq!(service(job), None);
    }
}

#[test]
fn what_is_no_login_database_is_said_and_read_once_it_is_one() {
    let check = |fill: &dyn Fn(&Path), what: &str| {
        let mut reader = Reader::of("wtmp.db", fill);
        let news = reader.news();
        let trouble = reader.database.trouble.clone().unwrap_or_default();
        assert!(news.is_empty() && trouble.contains(what), "{what}: {news:?} {trouble}");
        std::fs::remove_file(&reader.path).expect("removed");
        came(&reader.path, "al", 5);
        assert_eq!(reader.news(), ["al"], "{what}");
        assert_eq!(reader.database.trouble, None);
    };
    check(&|path| std::fs::write(path, [7; 9_000]).expect("written"), "does not begin as a database");
    let cut = |path: &Path| {
        came(path, "al", -5);
        std::fs::File::options().write(true).open(path).and_then(|file| file.set_len(5_000)).expect("cut");
    };
    check(&cut, "not a whole number of pages");
    let long = |path: &Path| {
        came(path, "al", -5);
        let connection = Connection::open(path).expect("open");
        connection.execute("UPDATE wtmp SET User = printf('%.*c', 200000, 'x')", []).expect("written");
        connection.execute("UPDATE wtmp SET Login = ?", [(START + 1) * 1_000_000]).expect("written");
    };
    let mut reader = Reader::of("wtmp.db", |_| {});
    long(&reader.path);
    reader.news();
    assert!(reader.database.trouble.is_some(), "a name of 200,000 bytes is not read");
}

#[test]
fn nothing_in_a_hostile_database_is_run_and_odd_values_are_passed_over() {
    let endless = |path: &Path| {
        let connection = Connection::open(path).expect("open");
        let view = "CREATE VIEW wtmp AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
            SELECT i AS ID, 3 AS Type, 'x' AS User, i AS Login, NULL AS Logout, '' AS TTY, '' AS RemoteHost, 'sshd' AS Service
            FROM n";
        connection.execute_batch(view).expect("made");
    };
    let mut reader = Reader::of("wtmp.db", endless);
    assert_eq!(reader.news(), Vec::<String>::new());
    let mut reader = Reader::of("wtmp.db", |path| {
        let connection = Connection::open(path).expect("open");
        connection.execute_batch("CREATE TABLE wtmp(ID INTEGER PRIMARY KEY, Type, User, Login, Logout, TTY, RemoteHost, Service)").expect("made");
    });
    let connection = Connection::open(&reader.path).expect("open");
    let odd = "INSERT INTO wtmp (Type, User, Login, Logout, TTY, RemoteHost, Service) VALUES
        (3, NULL, 1700000001000000, NULL, NULL, NULL, NULL), ('3', 'text', 'x', 'y', 1, 2, 3),
        (3, 'far', 9223372036854775807, -9223372036854775808, '', '', 'sshd'), (1, 'reboot', 1700000002000000, NULL, '~', '6', ''),
        (3, x'ff00', 1700000003000000, 1700000004000000, x'00', x'ff', 'sshd'), (3, 'al', 1700000005000000, NULL, '', '', 'sshd')";
    connection.execute(odd, []).expect("written");
    let news = reader.news();
    assert_eq!(news.len(), 3, "{news:?}");
    assert_eq!(news.last().map(String::as_str), Some("al"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
    #[test]
    fn damage_anywhere_is_survived(
        damage in proptest::collection::vec((proptest::prelude::any::<u16>(), proptest::prelude::any::<u8>()), 1..40),
        kept in 0u32..9_000,
    ) {
        let mut reader = Reader::of("wtmp.db", |path| {
            for n in 0..20 {
                came(path, "al", n);
            }
        });
        let mut bytes = std::fs::read(&reader.path).expect("read");
        for (place, value) in damage {
            let place = usize::from(place) % bytes.len();
            if let Some(byte) = bytes.get_mut(place) {
                *byte = value;
            }
        }
        bytes.truncate(usize::try_from(kept).expect("small").max(100));
        std::fs::write(&reader.path, &bytes).expect("written");
        for _ in 0..3 {
            reader.now = reader.now.plus(RETRY);
            reader.database.look(&reader.watch, reader.now).expect("watched");
            let _rows_or_none = reader.database.read(reader.now);
        }
    }
}
