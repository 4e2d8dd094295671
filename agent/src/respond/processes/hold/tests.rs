use std::process::{Child, Command};
use std::time::Instant;

use picket_protocol::time::Timestamp;

use super::*;
use crate::respond::actions::{Applied, Deed as _, Levers, Surroundings, freeze_process, kill_process};
use crate::respond::processes::{Named, Spared, boot_by_clock, hash_of};

const ONE: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);

/// A shell with a child of its own, which ends with the test.
struct Tree(Child);

impl Tree {
    fn start() -> Self {
        use std::os::unix::process::CommandExt as _;
        let tree =
            Self(Command::new("/bin/dash").args(["-c", "sleep 600; :"]).process_group(0).spawn().unwrap());
        wait_for("its child", || tree.all().len() == 2);
        tree
    }

    fn all(&self) -> Vec<Life> {
        let all = living().into_iter().filter_map(life);
        all.filter(|life| life.pid == self.0.id() || life.parent == self.0.id()).collect()
    }

    fn states(&self) -> String {
        self.all().iter().map(|life| life.state).collect()
    }

    fn runs(&self) -> bool {
        self.all().len() == 2 && self.all().iter().all(|life| !is_stopped(life))
    }

    fn is_stopped(&self) -> bool {
        self.states() == "TT"
    }

