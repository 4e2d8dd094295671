//! Hostile trees, no time and no room: what a bundle holds then, and what it says.

use std::cell::Cell;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use picket_protocol::age::{Recipient, Sealer};
use picket_protocol::evidence::{Entry, Head};
use ring::rand::SystemRandom;

use super::bundle::{Bundle, Share, Stopped, Written};
use super::content::Part;
use super::files::Files;
use super::spool::{Room, Spool};

const NO_BOUND: Room = Room { bytes_min: 0, percent_min: 0 };

/// A bundle in a directory of its own, and what its manifest says.
struct Made {
    written: Written,
    entries: Vec<Entry>,
}

impl Made {
    fn skipped(&self, end: &str) -> Option<&str> {
        self.entry(end).skipped.as_deref()
    }

    fn entry(&self, end: &str) -> &Entry {
        let found = self.entries.iter().find(|entry| entry.name.ends_with(end));
        found.unwrap_or_else(|| panic!("{end} is not in the manifest: {:#?}", self.entries))
    }

    fn has(&self, end: &str) -> bool {
        self.entries.iter().any(|entry| entry.name.ends_with(end) && entry.size.is_some())
    }

    fn count(&self, why: &str) -> u64 {
        self.written.skipped.get(why).copied().unwrap_or(0)
    }
}

fn made(
    whole: Share,
    sealed_max: u64,
    may_go_on: &dyn Fn() -> Result<(), Stopped>,
    fill: impl FnOnce(&mut Bundle<'_>) -> Result<(), Stopped>,
) -> Result<Made, Stopped> {
    let directory = tempfile::tempdir().expect("temporary directory");
    let spool = Spool::new(directory.path().to_owned(), NO_BOUND);
    let id = uuid::Uuid::now_v7();
    let head = Head {
        format: String::new(),
        command: id,
        agent: picket_protocol::identity::AgentId(id),
        began: crate::clock::now(),
        profiles: std::collections::BTreeSet::new(),
        paths: Vec::new(),
        process: None,
    };
    let sealing = Sealer::begin(&[recipient()], &SystemRandom::new()).expect("a recipient");
    let file = spool.create(id, &sealing.0, sealing.1)?;
    let mut bundle = Bundle::begin(file, &head, sealed_max, whole, may_go_on)?;
    fill(&mut bundle)?;
    let mut lines = bundle.manifest().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).skip(1);
    let entries = lines.by_ref().map(|line| serde_json::from_slice(line).expect("an entry")).collect();
    Ok(Made { written: bundle.finish()?, entries })
}

fn recipient() -> Recipient {
    "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg".parse().expect("a recipient")
}

/// All of a directory, within a whole.
fn tree(path: &Path, own: &Path, whole: Share) -> Made {
    made(whole, u64::MAX, &|| Ok(()), |bundle| {
        let mut files = Files::new(own);
        files.take(path, Part::Beginning, false, bundle)?;
        files.leased(bundle)
    })
    .expect("a bundle")
}

fn nowhere() -> &'static Path {
    Path::new("/nonexistent/picket")
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ring::rand::SecureRandom::fill(&SystemRandom::new(), &mut bytes).expect("random bytes");
    bytes
}

#[test]
fn what_was_taken_is_sealed_when_time_is_over() {
    let asked = Cell::new(0);
    let late = || {
        asked.set(asked.get() + 1);
        if asked.get() > 20 { Err(Stopped::Late) } else { Ok(()) }
    };
    let entry = |name: &str| Entry { name: name.to_owned(), ..Entry::default() };
    let made = made(Share::WHOLE, u64::MAX, &late, |bundle| {
        bundle.bytes(entry("precious"), b"precious")?;
        bundle.bytes(entry("long"), &vec![1; 16 << 20])?;
        bundle.bytes(entry("never"), b"never")
    })
    .expect("it is sealed all the same");
    assert!(made.has("precious") && made.has("long") && !made.has("never"));
    let long = made.entry("long");
    assert_eq!(long.size, Some(16 << 20), "the archive stays one");
    assert!(long.note.as_deref().is_some_and(|note| note.contains("late")), "{long:?}");
    assert_eq!((made.skipped("bundle"), made.skipped("never")), (Some("late"), Some("late")));
    assert_eq!((made.count("late"), made.count("unread")), (2, 1));
}

