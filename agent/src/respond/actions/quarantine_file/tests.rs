use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use picket_protocol::crypto::{hex, sha256};
use picket_protocol::time::Timestamp;
use rustix::fs::{
    IFlags, Timespec, Timestamps, XattrFlags, fsetxattr, futimens, ioctl_getflags, ioctl_setflags,
};

use super::super::attributes;
use super::*;

const ID: Uuid = Uuid::from_u128(0x0199_c2ad_5b0e_7cc3_98c4_dc0c_0c07_398f);
const APPLIED: Applied = Applied { id: ID, left: Duration::from_secs(60) };

/// A place for files and one for the agent; what is immutable is made mutable in the end.
struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    fn within(directory: &Path) -> Self {
        let lab = Self(tempfile::tempdir_in(directory).unwrap());
        std::fs::create_dir_all(lab.0.path().join("state/core")).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            collector: Vec::new(),
            uplink_uid: None,
            policy: PathBuf::new(),
            core: self.path("state/core"),
            booted: Timestamp::default(),
        }
    }

    fn prepare(&self, path: &Path, content: &[u8]) -> Result<Quarantined, String> {
        Quarantined::prepare(path.to_str().unwrap(), &hex(&sha256(&[content])), &self.surroundings())
    }

    fn vaults(&self) -> usize {
        std::fs::read_dir(self.path("state/core/vault")).into_iter().flatten().count()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _left = Command::new("chattr").args(["-f", "-R", "-i"]).arg(self.0.path()).status().is_err();
    }
}

/// Content, owner and times, attributes, flags.
type All = (Vec<u8>, Vec<i64>, BTreeMap<Vec<u8>, Vec<u8>>, Option<IFlags>);

/// All that is to come back.
fn all_of(path: &Path) -> All {
    let content = std::fs::read(path).unwrap();
    let metadata = std::fs::symlink_metadata(path).unwrap();
    let numbers = vec![
        i64::from(metadata.uid()),
        i64::from(metadata.gid()),
        i64::from(metadata.mode()),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ];
    let file = File::open(path).unwrap();
    let flags = ioctl_getflags(&file).ok().map(|flags| flags & (IFlags::IMMUTABLE | IFlags::NODUMP));
    (content, numbers, attributes::read(&file).unwrap().into_iter().collect(), flags)
}

/// An access list: owner rwx, user 7 r, group r, mask r-x, others none.
const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 4, 0, 7, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16,
    0, 5, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];
/// `cap_net_raw=ep`.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn make(path: &Path, content: &[u8], flags: IFlags) {
    std::fs::write(path, content).unwrap();
    std::os::unix::fs::chown(path, Some(4_711), Some(42)).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o6754)).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    for (name, value) in
        [("system.posix_acl_access", ACL), ("security.capability", CAPABILITY), ("trusted.x", &[0, 255, 10])]
    {
        fsetxattr(&file, name, value, XattrFlags::empty()).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let time = |nanos| Timespec { tv_sec: 1_234_567_890, tv_nsec: nanos };
    futimens(&file, &Timestamps { last_access: time(7), last_modification: time(123_456_789) }).unwrap();
    if !flags.is_empty() {
        let now = ioctl_getflags(&file).unwrap();
        ioctl_setflags(&file, now | flags).unwrap();
    }
}

