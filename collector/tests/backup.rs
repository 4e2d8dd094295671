//! `collector backup` and `collector restore` with the real program: what comes back, what is refused, and what is left behind.
//! How agents go on with a restored collector is in `tests/tests/backup.rs`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use picket_protocol::backup::{MANIFEST_NAME, Manifest};
use picket_protocol::tar;
use serde_json::Value;

const BUNDLE: &str = "0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f";

fn collector(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_collector")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Exit code and standard error.
fn outcome(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A collector that was made and never ran, with two bundles of evidence: one complete, one on its way.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        // Who owns a collector's directory must reach it.
        fs::set_permissions(site.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = site.text("data");
        let made = collector(&["init", "--address", "127.0.0.1:4403", "--data-dir", &data]);
        assert!(made.status.success(), "{made:?}");
        for (command, state) in [(BUNDLE, "complete"), ("0199c2ad-5b0e-7cc3-98c4-dc0c0c073990", "receiving")]
        {
            let at = site.path("data").join("evidence").join(BUNDLE);
            fs::create_dir_all(&at).unwrap();
            let description = serde_json::json!({
                "command": command, "agent": BUNDLE, "seq": 7, "size": 5, "sha256": "", "root": "", "state": state,
                "began": "2026-11-29T00:00:00.000000000Z", "completed": null,
            });
            fs::write(at.join(format!("{command}.json")), description.to_string()).unwrap();
            fs::write(at.join(format!("{command}.age")), "bytes").unwrap();
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn back_up(&self, target: &str, more: &[&str]) -> Output {
        let data = self.text("data");
        collector(&[&["backup", "--json", "--data-dir", &data, &self.text(target)], more].concat())
    }

    fn restore(&self, source: &str, target: &str) -> Output {
        collector(&["restore", "--data-dir", &self.text(target), &self.text(source)])
    }

    /// What is in a directory, in order.
    fn names(&self, directory: &str) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(self.path(directory)).unwrap().map(name).collect();
        names.sort();
        names
    }

    /// A restore of these bytes must be refused with these words, and leave nothing.
    fn refused(&self, what: &str, archive: &[u8], words: &str) {
        fs::write(self.path("hostile"), archive).unwrap();
        let (code, said) = outcome(&self.restore("hostile", "new"));
        assert_eq!(code, 1, "{what}: {said}");
        assert!(said.contains(words), "{what}: {said}");
        assert!(!self.path("new").exists(), "{what}: {:?}", self.names("new"));
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn what_is_backed_up_comes_back_and_is_nobody_elses() {
    let site = Site::new();
    let taken = site.back_up("all.tar.zst", &["--with-evidence"]);
    assert_eq!(outcome(&taken).0, 0, "{taken:?}");
    let told: Value = serde_json::from_slice(&taken.stdout).unwrap();
    assert_eq!((told["hosts"].as_u64(), told["evidence"].as_u64()), (Some(0), Some(1)), "{told}");
    assert_eq!(mode(&site.path("all.tar.zst")), 0o600);
    let listed = Command::new("tar").args(["--zstd", "-tf", &site.text("all.tar.zst")]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().next(), Some(MANIFEST_NAME), "any tar reads it: {listed}");

    fs::create_dir(site.path("new")).unwrap();
    fs::create_dir(site.path("new/lost+found")).unwrap();
    std::os::unix::fs::chown(site.path("new"), Some(61_990), Some(61_991)).unwrap();
    let restored = site.restore("all.tar.zst", "new");
    assert_eq!(outcome(&restored), (0, String::new()));
    for name in ["ca.key", "ca.crt", "witness.key", "tickets.key", "collector.toml"] {
        let (old, new) = (site.path("data").join(name), site.path("new").join(name));
        assert_eq!(fs::read(&old).unwrap(), fs::read(&new).unwrap(), "{name}");
        assert_eq!(mode(&old), mode(&new), "{name}");
    }
    assert_eq!((mode(&site.path("new")), mode(&site.path("new/collector.db"))), (0o700, 0o600));
    assert_eq!(
        site.names(&format!("new/evidence/{BUNDLE}")),
        [format!("{BUNDLE}.age"), format!("{BUNDLE}.json")]
    );
    let mut owners = Command::new("find");
    let owners = owners.arg(site.path("new")).args(["!", "-uid", "61990", "-o", "!", "-gid", "61991"]);
    let strangers = String::from_utf8(owners.output().unwrap().stdout).unwrap();
    assert_eq!(
        strangers,
        format!("{}\n", site.text("new/lost+found")),
        "all of it is the directory's owner's"
    );
    // The server's own certificate is made anew at the first command that needs one.
    let rotated = collector(&["rotate-certificate", "--data-dir", &site.text("new")]);
    assert!(rotated.status.success(), "{rotated:?}");
    use std::os::unix::fs::MetadataExt as _;
    let made = fs::metadata(site.path("new/server.key")).unwrap();
    assert_eq!(
        (made.uid(), mode(&site.path("new/server.key"))),
        (61_990, 0o600),
        "root leaves it what it can read"
    );
}

#[test]
fn nothing_is_overwritten_by_a_backup_or_a_restore() {
    let site = Site::new();
    assert!(site.back_up("one", &[]).status.success());
    let (code, said) = outcome(&site.back_up("one", &[]));
    assert!(code == 1 && said.contains("nothing is overwritten"), "{code} {said}");
    // Into a directory, under a name of its own.
    fs::create_dir(site.path("backups")).unwrap();
    assert!(site.back_up("backups", &[]).status.success());
    let names = site.names("backups");
    assert!(
        names.len() == 1 && names[0].starts_with("picket-collector-20") && names[0].ends_with("Z.tar.zst")
    );

    let before = fs::read(site.path("data/ca.key")).unwrap();
    let (code, said) = outcome(&site.restore("one", "data"));
    assert!(code == 1 && said.contains("is not empty"), "{code} {said}");
    assert_eq!(fs::read(site.path("data/ca.key")).unwrap(), before);
    // In use: somebody holds the lock.
    fs::create_dir(site.path("used")).unwrap();
    let lock = File::create(site.path("used/collector.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (code, said) = outcome(&site.restore("one", "used"));
    assert!(code == 1 && said.contains("is in use"), "{code} {said}");
    assert_eq!(site.names("used"), ["collector.lock"]);
    // A directory that holds no collector has no backup.
    assert_eq!(outcome(&collector(&["backup", "--data-dir", &site.text("used"), &site.text("two")])).0, 3);
    assert_eq!(outcome(&site.restore("nowhere", "new")).0, 3);
}

#[test]
fn a_restore_that_was_killed_is_taken_up_again() {
    let site = Site::new();
    assert!(site.back_up("one", &[]).status.success());
    // As far as one gets: some files in their places, the configuration not.
    fs::create_dir_all(site.path("new/.restoring")).unwrap();
    fs::write(site.path("new/.restoring/collector.toml"), "half").unwrap();
    fs::write(site.path("new/collector.db"), "half").unwrap();
    assert_eq!(outcome(&site.restore("one", "new")), (0, String::new()));
    assert!(!site.path("new/.restoring").exists());
    let shown = collector(&["host", "list", "--json", "--data-dir", &site.text("new")]);
    assert_eq!(String::from_utf8(shown.stdout).unwrap().trim(), "[]");
}

/// Whoever has the collector's own user puts links where root will write.
#[test]
fn what_root_does_in_a_strangers_directory_it_does_as_the_stranger() {
    let site = Site::new();
    assert!(site.back_up("one", &[]).status.success());
    for name in ["new", "precious"] {
        fs::create_dir(site.path(name)).unwrap();
    }
    fs::write(site.path("precious/file"), "root's").unwrap();
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(site.path(to), site.path(name)).unwrap();
        std::os::unix::fs::lchown(site.path(name), Some(61_990), Some(61_991)).unwrap();
    };
    std::os::unix::fs::chown(site.path("new"), Some(61_990), Some(61_991)).unwrap();
    link("precious", "new/.restoring");
    link("precious/lock", "new/collector.lock");
    let (code, said) = outcome(&site.restore("one", "new"));
    assert!(code != 0, "{said}");
    for name in ["precious", "precious/file"] {
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(fs::metadata(site.path(name)).unwrap().uid(), 0, "{name}");
    }
    assert_eq!(site.names("precious"), ["file"]);
}

/// Files of root's are not read through such links either.
#[test]
fn a_backup_of_roots_holds_nothing_that_the_directorys_owner_cannot_read() {
    let site = Site::new();
    let own = Command::new("chown").args(["-R", "61990:61991", &site.text("data")]).status();
    assert!(own.unwrap().success());
    let taken = site.back_up("one", &[]);
    assert_eq!(outcome(&taken), (0, String::new()), "of a directory that is in order");
    assert_eq!(owner(&site.path("one")), 0, "the backup is root's");
    assert_eq!(owner(&site.path("data/backup-taken")), 61_990);
    assert!(!site.names("data").iter().any(|name| name.starts_with(".backup")), "{:?}", site.names("data"));
    fs::write(site.path("secret"), [7; 32]).unwrap();
    fs::set_permissions(site.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    for (number, name) in ["tickets.key", "collector.db", "ca.crt"].into_iter().enumerate() {
        let (path, kept) = (site.path("data").join(name), site.path("kept"));
        fs::rename(&path, &kept).unwrap();
        std::os::unix::fs::symlink(site.path("secret"), &path).unwrap();
        let (code, said) = outcome(&site.back_up(&format!("bad{number}"), &[]));
        assert!(code != 0 && !said.is_empty(), "{name}: {code} {said}");
        assert!(!site.path(&format!("bad{number}")).exists(), "{name}");
        fs::remove_file(&path).unwrap();
        fs::rename(&kept, &path).unwrap();
    }
}

fn owner(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap())
}

#[test]
fn an_init_that_was_killed_is_begun_anew_and_nothing_else_is_overwritten() {
    let site = Site::new();
    let init = |at: &str| {
        outcome(&collector(&["init", "--address", "127.0.0.1:4403", "--data-dir", &site.text(at)]))
    };
    // As on a fresh file system.
    fs::create_dir_all(site.path("new/lost+found")).unwrap();
    fs::write(site.path("new/.initialising"), "").unwrap();
    fs::write(site.path("new/ca.key"), "half").unwrap();
    fs::write(site.path("new/collector.db-wal"), "half").unwrap();
    assert_eq!(init("new"), (0, String::new()));
    assert!(!site.path("new/.initialising").exists());
    assert!(site.back_up("one", &[]).status.success());
    // Without the mark it may be a collector that lost its configuration: its keys are the only ones.
    fs::remove_file(site.path("new/collector.toml")).unwrap();
    let key = fs::read(site.path("new/ca.key")).unwrap();
    let (code, said) = init("new");
    assert!(code != 0 && said.contains("nothing was changed"), "{said}");
    assert_eq!(fs::read(site.path("new/ca.key")).unwrap(), key);
}

#[test]
fn a_backup_goes_through_pipes() {
    let site = Site::new();
    let taken = collector(&["backup", "--data-dir", &site.text("data"), "-"]);
    assert!(taken.status.success() && String::from_utf8_lossy(&taken.stderr).contains("standard output"));
    let mut restore = Command::new(env!("CARGO_BIN_EXE_collector"));
    let restore = restore.args(["restore", "-", "--data-dir", &site.text("new")]).stdin(Stdio::piped());
    let mut restore = restore.stdout(Stdio::null()).spawn().unwrap();
    restore.stdin.take().unwrap().write_all(&taken.stdout).unwrap();
    assert!(restore.wait().unwrap().success());
    assert!(!site.names("data").iter().any(|name| name.starts_with(".backup")), "{:?}", site.names("data"));
}

#[test]
fn a_full_disk_leaves_no_half_of_a_backup_or_a_collector() {
    let site = Site::new();
    assert!(site.back_up("one", &[]).status.success());
    let small = site.path("small");
    fs::create_dir(&small).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=128k", "tmpfs"]).arg(&small).status();
    assert!(mounted.unwrap().success());
    let taken = outcome(&site.back_up("small/one", &[]));
    let (left, restored) = (site.names("small"), outcome(&site.restore("one", "small")));
    let after = site.names("small");
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    assert!(taken.0 == 2 && taken.1.contains("room"), "{taken:?}");
    assert!(restored.0 == 2 && restored.1.contains("room"), "{restored:?}");
    assert_eq!((left, after), (vec![], vec![]));
}

/// An archive taken apart: each file's header and content.
#[derive(Clone)]
struct Parts {
    files: Vec<(tar::Header, Vec<u8>)>,
}

impl Parts {
    fn read(path: &Path) -> Self {
        let mut bytes = Vec::new();
        zstd::stream::read::Decoder::new(File::open(path).unwrap()).unwrap().read_to_end(&mut bytes).unwrap();
        let (mut at, mut files) = (0, Vec::new());
        while let tar::Block::File(header) = tar::parse(bytes[at..at + 512].try_into().unwrap()).unwrap() {
            let size = usize::try_from(header.size).unwrap();
            files.push((header.clone(), bytes[at + 512..at + 512 + size].to_vec()));
            at += 512 + size + tar::padding(header.size);
        }
        Self { files }
    }

    fn archive(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (header, content) in &self.files {
            bytes.extend(header.to_bytes().unwrap());
            bytes.extend(content);
            bytes.extend(vec![0; tar::padding(u64::try_from(content.len()).unwrap())]);
        }
        bytes.extend(tar::end());
        zstd::stream::encode_all(&bytes[..], 1).unwrap()
    }

    /// The same with another manifest, its size told as it is.
    fn with_manifest(mut self, change: impl FnOnce(String) -> String) -> Self {
        let text = change(String::from_utf8(self.files[0].1.clone()).unwrap());
        self.files[0].0.size = u64::try_from(text.len()).unwrap();
        self.files[0].1 = text.into_bytes();
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Vec<(tar::Header, Vec<u8>)>)) -> Self {
        change(&mut self.files);
        self
    }
}

#[test]
fn what_is_damaged_or_cut_is_refused_and_nothing_is_left() {
    let site = Site::new();
    assert!(site.back_up("one", &[]).status.success());
    let whole = fs::read(site.path("one")).unwrap();
    for cut in [0, 1, 20, whole.len() / 2, whole.len() - 1] {
        site.refused(&format!("cut at {cut}"), &whole[..cut], "");
    }
    for at in [0, 30, whole.len() / 3, whole.len() / 2, whole.len() - 2] {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        site.refused(&format!("changed at {at}"), &changed, "");
    }
    let parts = Parts::read(&site.path("one"));
    assert_eq!(Manifest::parse(&parts.files[0].1).unwrap().files.len(), 6);
    let changed = parts.clone().with(|files| files[1].1[0] ^= 1).archive();
    site.refused("a byte of the configuration", &changed, "collector.toml is not what its manifest says");
    let short = parts.clone().with(|files| drop(files.pop())).archive();
    site.refused("no database", &short, "\"the end\" stands where \"collector.db\" should");
    let mut more = whole.clone();
    more.extend(&whole);
    site.refused("another one behind it", &more, "\"more\" stands where \"the end\" should");
    // Whole, and no collector all the same.
    let swapped = parts.clone().with_manifest(|text| {
        let manifest: Manifest = serde_json::from_str(&text).unwrap();
        text.replace(&manifest.ca_sha256, &"0".repeat(64))
    });
    site.refused("another CA", &swapped.archive(), "its CA is not the one that its manifest names");
}

#[test]
fn a_hostile_archive_reaches_nothing() {
    let site = Site::new();
    assert!(site.back_up("one", &["--with-evidence"]).status.success());
    let parts = Parts::read(&site.path("one"));
    let named = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        let parts = parts.clone().with(|files| {
            for (header, _) in files.iter_mut().filter(|(header, _)| header.name == from) {
                header.name.clone_from(&to);
            }
        });
        parts.with_manifest(|text| text.replace(&format!("{from:?}"), &format!("{to:?}"))).archive()
    };
    let outside = site.text("outside");
    let of_evidence = format!("evidence/{BUNDLE}/{BUNDLE}.age");
    for (from, to) in [
        ("ca.key", "../outside"),
        ("ca.key", outside.as_str()),
        ("ca.key", "server.key"),
        (of_evidence.as_str(), "evidence/../../outside"),
        (of_evidence.as_str(), "evidence/x/../../../outside.age"),
    ] {
        site.refused(to, &named(from, to), "not the name of a collector's file");
    }
    // In the archive, but not in its manifest.
    let renamed = parts.clone().with(|files| files[2].0.name = "../outside".to_owned()).archive();
    site.refused("another name", &renamed, "\"../outside\" stands where \"ca.key\" should");
    let twice = parts.clone().with_manifest(|text| text.replace("\"ca.crt\"", "\"ca.key\"")).archive();
    site.refused("a name twice", &twice, "names ca.key twice");
    // A link, as tar would make it.
    let mut link = parts.files[0].0.to_bytes().unwrap();
    link[156] = b'2';
    let sum: u64 = link[..512]
        .iter()
        .enumerate()
        .map(|(at, b)| if (148..156).contains(&at) { 32 } else { u64::from(*b) })
        .sum();
    link[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    site.refused("a link", &zstd::stream::encode_all(&link[..], 1).unwrap(), "no regular file");
    // Sizes that no disk has, and a key that is a disk's worth.
    let sizes: BTreeMap<&str, u64> = BTreeMap::from([("collector.db", 1 << 49), ("ca.key", 1 << 40)]);
    for (name, size) in sizes {
        let manifest = |text: String| {
            let mut manifest: Value = serde_json::from_str(&text).unwrap();
            for entry in
                manifest["files"].as_array_mut().unwrap().iter_mut().filter(|entry| entry["name"] == name)
            {
                entry["size"] = size.into();
            }
            manifest.to_string()
        };
        fs::write(site.path("hostile"), parts.clone().with_manifest(manifest).archive()).unwrap();
        let (code, said) = outcome(&site.restore("hostile", "new"));
        assert!(
            code == if name == "ca.key" { 1 } else { 2 } && said.contains("bytes"),
            "{name}: {code} {said}"
        );
        assert!(!site.path("new").exists());
    }
    let zeros = zstd::stream::encode_all(&vec![0; 64 << 20][..], 19).unwrap();
    site.refused("64 MiB of nothing", &zeros, "\"the end\" stands where \"manifest.json\" should");
    site.refused(
        "of a later version",
        &parts.with_manifest(|text| text.replace("backup/1", "backup/2")).archive(),
        "backup/2",
    );
    assert!(!site.path("outside").exists());
}
