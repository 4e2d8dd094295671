use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use proptest::prelude::*;
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};

use super::*;

const ALICE: &str = "alice:$y$j9T$x$y:19000:0:99999:7:::";
const BOB: &str = "bob:!:19000:0:99999:7::20000:";

fn file(content: &str) -> (tempfile::TempDir, Shadow) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shadow");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let shadow = Shadow::at(directory.path());
    (directory, shadow)
}

fn text(shadow: &Shadow) -> String {
    std::fs::read_to_string(&shadow.path).unwrap()
}

#[test]
fn one_field_changes_and_comes_back() {
    let whole = format!("root:*:19000:0:99999:7:::\n{ALICE}\n+@crew::::::::\n{BOB}");
    let (_directory, shadow) = file(&whole);
    assert_eq!(shadow.expires("alice").unwrap(), "");
    assert_eq!(shadow.expires("bob").unwrap(), "20000");
    let mut told = None;
    assert!(shadow.replace("alice", "", "1", |before, after| told = Some((before, after))).unwrap());
    assert_eq!(text(&shadow), whole.replace(ALICE, "alice:$y$j9T$x$y:19000:0:99999:7::1:"));
    let digest = |text: &str| sha256(&[text.as_bytes()]);
    assert_eq!(told, Some((digest(&whole), digest(&text(&shadow)))), "the very contents");
    assert!(!shadow.replace("alice", "", "1", |_, _| ()).unwrap(), "twice is once");
    // The last line has no newline, and gets none.
    assert!(shadow.replace("bob", "20000", "1", |_, _| ()).unwrap());
    assert!(text(&shadow).ends_with("bob:!:19000:0:99999:7::1:"));
    assert!(
        shadow.replace("bob", "1", "20000", |_, _| ()).unwrap()
            && shadow.replace("alice", "1", "", |_, _| ()).unwrap()
    );
    assert_eq!(text(&shadow), whole);
}

#[test]
fn what_others_changed_meanwhile_stays() {
    let (_directory, shadow) = file(&format!("{ALICE}\n{BOB}\n"));
    assert!(shadow.replace("alice", "", "1", |_, _| ()).unwrap());
    let changed = text(&shadow).replace("$y$j9T$x$y", "$y$new").replace(BOB, "carl:!:1:0:9:7:::");
    std::fs::write(&shadow.path, &changed).unwrap();
    assert!(shadow.replace("alice", "1", "", |_, _| ()).unwrap());
    assert_eq!(text(&shadow), "alice:$y$new:19000:0:99999:7:::\ncarl:!:1:0:9:7:::\n");
    // Somebody has set another end: it is theirs.
    std::fs::write(&shadow.path, "alice:x:1:0:9:7::20500:\n").unwrap();
    assert!(!shadow.replace("alice", "1", "", |_, _| ()).unwrap());
    assert_eq!(text(&shadow), "alice:x:1:0:9:7::20500:\n");
}

#[test]
fn hostile_lines_are_named_and_nothing_is_changed() {
    for (content, user) in [
        ("", "alice"),
        ("alicex:x:1:::::: \n", "alice"),
        ("+alice:x:1::::::\n", "alice"),
        ("alice\n", "alice"),
        ("alice:x:1:2:3\n", "alice"),
        ("alice:x:1:2:3:4:5:6:7:8\n", "alice"),
        (":x:1::::::\n", "alice"),
        ("\n\n:::::::::\n", "alice"),
    ] {
        let (_directory, shadow) = file(content);
        let error = shadow.replace(user, "", "1", |_, _| ()).expect_err(content);
        assert!(
            matches!(error, ShadowError::NoSuchUser(..) | ShadowError::Malformed(..)),
            "{content:?}: {error}"
        );
        assert_eq!(text(&shadow), content);
    }
    // Of two lines the first counts, as in libc.
    let (_directory, shadow) = file(&format!("{ALICE}\n{ALICE}\n"));
    assert!(shadow.replace("alice", "", "1", |_, _| ()).unwrap());
    assert_eq!(text(&shadow), format!("alice:$y$j9T$x$y:19000:0:99999:7::1:\n{ALICE}\n"));
}