/// Taken away and given back, as one file and as another agent run would do it.
fn there_and_back(lab: &Lab, name: &str, flags: IFlags) {
    let path = lab.path(name);
    make(&path, b"evil\0bytes", flags);
    let before = all_of(&path);
    let quarantined = lab.prepare(&path, b"evil\0bytes").unwrap();
    let mut levers = Levers::default();
    quarantined.undo(ID, &mut levers).unwrap();
    assert_eq!(all_of(&path), before, "{name}: undone without having been done");
    quarantined.apply(&APPLIED, &mut levers).unwrap();
    assert!(!path.exists() && quarantined.probe().is_ok(), "{name}");
    quarantined.apply(&APPLIED, &mut levers).unwrap();
    let kept = quarantined.vault(ID).content();
    assert_eq!(std::fs::read(&kept).unwrap(), b"evil\0bytes");
    let vault = std::fs::metadata(kept.parent().unwrap()).unwrap();
    assert_eq!((vault.uid(), vault.mode() & 0o777), (0, 0o700));
    quarantined.undo(ID, &mut levers).unwrap();
    assert_eq!(all_of(&path), before, "{name}");
    assert_eq!((quarantined.leftover(ID), lab.vaults()), (None, 0));
    quarantined.undo(ID, &mut levers).unwrap();
    assert_eq!(all_of(&path), before, "{name}: undone twice");
    let names = std::fs::read_dir(lab.0.path()).unwrap().count();
    assert_eq!(names, 2, "nothing else is left beside {name}");
    let _mutable = Command::new("chattr").args(["-f", "-i"]).arg(&path).status().is_err();
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_file_comes_back_with_all_that_it_was() {
    let lab = Lab::new();
    for name in ["plain", "a b\n\t\u{1b}[31m", "-rf", "ü\u{202e}", &"x".repeat(255)] {
        there_and_back(&lab, name, IFlags::empty());
    }
    // Where the file system has flags, an immutable file is no harder.
    let probe = File::open(lab.0.path()).unwrap();
    if ioctl_getflags(&probe).is_ok() {
        there_and_back(&lab, "immutable", IFlags::IMMUTABLE | IFlags::NODUMP);
    }
}

#[test]
fn across_file_systems_it_is_the_same() {
    let lab = Lab::new();
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = shm.path().join("there");
    std::fs::write(&path, "x").unwrap();
    let quarantined = lab.prepare(&path, b"x").unwrap();
    quarantined.apply(&APPLIED, &mut Levers::default()).unwrap();
    assert!(!path.exists());
    quarantined.undo(ID, &mut Levers::default()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"x");
}

#[test]
fn what_took_its_place_is_left_alone_and_the_vault_keeps_it() {
    let lab = Lab::new();
    let path = lab.path("x");
    std::fs::write(&path, "evil").unwrap();
    let quarantined = lab.prepare(&path, b"evil").unwrap();
    let mut levers = Levers::default();
    quarantined.apply(&APPLIED, &mut levers).unwrap();
    std::fs::write(&path, "the customer's").unwrap();
    assert!(quarantined.probe().is_ok());
    quarantined.undo(ID, &mut levers).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"the customer's");
    let left = quarantined.leftover(ID).unwrap();
    let kept = quarantined.vault(ID).content();
    assert!(left.contains(kept.to_str().unwrap()), "{left}");
    assert_eq!(std::fs::read(&kept).unwrap(), b"evil");
    // Its directory is gone: the same.
    std::fs::remove_file(&path).unwrap();
    quarantined.undo(ID, &mut levers).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"evil", "room again: a later try puts it back");
}

/// However far the agent came before it was killed.
#[test]
fn half_done_is_undone_and_goes_on() {
    for step in 0..4 {
        let lab = Lab::new();
        let path = lab.path("x");
        std::fs::write(&path, "evil").unwrap();
        let quarantined = lab.prepare(&path, b"evil").unwrap();
        let vault = quarantined.vault(ID);
        let hidden = lab.path(&format!(".picket-{ID}"));
        if step == 0 {
            std::fs::create_dir_all(vault.content().parent().unwrap()).unwrap();
            std::fs::write(vault.content(), "ev").unwrap();
        } else {
            vault.take_in(path.to_str().unwrap(), &mut open(&path).unwrap(), &quarantined.sha256).unwrap();
        }
        if step == 2 {
            std::fs::rename(&path, &hidden).unwrap();
        }
        if step == 3 {
            std::fs::remove_file(&path).unwrap();
        }
        let mut levers = Levers::default();
        if step != 2 {
            quarantined.undo(ID, &mut levers).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"evil", "step {step}");
            quarantined.apply(&APPLIED, &mut levers).unwrap();
        } else {
            quarantined.apply(&APPLIED, &mut levers).unwrap();
        }
        assert!(!path.exists() && !hidden.exists(), "step {step}");
        if step == 2 {
            std::fs::copy(vault.content(), &hidden).unwrap();
        }
        quarantined.undo(ID, &mut levers).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"evil", "step {step}");
        assert!(!hidden.exists() && lab.vaults() == 0, "step {step}");
    }
}