#[test]
fn what_was_taken_is_sealed_when_room_is_short() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let small = Small::mount(directory.path());
    let room = Room { bytes_min: 30 << 20, percent_min: 0 };
    let spool = Spool::new(directory.path().to_owned(), room);
    spool.has_room().expect("there is some");
    let id = uuid::Uuid::now_v7();
    let sealing = Sealer::begin(&[recipient()], &SystemRandom::new()).expect("a recipient");
    let mut file = spool.create(id, &sealing.0, sealing.1).expect("created");
    let piece = noise(1 << 20);
    let mut pieces = 0;
    while !file.is_short() {
        std::io::Write::write_all(&mut file, &piece).expect("written");
        pieces += 1;
        assert!(pieces < 40, "it is never short");
    }
    // The end is written all the same, and no more than that.
    std::io::Write::write_all(&mut file, &noise(16 << 20)).expect("the manifest");
    let error = std::io::Write::write_all(&mut file, &noise(16 << 20)).expect_err("no more");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    drop((file, small));
}

/// A file system of 64 MiB that nobody else uses.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: &Path) -> Self {
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "none"]).arg(at).status();
        assert!(done.expect("mount is there").success());
        Self(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn no_bundle_is_larger_than_it_may_be() {
    let entry = |name: &str| Entry { name: name.to_owned(), ..Entry::default() };
    let noise = noise(24 << 20);
    let made = made(Share::WHOLE, 4 << 20, &|| Ok(()), |bundle| {
        bundle.bytes(entry("noise"), &noise)?;
        bundle.bytes(entry("more"), b"more")
    })
    .expect("a bundle");
    assert!(made.written.sealed.0 < 6 << 20, "{}", made.written.sealed.0);
    assert_eq!((made.skipped("more"), made.count("unread")), (Some("bundle-full"), 1));
}

#[test]
fn one_place_takes_its_share_and_no_more() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (greedy, other) = (directory.path().join("greedy"), directory.path().join("other"));
    std::fs::create_dir(&greedy).expect("directory");
    std::fs::create_dir(&other).expect("directory");
    for number in 0..300 {
        // A long name that is longer in the manifest.
        let name = format!("{number:03}{}", "\u{1}".repeat(200));
        std::fs::write(greedy.join(name), "x").expect("written");
    }
    std::fs::write(other.join("precious"), "precious").expect("written");
    let by = |share: Share| {
        made(Share::WHOLE, u64::MAX, &|| Ok(()), |bundle| {
            let mut files = Files::new(nowhere());
            for path in [&greedy, &other] {
                let name = path.display().to_string();
                bundle.within(&name, share, |bundle| files.take(path, Part::Beginning, false, bundle))?;
            }
            Ok(())
        })
        .expect("a bundle")
    };
    for (share, most) in [
        (Share { entries: 100, ..Share::HOME }, 100),
        (Share { manifest: 50_000, ..Share::HOME }, 80),
        (Share { bytes: 50, ..Share::HOME }, 50),
        (Share { names: 100, ..Share::HOME }, 100),
    ] {
        let made = by(share);
        let taken =
            made.entries.iter().filter(|entry| entry.name.contains("greedy/") && entry.size.is_some());
        assert!((1..=most).contains(&taken.count()), "{share:?}");
        assert_eq!(made.skipped("/greedy"), Some("place-full"), "{share:?}");
        assert!(share.bytes == 50 || made.has("other/precious"), "{share:?}");
    }
}

#[test]
fn holes_cost_nothing() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for number in 0..200 {
        let file = std::fs::File::create(directory.path().join(format!("sparse{number}"))).expect("created");
        file.set_len(256 << 20).expect("a hole");
        file.write_all_at(b"data", 8_192).expect("written");
    }
    let small = std::fs::File::create(directory.path().join("journal")).expect("created");
    small.set_len(8 << 20).expect("a hole");
    let made = tree(directory.path(), nowhere(), Share::WHOLE);
    let sparse = made.entry("sparse0");
    assert_eq!(sparse.whole, Some(256 << 20));
    assert!(sparse.size.is_some_and(|size| (8_196..1 << 20).contains(&size)), "{sparse:?}");
    assert_eq!(made.count("sparse"), 200);
    assert_eq!(made.entry("journal").size, Some(8 << 20), "what is set aside is small, and stays");
}

#[test]
fn a_tree_is_walked_within_its_names_and_as_long_as_it_may_go_on() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for number in 0..500 {
        std::fs::create_dir(directory.path().join(number.to_string())).expect("directory");
    }
    let made = tree(directory.path(), nowhere(), Share { names: 100, ..Share::WHOLE });
    assert_eq!(made.written.entries, 0);
    // Directories, links and pipes ask as well whether it is to go on.
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        if asked.get() > 100 { Err(Stopped::Cancelled) } else { Ok(()) }
    };
    let stopped = self::made(Share::WHOLE, u64::MAX, &stop, |bundle| {
        Files::new(nowhere()).take(directory.path(), Part::Beginning, false, bundle)
    });
    assert!(matches!(stopped, Err(Stopped::Cancelled)), "it walked on");
}

