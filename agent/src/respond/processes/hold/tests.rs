use std::process::{Child, Command};
use std::time::Instant;

use picket_protocol::time::Timestamp;

use super::*;
use crate::respond::actions::{Applied, Deed as _, Levers, Surroundings, freeze_process, kill_process};
use crate::respond::processes::{Named, boot_by_clock, hash_of};

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
    assert!(tree.is_stopped() && frozen.probe().is_ok() && !frozen.has_escaped(ONE), "{}", tree.states());
    // After a reboot somebody else may have the number and the beginning.
    let reboot = freeze_process::FrozenProcess { boot: "another".to_owned(), ..frozen.clone() };
    reboot.apply(&applied(Uuid::nil()), &mut levers).expect_err("nobody is meant any more");
    // Another order about the same ends in any order.
    frozen.apply(&applied(OTHER), &mut levers).unwrap();
    frozen.undo(ONE, &mut levers).unwrap();
    assert!(tree.is_stopped(), "{}", tree.states());
    // Somebody lets it go on: it is seen, and stopped again.
    signal(&Stopped::of(&life(pid).unwrap()), Signal::CONT);
    wait_for("it runs", || frozen.has_escaped(OTHER));
    frozen.apply(&applied(OTHER), &mut levers).unwrap();
    assert!(tree.is_stopped(), "{}", tree.states());
    frozen.undo(OTHER, &mut levers).unwrap();
    wait_for("all go on", || tree.runs());
    assert_eq!(std::fs::read_dir(directory.path().join("stopped")).unwrap().count(), 0);
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