    fn named(&self) -> (u32, Timestamp, String) {
        let life = life(self.0.id()).unwrap();
        let started = boot_by_clock().plus(Duration::from_millis(life.started * 10));
        let file = std::fs::File::open(format!("/proc/{}/exe", life.pid)).unwrap();
        (life.pid, started, hash_of(file, u64::MAX).unwrap())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _gone = Command::new("kill").args(["-KILL", "--", &group]).status().is_err();
        let _waited = self.0.wait().is_err();
    }
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn surroundings(core: &Path) -> Surroundings {
    Surroundings {
        collector: Vec::new(),
        uplink_uid: None,
        policy: PathBuf::new(),
        core: core.to_owned(),
        booted: boot_by_clock(),
    }
}

fn applied(id: Uuid) -> Applied {
    Applied { id, left: Duration::from_secs(60) }
}

#[test]
fn a_tree_stands_still_and_goes_on_when_the_last_lets_it() {
    let (directory, tree) = (tempfile::tempdir().unwrap(), Tree::start());
    let (pid, started, sha256) = tree.named();
    let process = Named { pid, started, sha256: &sha256 };
    let frozen = freeze_process::FrozenProcess::prepare(process, &surroundings(directory.path())).unwrap();
    let mut levers = Levers::default();
    frozen.undo(ONE, &mut levers).unwrap();
    assert!(tree.runs(), "undone without having been done");
    frozen.apply(&applied(ONE), &mut levers).unwrap();
    frozen.apply(&applied(ONE), &mut levers).unwrap();
    assert!(tree.is_stopped() && frozen.probe().is_ok() && frozen.escaped(ONE) == 0, "{}", tree.states());
    // After a reboot somebody else may have the number and the beginning.
    let reboot = freeze_process::FrozenProcess { boot: "another".to_owned(), ..frozen.clone() };
    reboot.apply(&applied(Uuid::nil()), &mut levers).expect_err("nobody is meant any more");
    // Another order about the same ends in any order.
    frozen.apply(&applied(OTHER), &mut levers).unwrap();
    frozen.undo(ONE, &mut levers).unwrap();
    assert!(tree.is_stopped(), "{}", tree.states());
    // Somebody lets it go on: it is seen, and stopped again.
    signal(&Stopped::of(&life(pid).unwrap()), Signal::CONT);
    wait_for("it runs", || frozen.escaped(OTHER) > 0);
    // Who can let it go on cannot have the whole undone that way.
    assert_eq!(frozen.probe().map(|told| told["running"].as_u64()), Ok(Some(1)));
    frozen.apply(&applied(OTHER), &mut levers).unwrap();
    assert!(tree.is_stopped(), "{}", tree.states());
    frozen.undo(OTHER, &mut levers).unwrap();
    wait_for("all go on", || tree.runs());
    assert_eq!(std::fs::read_dir(directory.path().join("stopped")).unwrap().count(), 0);
}

/// A full disk takes no removal of a row, and the freeze is over all the same.
#[test]
fn a_freeze_of_the_policy_holds_as_long_as_it_lasts_whatever_the_disk_takes() {
    let (directory, tree) = (tempfile::tempdir().unwrap(), Tree::start());
    let database = rusqlite::Connection::open(directory.path().join("agent.db")).unwrap();
    database.execute_batch(freeze_store::SCHEMA).unwrap();
    let freeze = |ends: Duration| {
        let frozen = freeze_store::Frozen {
            id: OTHER,
            finding: OTHER,
            cause: String::new(),
            boot: boot().unwrap(),
            ends,
            since: Timestamp::default(),
            origins: Vec::new(),
            processes: tree.all().iter().map(Stopped::of).collect(),
        };
        let state = serde_json::to_string(&frozen).unwrap();
        let sql = "INSERT OR REPLACE INTO frozen (id, state) VALUES (?1, ?2)";
        database.execute(sql, [OTHER.to_string(), state]).unwrap();
    };
    let hold = Hold::new(directory.path(), ONE);
    let stop = || hold.stop(|all, _| all.iter().filter(|life| life.pid == tree.0.id()).collect()).unwrap();
    let stopped = || is_stopped(&life(tree.0.id()).unwrap());
    stop();
    freeze(since_boot() + Duration::from_secs(600));
    hold.let_go().unwrap();
    assert!(stopped(), "the policy holds it as well");
    stop();
    freeze(Duration::ZERO);
    hold.let_go().unwrap();
    wait_for("it goes on", || !stopped());
}

#[test]
fn what_somebody_else_has_stopped_stays_so_and_a_killed_parent_leaves_nobody_behind() {
    let (directory, tree) = (tempfile::tempdir().unwrap(), Tree::start());
    let child = tree.all().into_iter().find(|life| life.parent == tree.0.id()).unwrap();
    signal(&Stopped::of(&child), Signal::STOP);
    wait_for("the child is stopped", || life(child.pid).is_some_and(|life| is_stopped(&life)));
    let (pid, started, sha256) = tree.named();
    let process = Named { pid, started, sha256: &sha256 };
    let frozen = freeze_process::FrozenProcess::prepare(process, &surroundings(directory.path())).unwrap();
    let mut levers = Levers::default();
    frozen.apply(&applied(ONE), &mut levers).unwrap();
    frozen.undo(ONE, &mut levers).unwrap();
    wait_for("the shell goes on, the child does not", || {
        life(pid).is_some_and(|life| !is_stopped(&life))
            && life(child.pid).is_some_and(|life| is_stopped(&life))
    });
    signal(&Stopped::of(&child), Signal::CONT);
    wait_for("both run", || tree.runs());
    frozen.apply(&applied(ONE), &mut levers).unwrap();
    signal(&Stopped::of(&life(pid).unwrap()), Signal::KILL);
    frozen.undo(ONE, &mut levers).unwrap();
    wait_for("the child goes on", || life(child.pid).is_some_and(|life| !is_stopped(&life)));
    signal(&Stopped::of(&child), Signal::KILL);
}

#[test]
fn who_does_not_fit_is_left_alone() {
    let (directory, tree) = (tempfile::tempdir().unwrap(), Tree::start());
    let (pid, started, sha256) = tree.named();
    let surroundings = surroundings(directory.path());
    let other = hex_of(b"another program");
    let later = started.plus(Duration::from_secs(1));
    for (process, why) in [
        (Named { pid, started: later, sha256: &sha256 }, "began at"),
        (Named { pid, started, sha256: &other }, "runs"),
        (Named { pid: 4_194_300, started, sha256: &sha256 }, "there is no process"),
        (
            Named { pid: std::process::id(), started: began(std::process::id()), sha256: &other },
            "never stopped",
        ),
        (Named { pid: 1, started: began(1), sha256: &other }, "never stopped"),
    ] {
        let frozen = freeze_process::FrozenProcess::prepare(process, &surroundings).expect_err(why);
        let killed = kill_process::kill(process, &surroundings).expect_err(why);
        assert!(frozen.contains(why) && killed.contains(why), "{why}: {frozen}; {killed}");
    }
    assert!(tree.runs());
    // By the clock as it was when the agent started, too.
    let before = Surroundings { booted: boot_by_clock().plus(Duration::from_secs(3_600)), ..surroundings };
    let process = Named { pid, started: started.plus(Duration::from_secs(3_600)), sha256: &sha256 };
    let (title, _) = kill_process::kill(process, &before).unwrap();
    assert!(title.contains("dash") && !life(pid).is_some_and(|life| life.runs()), "{title}");
}

/// A user calls a program of its own by a name that is spared, and so does somebody who runs as root what others may write.
#[test]
fn a_name_alone_spares_nobody() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let spared = |path: &Path, user: u32| {
        use std::os::unix::process::CommandExt as _;
        let mut child = Command::new(path).arg("600").uid(user).spawn().unwrap();
        wait_for("it runs", || program_of(child.id()) == path);
        let all: Vec<Life> = living().into_iter().filter_map(life).collect();
        let found = Spared::new(&all).is(&life(child.id()).unwrap());
        child.kill().and_then(|()| child.wait()).unwrap();
        found
    };
    let place = |above: &Path, name: &str| {
        let path = above.join(name);
        std::fs::copy("/bin/sleep", &path).unwrap();
        std::fs::set_permissions(above, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    for name in ["cron", "sshd", "systemd"] {
        let user = place(directory.path(), name);
        assert!(!spared(&user, 65_534) && !spared(&user, 0), "{name} below /tmp, which all may write");
    }
    // At a place that is root's it is root's process only.
    let own = tempfile::tempdir_in("/usr/lib").unwrap();
    let cron = place(own.path(), "cron");
    assert!(spared(&cron, 0) && !spared(&cron, 65_534));
    std::fs::set_permissions(&cron, std::fs::Permissions::from_mode(0o775)).unwrap();
    assert!(!spared(&cron, 0), "others may write it");
}

fn program_of(pid: u32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default()
}

/// Who has more processes than can be held does not escape by that.
#[test]
fn with_too_many_as_many_as_can_be_are_held_and_the_rest_is_told() {
    use std::os::unix::process::CommandExt as _;
    let directory = tempfile::tempdir().unwrap();
    // Each by itself: the kernel wakes whom a dead shell leaves behind.
    let sleeper = |_| Tree(Command::new("sleep").arg("600").process_group(0).spawn().unwrap());
    let trees: Vec<Tree> = (0..=HELD_MAX).map(sleeper).collect();
    let hold = Hold::new(directory.path(), ONE);
    let all = || trees.iter().flat_map(Tree::all).collect::<Vec<Life>>();
    let meant = |all: &[Life]| -> Vec<u32> { all.iter().map(|life| life.pid).collect() };
    let pids = meant(&all());
    let is_meant = |life: &&Life| life.runs() && pids.contains(&life.pid);
    let stop = || hold.stop(|all, _| all.iter().filter(is_meant).collect()).unwrap();
    let halted = stop();
    assert_eq!((halted.held.len(), halted.beyond), (HELD_MAX, 1));
    wait_for("they stand still", || all().iter().filter(|life| is_stopped(life)).count() == HELD_MAX);
    // A place that is free is taken by the next one.
    let (first, left) = (halted.held[0].clone(), halted.beyond);
    signal(&first, Signal::KILL);
    wait_for("it has ended", || life(first.pid).is_none_or(|life| !life.runs()));
    let halted = stop();
    assert_eq!((halted.held.len(), halted.beyond, left), (HELD_MAX, 0, 1));
    assert!(!halted.held.contains(&first));
    hold.let_go().unwrap();
}

fn began(pid: u32) -> Timestamp {
    boot_by_clock().plus(Duration::from_millis(life(pid).unwrap().started * 10))
}

fn hex_of(bytes: &[u8]) -> String {
    picket_protocol::crypto::hex(&picket_protocol::crypto::sha256(&[bytes]))
}

#[test]
fn what_a_crash_left_of_writing_the_note_goes_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let stopped = directory.path().join("stopped");
    std::fs::create_dir(&stopped).unwrap();
    std::fs::write(stopped.join(format!(".{ONE}.json.new")), "half of it").unwrap();
    Hold::new(directory.path(), ONE).let_go().unwrap();
    assert_eq!(std::fs::read_dir(&stopped).unwrap().count(), 0);
}

/// Somebody lets all go on as fast as they are stopped.
#[test]
fn who_is_let_go_on_at_once_is_held_and_holds_nobody_up() {
    let (directory, tree) = (tempfile::tempdir().unwrap(), Tree::start());
    let pids: Vec<u32> = tree.all().iter().map(|life| life.pid).collect();
    let rounds = std::cell::Cell::new(0);
    let hold = Hold::new(directory.path(), ONE);
    let halted = hold.stop_within(Duration::ZERO, |all, held| {
        rounds.set(rounds.get() + 1);
        held.iter().for_each(|process| signal(process, Signal::CONT));
        all.iter().filter(|life| pids.contains(&life.pid)).collect()
    });
    assert_eq!((halted.unwrap().held.len(), rounds.get()), (2, 1));
    wait_for("all stand still once they are left alone", || tree.is_stopped());
    hold.let_go().unwrap();
    wait_for("all go on", || tree.runs());
}
