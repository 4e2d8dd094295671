use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::process::Command;

use picket_protocol::finding::{Entity, Observed, Severity, Text};
use picket_protocol::time::Timestamp;
use rustix::fs::{ioctl_getflags, ioctl_setflags};

use super::*;
use crate::respond::own_acts::{Rights, Seen};

const ID: Uuid = Uuid::from_u128(0x0199_c2ad_5b0e_7cc3_98c4_dc0c_0c07_398f);
const FINDING: Uuid = Uuid::from_u128(0x0199_c2ad_7d10_7a44_b1f5_3a9d_2c5e_8f01);
const CLEAN: &[u8] = b"Port 22\nPermitRootLogin no\n";
const EVIL: &[u8] = b"Port 22\nPermitRootLogin yes\n";

/// A place for files and one for the agent; what is immutable is made mutable in the end.
struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Self {
        // On a disk: not every tmpfs has the attributes.
        let lab = Self(tempfile::tempdir_in("/var/tmp").unwrap());
        std::fs::create_dir(lab.path("core")).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file as it was changed.
    fn changed(&self) -> PathBuf {
        let path = self.path("sshd_config");
        std::fs::write(&path, EVIL).unwrap();
        path
    }

    fn examine(&self, finding: &Finding) -> Result<Restore, String> {
        self.examine_beside(finding, &[])
    }

    fn examine_beside(&self, finding: &Finding, held: &[Held]) -> Result<Restore, String> {
        Restore::examine(FINDING, Wanted::of(finding)?, (CLEAN.to_vec(), true), held, &self.path("core"))
    }

    /// Nothing but the files of the test.
    fn is_clean(&self) {
        let names = |path: &Path| -> Vec<_> {
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        let hidden = names(self.0.path()).into_iter().filter(|name| name.as_bytes().starts_with(b"."));
        assert_eq!((hidden.count(), self.notes()), (0, 0));
        assert!(names(&self.path("core")).into_iter().all(|name| name == "restoring"));
    }

    /// How many are left.
    fn notes(&self) -> usize {
        std::fs::read_dir(self.path("core/restoring")).map_or(0, Iterator::count)
    }

    /// A note of `id`, as a crash would leave it; sides are content and flags.
    fn note(&self, id: Uuid, whole: bool, [new, old]: [(&[u8], IFlags); 2]) {
        let side = |(content, flags): (&[u8], IFlags)| json!({ "sha256": hex(&sha256(&[content])), "flags": flags.bits() });
        let text = |bytes: &[u8]| Text::from_bytes(bytes);
        let note = json!({
            "directory": text(self.0.path().as_os_str().as_bytes()), "name": text(b"sshd_config"), "new": side(new),
            "old": side(old), "whole": whole,
        });
        let _there = std::fs::create_dir(self.path("core/restoring")).is_err();
        std::fs::write(self.path(&format!("core/restoring/{id}.json")), note.to_string()).unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _left =
            Command::new("chattr").args(["-f", "-R", "-i", "-a"]).arg(self.0.path()).status().is_err();
    }
}

fn facts(text: &[u8]) -> Value {
    json!({
        "type": "file", "mode": "0640", "uid": 12, "gid": 34, "size": text.len(), "mtime": Timestamp::default(),
        "ctime": Timestamp::default(), "inode": 1, "links": 1, "sha256": hex(&sha256(&[text])),
    })
}

fn finding(path: &Path, before: Value, after: Value) -> Finding {
    let fact = if after.is_null() { "file.deleted" } else { "file.modified" };
    let evidence = json!({
        "class": "ssh-server", "seen_by": "event", "fact": fact, "before": before, "after": after,
        "changed": ["content", "mode", "guards", "access-list"],
    });
    Finding {
        id: FINDING,
        rule: "file.modified".to_owned(),
        severity: Severity::High,
        observed: Observed::once(Timestamp::default()),
        title: "it was changed".to_owned(),
        entities: vec![Entity::File { path: Text::from_bytes(path.as_os_str().as_bytes()) }],
        evidence,
        attack: Vec::new(),
        explained_by: None,
        drill: false,
    }
}

/// With the rights that what is there has.
fn modified(path: &Path) -> Finding {
    let mut after = facts(EVIL);
    if let Ok(file) = File::open(path) {
        let is = Access::of(&file).unwrap();
        after["mode"] = format!("{:04o}", is.rights.mode).into();
        (after["uid"], after["gid"]) = (is.rights.uid.into(), is.rights.gid.into());
        let guards = [(IFlags::IMMUTABLE, "immutable"), (IFlags::APPEND, "append-only")];
        let guards: Vec<&str> =
            guards.into_iter().filter(|(flag, _)| is.guards.contains(*flag)).map(|(_, name)| name).collect();
        after["guards"] = json!(guards);
        after["access_list"] = json!(is.access_list.map(|value| hex(&value)));
        after["capability"] = json!(is.capability.map(|value| hex(&value)));
        after["label"] = json!(is.label.map(|label| Text::from_bytes(&label)));
    }
    finding(path, facts(CLEAN), after)
}

fn removed(path: &Path) -> Finding {
    finding(path, facts(CLEAN), Value::Null)
}

/// Content, mode, owner, group.
fn all_of(path: &Path) -> (Vec<u8>, u32, u32, u32) {
    let metadata = std::fs::metadata(path).unwrap();
    (std::fs::read(path).unwrap(), metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
}

fn as_it_was() -> (Vec<u8>, u32, u32, u32) {
    (CLEAN.to_vec(), 0o640, 12, 34)
}

/// An access list that gives a user everything.
fn access_list() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 7, 77), (4, 4, u32::MAX), (0x10, 7, u32::MAX), (0x20, 4, u32::MAX)];
    let bytes = entries.iter().flat_map(|(tag, rights, id)| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    });
    2_u32.to_le_bytes().into_iter().chain(bytes).collect()
}