#[test]
fn owner_mode_and_attributes_stay() {
    let (_directory, shadow) = file(&format!("{ALICE}\n"));
    std::os::unix::fs::chown(&shadow.path, Some(0), Some(42)).unwrap();
    std::fs::set_permissions(&shadow.path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let before = File::open(&shadow.path).unwrap();
    fsetxattr(&before, "trusted.label", b"kept", XattrFlags::empty()).unwrap();
    assert!(shadow.replace("alice", "", "1", |_, _| ()).unwrap());
    let after = File::open(&shadow.path).unwrap();
    let metadata = after.metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (0, 42, 0o600));
    assert_ne!(metadata.ino(), before.metadata().unwrap().ino(), "another file takes its place");
    let mut value = [0; 8];
    assert_eq!(fgetxattr(&after, "trusted.label", &mut value), Ok(4));
    let left: Vec<_> = std::fs::read_dir(shadow.path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 2, "the file and its lock: {left:?}");
}

#[test]
fn links_and_other_things_are_no_shadow() {
    let (directory, shadow) = file(&format!("{ALICE}\n"));
    std::fs::hard_link(&shadow.path, directory.path().join("other")).unwrap();
    assert!(matches!(shadow.replace("alice", "", "1", |_, _| ()), Err(ShadowError::Odd(_))));
    std::fs::rename(directory.path().join("other"), directory.path().join("real")).unwrap();
    std::fs::remove_file(&shadow.path).unwrap();
    std::os::unix::fs::symlink("real", &shadow.path).unwrap();
    assert!(matches!(shadow.replace("alice", "", "1", |_, _| ()), Err(ShadowError::Io(..))));
    assert_eq!(std::fs::read_to_string(directory.path().join("real")).unwrap(), format!("{ALICE}\n"));
}

/// Another process holds the lock as libc takes it.
#[test]
fn the_lock_of_the_shadow_programs_is_waited_for() {
    let (directory, shadow) = file(&format!("{ALICE}\n"));
    let script = "import fcntl,sys,time\nf=open(sys.argv[1],'w')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('held',flush=True)\ntime.sleep(3)\n";
    let lock = directory.path().join(".pwd.lock");
    let mut other = Command::new("python3")
        .args(["-c", script])
        .arg(&lock)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 4];
    other.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let began = std::time::Instant::now();
    assert!(shadow.replace("alice", "", "1", |_, _| ()).unwrap());
    assert!(began.elapsed() > Duration::from_millis(500), "it was held");
    assert!(other.wait().unwrap().success());
}

/// Lines of any kind, with those of real users among them.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        "[a-c]{1,2}:[!-9;-~]{0,9}:[0-9]{0,5}:[0-9]{0,2}:[0-9]{0,5}:[0-9]?:[0-9]{0,3}:[0-9]{0,5}:"
            .prop_map(String::into_bytes),
        "[+a-c:]{0,12}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    (proptest::collection::vec(line, 0..8), any::<bool>()).prop_map(|(lines, ends)| {
        let mut all = lines.join(&b'\n');
        all.extend(ends.then_some(b'\n'));
        all
    })
}

proptest! {
    #[test]
    fn only_that_field_of_that_line_changes_and_all_comes_back(content in content(), user in "[a-c]{1,2}", new in "[0-9]{1,5}") {
        let Ok(range) = field(&content, &user) else { return Ok(()) };
        let old = String::from_utf8(content[range.clone()].to_vec());
        let Ok(old) = old else { return Ok(()) };
        let Some(changed) = replaced(&content, &user, &old, &new).unwrap() else {
            prop_assert_eq!(old, new);
            return Ok(());
        };
        let (before, after): (Vec<&[u8]>, Vec<&[u8]>) =
            (content.split(|b| *b == b'\n').collect(), changed.split(|b| *b == b'\n').collect());
        prop_assert_eq!(before.len(), after.len());
        let differ: Vec<usize> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
        prop_assert_eq!(differ.len(), 1);
        let (one, other): (Vec<&[u8]>, Vec<&[u8]>) = (
            before[differ[0]].split(|b| *b == b':').collect(),
            after[differ[0]].split(|b| *b == b':').collect(),
        );
        prop_assert_eq!(one[0], user.as_bytes());
        prop_assert!(one.len() == FIELDS && other.len() == FIELDS);
        prop_assert_eq!(other[EXPIRES], new.as_bytes());
        prop_assert!((0..FIELDS).all(|at| at == EXPIRES || one[at] == other[at]));
        prop_assert_eq!(replaced(&changed, &user, &new, &old).unwrap(), Some(content));
    }
}

#[test]
fn what_a_crash_left_of_writing_goes_though_there_is_nothing_to_change() {
    let (directory, shadow) = file(&format!("{ALICE}\n"));
    let left = directory.path().join(".picket-shadow");
    std::fs::write(&left, "half of it").unwrap();
    assert!(!shadow.replace("alice", "1", "", |_, _| ()).unwrap());
    assert!(!left.exists());
}