#[test]
fn another_file_is_not_taken() {
    let lab = Lab::new();
    let (path, other) = (lab.path("x"), lab.path("y"));
    std::fs::write(&path, "evil").unwrap();
    let refused = |path: &Path, why: &str| {
        let told = lab.prepare(path, b"evil").expect_err(why);
        assert!(told.contains(why), "{told}");
    };
    std::fs::write(&other, "good").unwrap();
    refused(&other, "the content of");
    std::fs::remove_file(&other).unwrap();
    refused(&other, "cannot be opened");
    std::os::unix::fs::symlink(&path, &other).unwrap();
    refused(&other, "symbolic link");
    std::os::unix::fs::symlink(lab.0.path(), lab.path("link")).unwrap();
    refused(&lab.path("link/x"), "symbolic link");
    std::fs::hard_link(&path, lab.path("z")).unwrap();
    refused(&path, "2 names");
    refused(lab.0.path(), "not a regular file");
    refused(&lab.path("state/core/agent.db"), "agent's own");
    let fifo = lab.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    refused(&fifo, "not a regular file");
    for place in ["/bin/sh", "/etc/passwd", "/etc/pam.d/x", "/usr/lib/systemd/systemd", "/boot/x"] {
        let real = std::fs::canonicalize(place).unwrap_or_else(|_| place.into());
        let told = lab.prepare(&real, b"evil").expect_err(place);
        assert!(told.contains("boot") || told.contains("hard links"), "{place}: {told}");
    }
    assert_eq!(lab.vaults(), 0);
}

/// Whoever owns a file may hold a lease on it, and take it anew as soon as it was broken: the file stays open until it is taken.
#[test]
fn a_lease_between_looking_and_taking_hinders_nothing() {
    let lab = Lab::new();
    let path = lab.path("x");
    std::fs::write(&path, "evil").unwrap();
    let quarantined = lab.prepare(&path, b"evil").unwrap();
    let script =
        "import fcntl, sys\nf = open(sys.argv[1], 'r+')\nfcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n";
    let lease = Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
    let told = String::from_utf8_lossy(&lease.stderr).into_owned();
    assert!(!lease.status.success() && told.contains("Resource temporarily unavailable"), "{told}");
    quarantined.apply(&APPLIED, &mut Levers::default()).unwrap();
    assert!(!path.exists() && quarantined.opened.take().is_none());
    quarantined.undo(ID, &mut Levers::default()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"evil");
}

/// Somebody puts another file in its place, over and over: that one is never lost, whenever it comes.
#[test]
fn a_file_that_is_swapped_in_is_not_lost() {
    let lab = Lab::new();
    let (path, good) = (lab.path("x"), lab.path("good"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::write(&good, "good").unwrap();
                // The only file of this content is the one that is moved there.
                std::fs::rename(&good, &path).unwrap();
                std::fs::write(&good, "evil").unwrap();
                std::fs::rename(&good, &path).unwrap();
            }
        });
        for number in 0..60_u128 {
            let Ok(quarantined) = lab.prepare(&path, b"evil") else { continue };
            let applied = Applied { id: Uuid::from_u128(number), left: Duration::from_secs(60) };
            let mut levers = Levers::default();
            // Whether it is caught or not is chance.
            let _caught = quarantined.apply(&applied, &mut levers).is_ok();
            let kept = quarantined.vault(applied.id);
            assert!(!kept.holds() || std::fs::read(kept.content()).unwrap() == b"evil");
            quarantined.undo(applied.id, &mut levers).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let hidden = std::fs::read_dir(lab.0.path()).unwrap().flatten();
    let hidden: Vec<_> =
        hidden.filter(|entry| entry.file_name().as_bytes().starts_with(b".picket")).collect();
    for entry in &hidden {
        assert_eq!(
            std::fs::read(entry.path()).unwrap(),
            b"good",
            "kept, though its name was taken: {entry:?}"
        );
    }
    assert!(OsStr::new("x") == path.file_name().unwrap() && path.exists());
}

/// On a real ext4, with immutable files, where one can be mounted.
#[test]
fn on_ext4_it_is_the_same() {
    let lab = Lab::new();
    let (image, mount) = (lab.path("image"), lab.path("mount"));
    std::fs::create_dir(&mount).unwrap();
    let script = "truncate -s 400M \"$0\" && mkfs.ext4 -q \"$0\" && mount -o loop \"$0\" \"$1\"";
    let mounted = Command::new("sh").args(["-c", script]).arg(&image).arg(&mount).status();
    if !mounted.is_ok_and(|status| status.success()) {
        #[expect(clippy::print_stdout, reason = "what is not tested is said")]
        {
            println!("NOT TESTED on ext4: no loop device can be mounted here");
        }
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let inner = Lab::within(&mount);
        there_and_back(&inner, "plain", IFlags::empty());
        there_and_back(&inner, "immutable", IFlags::IMMUTABLE | IFlags::NODUMP);
    });
    assert!(Command::new("umount").arg(&mount).status().unwrap().success());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}