#[test]
fn a_changed_file_holds_what_it_held_with_its_rights_and_the_sensor_knows_why() {
    let (lab, acts) = (Lab::new(), OwnActs::default());
    let path = lab.changed();
    let file = File::open(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    attributes::write(&file, OsStr::new("user.note"), b"kept").unwrap();
    attributes::write(&file, OsStr::new(ACCESS_LIST), &access_list()).unwrap();
    let has_flags = ioctl_getflags(&file)
        .and_then(|flags| ioctl_setflags(&file, flags | IFlags::IMMUTABLE | IFlags::NODUMP))
        .is_ok();
    let restore = lab.examine(&modified(&path)).unwrap();
    let plan = restore.plan();
    assert!(plan.lines[0].contains("27 bytes, mode 0640, owner 12:34"), "{plan:?}");
    let (title, detail) = restore.put_back(ID, &acts).unwrap();
    assert!(title.contains("holds again") && !title.contains("But"), "{title}");
    assert_eq!(
        (&detail["sha256_before"], &detail["sha256_after"], &detail["bytes"]),
        (&json!(hex(&sha256(&[EVIL]))), &json!(hex(&sha256(&[CLEAN]))), &json!(CLEAN.len()))
    );
    assert_eq!(all_of(&path), as_it_was());
    let now = File::open(&path).unwrap();
    let kept: Vec<Vec<u8>> = attributes::read(&now).unwrap().into_iter().map(|(name, _)| name).collect();
    assert!(kept.contains(&b"user.note".to_vec()) && !kept.contains(&ACCESS_LIST.into()), "{kept:?}");
    if has_flags {
        // The change made it immutable; that it is not to be dumped was nobody's change.
        let flags = ioctl_getflags(&now).unwrap();
        assert!(!flags.contains(IFlags::IMMUTABLE) && flags.contains(IFlags::NODUMP), "{flags:?}");
    }
    lab.is_clean();
    let by = acts.take_file(&path, Seen::Digest(sha256(&[EVIL])), Seen::Digest(sha256(&[CLEAN]))).unwrap();
    assert_eq!(by.to_string(), format!("command {ID} (restore-file)"));
    assert_eq!(by.leaves, Some(Rights { mode: 0o640, uid: 12, gid: 34 }));
}

#[test]
fn a_removed_file_comes_back_with_all_that_was_told_of_it_where_nothing_stands() {
    let (lab, acts) = (Lab::new(), OwnActs::default());
    let path = lab.path("sshd_config");
    let mut found = removed(&path);
    found.evidence["before"]["access_list"] = hex(&access_list()).into();
    found.evidence["before"]["mode"] = "0674".into();
    let restore = lab.examine(&found).unwrap();
    std::fs::write(&path, "mine").unwrap();
    let why = restore.put_back(ID, &acts).unwrap_err();
    assert!(why.contains("something stands there by now"), "{why}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    let why = lab.examine(&found).unwrap_err();
    assert!(why.contains("is there again"), "{why}");
    assert_eq!(acts.take_file(&path, Seen::Nothing, Seen::Digest(sha256(&[CLEAN]))), None);
    std::fs::remove_file(&path).unwrap();
    lab.examine(&found).unwrap().put_back(ID, &acts).unwrap();
    assert_eq!(all_of(&path), (CLEAN.to_vec(), 0o674, 12, 34));
    let list = attributes::read(File::open(&path).unwrap()).unwrap();
    assert!(list.contains(&(ACCESS_LIST.into(), access_list())), "{list:?}");
    lab.is_clean();
    assert!(acts.take_file(&path, Seen::Nothing, Seen::Digest(sha256(&[CLEAN]))).is_some());
}

#[test]
fn a_later_change_is_never_overwritten() {
    let (lab, acts) = (Lab::new(), OwnActs::default());
    let path = lab.changed();
    let found = modified(&path);
    // Before it is examined.
    std::fs::write(&path, "later").unwrap();
    let why = lab.examine(&found).unwrap_err();
    assert!(why.contains("changed again since") && why.contains(&hex(&sha256(&[b"later"]))), "{why}");
    // After that: in place, by another file of its name, by a second name, and by nothing.
    type Change = fn(&Path);
    let changes: [Change; 6] = [
        |path| std::fs::write(path, "later").unwrap(),
        |path| {
            let other = path.with_extension("new");
            std::fs::write(&other, EVIL).unwrap();
            std::fs::rename(other, path).unwrap();
        },
        |path| std::fs::hard_link(path, path.with_extension("second")).unwrap(),
        |path| std::fs::remove_file(path).unwrap(),
        // Its rights alone, by a mode and by an access list.
        |path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap(),
        |path| {
            let file = File::open(path).unwrap();
            attributes::write(&file, OsStr::new(ACCESS_LIST), &access_list()).unwrap();
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        lab.changed();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let restore = lab.examine(&modified(&path)).unwrap();
        change(&path);
        let (content, inode) =
            (std::fs::read(&path).ok(), std::fs::metadata(&path).ok().map(|file| file.ino()));
        let why = restore.put_back(ID, &acts).unwrap_err();
        assert!(why.contains("that change stays"), "{number}: {why}");
        assert_eq!(std::fs::read(&path).ok(), content, "{number}");
        assert_eq!(std::fs::metadata(&path).ok().map(|file| file.ino()), inode, "{number}");
        lab.is_clean();
        let _none = std::fs::remove_file(path.with_extension("second")).is_err();
        let _gone = std::fs::remove_file(&path).is_err();
    }
    let why = lab.examine(&found).unwrap_err();
    assert!(why.contains("by the finding of its removal"), "{why}");
}

#[test]
fn rights_that_were_changed_after_the_finding_are_never_overwritten() {
    let (lab, acts) = (Lab::new(), OwnActs::default());
    let path = lab.changed();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let found = modified(&path);
    lab.examine(&found).unwrap();
    let file = File::open(&path).unwrap();
    let refused = |what: &str| {
        let why = lab.examine(&found).unwrap_err();
        assert!(why.contains("rights") && why.contains(what), "{why}");
    };
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    refused("its mode is 0600");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    std::os::unix::fs::chown(&path, Some(7), None).unwrap();
    refused("its owner 7:");
    std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    attributes::write(&file, OsStr::new("security.capability"), &capability()).unwrap();
    refused("getcap");
    attributes::remove(&file, OsStr::new("security.capability")).unwrap();
    let Ok(flags) = ioctl_getflags(&file) else { return };
    let restore = lab.examine(&found).unwrap();
    ioctl_setflags(&file, flags | IFlags::IMMUTABLE).unwrap();
    refused("lsattr");
    let why = restore.put_back(ID, &acts).unwrap_err();
    assert!(why.contains("that change stays"), "{why}");
    assert!(ioctl_getflags(&file).unwrap().contains(IFlags::IMMUTABLE));
    assert_eq!(std::fs::read(&path).unwrap(), EVIL);
}

/// `CAP_NET_BIND_SERVICE`, as `struct vfs_cap_data` of version 2 has it.
fn capability() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 10, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
}

#[test]
fn an_access_list_that_did_not_change_comes_back_where_a_quarantine_took_the_file() {
    let (lab, acts) = (Lab::new(), OwnActs::default());
    let path = lab.path("sshd_config");
    let held = vec![(path.clone(), hex(&sha256(&[EVIL])))];
    let mut found = modified(&path);
    found.evidence["changed"] = json!(["content"]);
    for state in ["before", "after"] {
        found.evidence[state]["access_list"] = hex(&access_list()).into();
        found.evidence[state]["mode"] = "0674".into();
    }
    lab.examine_beside(&found, &held).unwrap().put_back(ID, &acts).unwrap();
    let list = attributes::read(File::open(&path).unwrap()).unwrap();
    assert!(list.contains(&(ACCESS_LIST.into(), access_list())), "{list:?}");
    std::fs::remove_file(&path).unwrap();
    for state in ["before", "after"] {
        found.evidence[state]["access_list"] = "0a".repeat(16).into();
    }
    let why = lab.examine_beside(&found, &held).unwrap_err();
    assert!(why.contains("not known whole"), "{why}");
}

#[test]
fn a_label_that_the_change_gave_is_undone_and_a_later_one_stays() {
    let label = |kind: &str| format!("system_u:object_r:{kind}:s0\0").into_bytes();
    let name = b"security.selinux";
    let access = |label: Option<&str>| Access {
        rights: Rights { mode: 0o644, uid: 0, gid: 0 },
        guards: IFlags::empty(),
        access_list: None,
        capability: None,
        label: label.map(|label| label.as_bytes().to_vec()),
    };
    let wanted = |changed: bool, before: Option<&str>| {
        let mut found = modified(Path::new("/etc/issue"));
        found.evidence["changed"] = if changed { json!(["content", "label"]) } else { json!(["content"]) };
        found.evidence["before"]["label"] = json!(before.map(|label| Text::from_bytes(label.as_bytes())));
        found.evidence["after"]["label"] = json!(Text::from_bytes(b"user_home_t"));
        Wanted::of(&found).unwrap()
    };
    let put = |wanted: &Wanted, now: &str| {
        let own = Label::of(wanted, Some(&access(Some(now))));
        let mut attributes = vec![(name.to_vec(), label(now)), (b"user.note".to_vec(), b"kept".to_vec())];
        own.put_into(&mut attributes);
        assert_eq!(attributes.last().unwrap().1, b"kept");
        let value = attributes.into_iter().find(|(own, _)| own == name).map(|(_, value)| value);
        (value, own.remark().unwrap_or_default())
    };
    let (value, said) = put(&wanted(true, Some("etc_t")), "user_home_t");
    assert!(value == Some(label("etc_t")) && said.contains("etc_t again"), "{said}");
    let whole = "staff_u:object_r:etc_t:s0:c1";
    let (value, _) = put(&wanted(true, Some(whole)), "user_home_t");
    assert_eq!(value, Some(format!("{whole}\0").into_bytes()));
    let (value, said) = put(&wanted(true, None), "user_home_t");
    assert!(value.is_none() && said.contains("its directory gives"), "{said}");
    // A digest is no label.
    let (value, _) = put(&wanted(true, Some("\u{1}\u{2}")), "user_home_t");
    assert_eq!(value, None);
    let (value, said) = put(&wanted(true, Some("etc_t")), "net_conf_t");
    assert!(value == Some(label("net_conf_t")) && said.contains("since the finding"), "{said}");
    let (value, said) = put(&wanted(false, Some("user_home_t")), "user_home_t");
    assert!(value == Some(label("user_home_t")) && said.is_empty(), "{said}");
    let said = Label::of(&wanted(true, Some("etc_t")), None).remark().unwrap();
    assert!(said.contains("its directory gives; it was etc_t"), "{said}");
}

#[test]
fn a_restore_that_fails_leaves_the_one_before_it_explained() {
    let (lab, acts) = (Lab::new(), OwnActs::default());
    let path = lab.changed();
    let found = modified(&path);
    let later = lab.examine(&found).unwrap();
    lab.examine(&found).unwrap().put_back(ID, &acts).unwrap();
    later.put_back(FINDING, &acts).unwrap_err();
    let by = acts.take_file(&path, Seen::Digest(sha256(&[EVIL])), Seen::Digest(sha256(&[CLEAN]))).unwrap();
    assert_eq!(by.commands, [ID]);
}

#[test]
fn the_flags_of_what_is_not_replaced_are_as_they_were() {
    let lab = Lab::new();
    let path = lab.changed();
    let file = File::open(&path).unwrap();
    let Ok(flags) = ioctl_getflags(&file) else { return };
    let restore = lab.examine(&modified(&path)).unwrap();
    std::fs::write(&path, "later").unwrap();
    ioctl_setflags(&file, flags | IFlags::APPEND).unwrap();
    restore.put_back(ID, &OwnActs::default()).unwrap_err();
    assert!(ioctl_getflags(&file).unwrap().contains(IFlags::APPEND));
}

#[test]
fn what_leads_elsewhere_or_has_other_names_is_left() {
    let lab = Lab::new();
    let path = lab.changed();
    std::os::unix::fs::symlink(lab.0.path(), lab.path("link")).unwrap();
    let through = lab.path("link/sshd_config");
    for (path, why) in [(&through, "symbolic link"), (&lab.path("none/sshd_config"), "directory")] {
        for found in [modified(path), removed(path)] {
            let told = lab.examine(&found).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
    std::os::unix::fs::symlink("sshd_config", lab.path("last")).unwrap();
    let told = lab.examine(&modified(&lab.path("last"))).unwrap_err();
    assert!(told.contains("symbolic link"), "{told}");
    std::fs::hard_link(&path, lab.path("second")).unwrap();
    let told = lab.examine(&modified(&path)).unwrap_err();
    assert!(told.contains("2 names"), "{told}");
    assert_eq!(std::fs::read(&path).unwrap(), EVIL);
}

#[test]
fn what_a_quarantine_took_may_be_followed_by_what_was_before_and_is_not_doubled() {
    let (lab, acts) = (Lab::new(), OwnActs::default());
    let path = lab.path("sshd_config");
    let held = |content: &[u8]| vec![(path.clone(), hex(&sha256(&[content])))];
    let restore = lab.examine_beside(&modified(&path), &held(EVIL)).unwrap();
    let (title, detail) = restore.put_back(ID, &acts).unwrap();
    assert!(detail["sha256_before"].is_null() && !title.contains("no text"), "{title} {detail}");
    assert_eq!(all_of(&path), as_it_was());
    std::fs::remove_file(&path).unwrap();
    let why = lab.examine_beside(&removed(&path), &held(CLEAN)).unwrap_err();
    assert!(why.contains("restore-file --command"), "{why}");
}

#[test]
fn what_a_crash_leaves_is_removed_and_what_somebody_wrote_is_not() {
    let lab = Lab::new();
    let (core, temporary) = (lab.path("core"), lab.path(&format!(".picket-{ID}.new")));
    let none = IFlags::empty();
    let note = |whole| lab.note(ID, whole, [(CLEAN, none), (EVIL, none)]);
    let clear = || {
        let Cleared { kept, left } = clear_leftover(&core);
        assert!(left.is_empty(), "{left:?}");
        kept
    };
    for (content, whole) in [(&CLEAN[..5], false), (CLEAN, true), (EVIL, true)] {
        note(whole);
        std::fs::write(&temporary, content).unwrap();
        assert!(clear().is_empty());
        assert!(!temporary.exists());
        lab.is_clean();
    }
    note(false);
    assert!(clear().is_empty());
    lab.is_clean();
    note(true);
    std::fs::write(&temporary, "an editor's").unwrap();
    let kept = clear();
    assert!(kept.len() == 1 && kept[0].contains(temporary.to_str().unwrap()), "{kept:?}");
    assert_eq!(std::fs::read(&temporary).unwrap(), b"an editor's");
    assert_eq!(lab.notes(), 0);
    std::fs::remove_file(&temporary).unwrap();
    for damaged in [&b""[..], b"{}", b"\xff"] {
        std::fs::write(core.join(format!("restoring/{ID}.json")), damaged).unwrap();
        std::fs::write(core.join(format!("restoring/.{ID}.json.new")), damaged).unwrap();
        assert!(clear().is_empty());
        lab.is_clean();
    }
}

#[test]
fn who_owns_the_directory_hinders_no_other_restore() {
    let (lab, acts) = (Lab::new(), OwnActs::default());
    let (core, none) = (lab.path("core"), IFlags::empty());
    // A directory in place of the temporary file is not the agent's.
    let other = Uuid::from_u128(7);
    lab.note(other, true, [(CLEAN, none), (EVIL, none)]);
    let squatter = lab.path(&format!(".picket-{other}.new"));
    std::fs::create_dir(&squatter).unwrap();
    let cleared = clear_leftover(&core);
    assert!(cleared.kept.is_empty() && cleared.left.is_empty(), "{cleared:?}");
    assert!(squatter.is_dir() && lab.notes() == 0);
    std::fs::remove_dir(&squatter).unwrap();
    // What cannot be removed stays noted, and a file is put back all the same.
    std::fs::create_dir_all(core.join(format!("restoring/{other}.json/full"))).unwrap();
    assert_eq!(clear_leftover(&core).left.len(), 1);
    let path = lab.changed();
    lab.examine(&modified(&path)).unwrap().put_back(ID, &acts).unwrap();
    assert_eq!((all_of(&path), lab.notes()), (as_it_was(), 1));
    // But not by the very command.
    std::fs::write(&path, EVIL).unwrap();
    let why = lab.examine(&modified(&path)).unwrap().put_back(other, &acts).unwrap_err();
    assert!(why.contains("in the way"), "{why}");
}

#[test]
fn a_crash_takes_no_guard_away() {
    let lab = Lab::new();
    let path = lab.changed();
    let Ok(flags) = ioctl_getflags(File::open(&path).unwrap()) else { return };
    let (immutable, append) = (IFlags::IMMUTABLE, IFlags::APPEND);
    let now = |content: &[u8], whole: bool| {
        std::fs::write(&path, content).unwrap();
        let file = File::open(&path).unwrap();
        lab.note(ID, whole, [(CLEAN, immutable), (EVIL, append)]);
        let cleared = clear_leftover(&lab.path("core"));
        assert!(cleared.left.is_empty() && lab.notes() == 0, "{cleared:?}");
        let found = ioctl_getflags(&file).unwrap() & (immutable | append);
        ioctl_setflags(&file, flags).unwrap();
        found
    };
    assert_eq!(now(CLEAN, true), immutable);
    assert_eq!(now(EVIL, true), append);
    assert_eq!(now(b"somebody's", true), IFlags::empty());
    assert_eq!(now(EVIL, false), IFlags::empty());
}

#[test]
fn what_cannot_be_put_back_is_refused_in_words() {
    let path = Path::new("/etc/ssh/sshd_config");
    let with = |change: fn(&mut Finding)| {
        let mut found = modified(path);
        change(&mut found);
        Wanted::of(&found)
    };
    assert_eq!(with(|_| {}).unwrap().rights, Rights { mode: 0o640, uid: 12, gid: 34 });
    type Change = fn(&mut Finding);
    let cases: Vec<(&str, Change)> = vec![
        ("exercise", |found| found.drill = true),
        ("not about one file", |found| found.entities.clear()),
        ("not about one file", |found| found.evidence = json!({ "attempts": 7 })),
        ("no path", |found| found.entities = vec![Entity::File { path: Text::from_bytes(b"/etc/../x") }]),
        ("no path", |found| found.entities = vec![Entity::File { path: Text::from_bytes(b"etc/x") }]),
        ("there was no", |found| found.evidence["before"] = Value::Null),
        ("moved there", |found| found.evidence["fact"] = "file.moved".into()),
        ("a symbolic link before", |found| found.evidence["before"]["type"] = "symlink".into()),
        ("a directory came after", |found| found.evidence["after"]["type"] = "directory".into()),
        ("held before is not known", |found| found.evidence["before"]["sha256"] = Value::Null),
        ("what came after", |found| found.evidence["after"]["sha256"] = "00".into()),
        ("did not change", |found| found.evidence["after"] = facts(CLEAN)),
        ("mode", |found| found.evidence["before"]["mode"] = "99".into()),
        ("mode", |found| found.evidence["before"]["mode"] = "17777".into()),
        ("too long", |found| found.evidence["before"]["access_list"] = "0a".repeat(16).into()),
    ];
    for (why, change) in cases {
        let told = with(change).expect_err(why);
        assert!(told.contains(why), "{why}: {told}");
    }
    let mut several = modified(path);
    several.evidence["also"] = json!([{}, {}]);
    assert_eq!(Wanted::of(&several).unwrap().others, 2);
    // Names are bytes.
    let odd = Path::new(OsStr::from_bytes(b"/etc/a\xff\n"));
    assert_eq!(Wanted::of(&modified(odd)).unwrap().path, odd);
}

#[test]
fn some_files_are_never_put_back_by_command() {
    let may = |path: &str, change: fn(&mut Finding)| {
        let mut found = modified(Path::new(path));
        change(&mut found);
        Wanted::of(&found).unwrap().may_go_back(&found)
    };
    for path in [
        "/etc/passwd",
        "/etc/shadow",
        "/etc/shadow-",
        "/etc/group",
        "/etc/gshadow",
        "/var/lib/machines/web/etc/shadow",
    ] {
        assert!(may(path, |_| {}).unwrap_err().contains("who may log in"), "{path}");
    }
    for path in ["/boot/grub/grub.cfg", "/etc/default/grub", "/etc/fstab", "/etc/crypttab"] {
        assert!(may(path, |_| {}).unwrap_err().contains("boots by"), "{path}");
    }
    let own: fn(&mut Finding) = |found| found.evidence["agent_part"] = "the agent's unit".into();
    assert!(may("/etc/systemd/system/x.service", own).unwrap_err().contains("agent's own"));
    let explained: fn(&mut Finding) = |found| found.explained_by = Some("dpkg installed libpam-x".to_owned());
    for path in [
        "/etc/pam.d/sshd",
        "/etc/pam.conf",
        "/etc/security/limits.conf",
        "/etc/ssh/sshd_config",
        "/etc/ssh/sshd_config.d/50-redhat.conf",
        "/etc/nsswitch.conf",
        "/etc/authselect/system-auth",
    ] {
        assert_eq!(may(path, |_| {}), Ok(()), "{path}");
        assert!(may(path, explained).unwrap_err().contains("libpam-x"), "{path}");
        let by_command: fn(&mut Finding) = |found| {
            found.explained_by = Some("command (restore-file)".to_owned());
            found.evidence["own_act"] = json!({});
        };
        assert_eq!(may(path, by_command), Ok(()), "{path}");
    }
    for path in ["/etc/issue", "/etc/cron.d/x", "/root/.ssh/authorized_keys", "/etc/sudoers"] {
        assert_eq!(may(path, explained), Ok(()), "{path}");
    }
    let wanted = |path: &str, bytes| Wanted { bytes, ..Wanted::of(&modified(Path::new(path))).unwrap() };
    assert!(wanted("/var/www/html/index.html", 9).missing_image().contains("not of pages"));
    assert!(wanted("/etc/issue", 70_000).missing_image().contains("70000 bytes"));
    assert!(wanted("/etc/issue", 9).missing_image().contains("evicted"));
}