#[test]
fn the_agents_own_is_not_taken_under_another_name() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let at = |path: &str| directory.path().join(path);
    std::fs::create_dir_all(at("data/lib/picket/core/keys")).expect("directories");
    std::fs::create_dir_all(at("snapshot/1/lib/picket/core/keys")).expect("directories");
    for path in ["data", "snapshot/1"] {
        std::fs::write(at(&format!("{path}/lib/picket/core/keys/ledger-3.key")), "secret").expect("written");
    }
    std::os::unix::fs::symlink(at("data/lib"), at("lib")).expect("a link");
    std::fs::write(at("data/plain"), "plain").expect("written");
    std::fs::hard_link(at("data/lib/picket/core/keys/ledger-3.key"), at("data/linked")).expect("a link");
    // The state directory is named by a link, as where /var is one.
    let own = at("lib/picket");
    let key = at("data/lib/picket/core/keys/ledger-3.key");
    for path in [directory.path().to_owned(), key.clone(), key.parent().expect("a directory").to_owned()] {
        let made = tree(&path, &own, Share::WHOLE);
        assert!(
            !made.entries.iter().any(|entry| entry.size.is_some() && entry.name.contains("ledger")),
            "{path:?}"
        );
        assert!(!made.has("linked"), "{path:?}");
        assert!(made.count("agent") > 0, "{path:?}");
    }
    assert!(tree(&at("data"), &own, Share::WHOLE).has("plain"));
}

#[test]
fn a_lease_does_not_hide_a_file() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("held");
    std::fs::write(&path, "what somebody hides").expect("written");
    std::fs::write(directory.path().join("plain"), "plain").expect("written");
    // F_SETLEASE is 1024, F_WRLCK is 1. The kernel asks for it back by SIGIO; it is given up a moment later.
    let script = "open(F, '<', $ARGV[0]) or die; $SIG{IO} = sub { select(undef, undef, undef, 0.3); exit 0 }; \
        fcntl(F, 1024, 1) or die $!; $| = 1; print \"held\\n\"; sleep 60;";
    let mut holder = Command::new("perl")
        .args(["-e", script])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("perl is there");
    let mut said = String::new();
    let stdout = holder.stdout.take().expect("its output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut said).expect("it answers");
    assert_eq!(said, "held\n");
    let made = tree(directory.path(), nowhere(), Share::WHOLE);
    assert!(made.has("held") && made.has("plain"), "{:#?}", made.entries);
    holder.wait().expect("it ends");
}

/// A FUSE file system whose server never answers, not even to the first question: whoever asks it anything waits for as long as
/// this lives.
struct NeverAnswers(std::process::Child, std::path::PathBuf);

impl NeverAnswers {
    fn mount(at: &Path) -> Self {
        let script = "exec 3<>/dev/fuse; mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 none \"$1\" \
            && echo mounted; read -r end";
        let mut server = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut said = String::new();
        let stdout = server.stdout.take().expect("its output");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut said).expect("it answers");
        assert_eq!(said, "mounted\n");
        Self(server, at.to_owned())
    }
}

impl Drop for NeverAnswers {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.1).status();
        let _gone = (self.0.kill(), self.0.wait());
    }
}

#[test]
fn file_systems_that_may_never_answer_are_not_entered() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mounted = directory.path().join("sub/mounted");
    std::fs::create_dir_all(&mounted).expect("directories");
    std::fs::write(directory.path().join("sub/plain"), "plain").expect("written");
    let never = NeverAnswers::mount(&mounted);
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let path = directory.path().to_owned();
    std::thread::spawn(move || {
        let below = path.join("sub/mounted/.bashrc");
        let trees = [&path, &path.join("sub/mounted"), &below, Path::new("/proc/version")];
        tell.send(trees.map(|path| tree(path, nowhere(), Share::WHOLE))).expect("it is waited for");
    });
    let made = told.recv_timeout(std::time::Duration::from_secs(60));
    drop(never);
    let [all, itself, below, pseudo] = made.expect("it waits for who never answers");
    assert!(all.has("sub/plain"));
    assert_eq!(all.skipped("sub/mounted"), Some("remote"));
    assert_eq!((itself.skipped("sub/mounted"), below.skipped(".bashrc")), (Some("remote"), Some("remote")));
    assert_eq!(pseudo.skipped("version"), Some("pseudo"));
}
