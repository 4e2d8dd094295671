//! Snaps, with images, assertions, units and state as snapd writes them: the real one needs the store.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use picket_agent::detect::listener::Origin;
use picket_agent::sense::packages::programs::Programs;
use serde_json::json;
use sha3::{Digest as _, Sha3_384};

use crate::lab::Lab;
use crate::packages::{host, known, run, settle, transaction};

/// What snapd knows: of each snap its revisions, the last of which is in use.
struct Snapd {
    root: PathBuf,
    snaps: BTreeMap<String, Vec<String>>,
}

impl Snapd {
    fn new(lab: &Lab) -> Self {
        let root = lab.tree();
        for directory in [
            "var/lib/snapd/snaps",
            "var/lib/snapd/assertions/asserts-v0/snap-revision",
            "etc/systemd/system/multi-user.target.wants",
        ] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let new = Self { root, snaps: BTreeMap::new() };
        new.record(false);
        new
    }

    /// `state.json`, put in place as snapd does.
    fn record(&self, working: bool) {
        let snaps: BTreeMap<_, _> = self
            .snaps
            .iter()
            .map(|(name, revisions)| {
                let id = if revisions.iter().any(|one| one.starts_with('x')) { String::new() } else { format!("id-of-{name}") };
                let sequence: Vec<_> = revisions.iter().map(|revision| json!({ "name": name, "snap-id": id, "revision": revision })).collect();
                (name, json!({ "type": "app", "sequence": sequence, "active": true, "current": revisions.last() }))
            })
            .collect();
        let change = if working {
            json!({ "kind": "refresh" })
        } else {
            json!({ "kind": "refresh", "ready-time": "2026-01-01T00:00:00Z" })
        };
        let state = json!({ "data": { "snaps": snaps }, "changes": { "1": change } });
        let path = self.root.join("var/lib/snapd/state.json");
        let new = path.with_extension("json.new");
        fs::write(&new, state.to_string()).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn image(&self, name: &str, revision: &str) -> PathBuf {
        self.root.join(format!("var/lib/snapd/snaps/{name}_{revision}.snap"))
    }

    fn unit(name: &str, revision: &str) -> String {
        format!("snap-{}-{revision}.mount", name.replace('-', "\\x2d"))
    }

    fn assert(&self, name: &str, revision: &str, content: &str) {
        let digest = picket_protocol::crypto::to_base64(&Sha3_384::digest(content))
            .replace('+', "-")
            .replace('/', "_");
        let directory = self.root.join("var/lib/snapd/assertions/asserts-v0/snap-revision").join(&digest);
        fs::create_dir_all(&directory).unwrap();
        let text = format!(
            "type: snap-revision\nauthority-id: canonical\nsnap-sha3-384: {digest}\ndeveloper-id: canonical\nsnap-id: id-of-{name}\n\
             snap-revision: {revision}\nsnap-size: {}\ntimestamp: 2026-01-01T00:00:00Z\nsign-key-sha3-384: x\n\nAcLBUgQA\n",
            content.len()
        );
        fs::write(directory.join("active"), text).unwrap();
    }

    /// Downloads, mounts and links a revision whose image is `content`; an older one than the last goes.
    fn install(&mut self, name: &str, revision: &str, content: &str) {
        self.record(true);
        let image = self.image(name, revision);
        let partial = image.with_extension("snap.partial");
        fs::write(&partial, content).unwrap();
        fs::rename(partial, &image).unwrap();
        let units = self.root.join("etc/systemd/system");
        let file = Self::unit(name, revision);
        let text = format!(
            "[Unit]\nDescription=Mount unit for {name}, revision {revision}\nAfter=snapd.mounts-pre.target\nBefore=snapd.mounts.target\n\n[Mount]\n\
             What=/var/lib/snapd/snaps/{name}_{revision}.snap\nWhere=/snap/{name}/{revision}\nType=squashfs\nOptions=nodev,ro,x-gdu.hide,x-gvfs-hide\n\
             LazyUnmount=yes\n\n[Install]\nWantedBy=multi-user.target\n"
        );
        fs::write(units.join(&file), text).unwrap();
        symlink(format!("/etc/systemd/system/{file}"), units.join("multi-user.target.wants").join(&file))
            .unwrap();
        let revisions = self.snaps.entry(name.to_owned()).or_default();
        revisions.push(revision.to_owned());
        let gone: Vec<String> = revisions.drain(..revisions.len().saturating_sub(2)).collect();
        gone.iter().for_each(|gone| self.discard(name, gone));
        self.record(false);
    }

    fn discard(&self, name: &str, revision: &str) {
        let units = self.root.join("etc/systemd/system");
        let file = Self::unit(name, revision);
        fs::remove_file(units.join("multi-user.target.wants").join(&file)).unwrap();
        fs::remove_file(units.join(&file)).unwrap();
        fs::remove_file(self.image(name, revision)).unwrap();
    }

    fn remove(&mut self, name: &str) {
        self.record(true);
        for revision in self.snaps.remove(name).unwrap_or_default() {
            self.discard(name, &revision);
        }
        self.record(false);
    }
}

/// A host with snapd and one snap of the store, whose sensor knows them.
fn with_snap() -> (Lab, Snapd) {
    let mut lab = host("fanotify");
    let mut snapd = Snapd::new(&lab);
    lab.config.trees.push(lab.tree().join("var/lib/snapd/snaps"));
    snapd.assert("core-x", "1", "image 1");
    snapd.install("core-x", "1", "image 1");
    lab.start();
    lab.wait("the snap to be known", |lab| known(lab) == 1);
    (lab, snapd)
}

#[test]
fn a_refresh_is_one_finding_and_so_is_a_removal() {
    let (mut lab, mut snapd) = with_snap();
    snapd.assert("core-x", "2", "image 2");
    snapd.install("core-x", "2", "image 2");
    // Image, unit, and the link to it.
    assert_eq!(settle(&lab, 1), [transaction("core-x 1 → 2, 3 files, all as packaged")]);
    lab.forget();
    snapd.assert("core-x", "3", "image 3");
    snapd.install("core-x", "3", "image 3");
    assert_eq!(settle(&lab, 1), [transaction("core-x 2 → 3, 6 files, all as packaged")]);
    lab.forget();
    snapd.remove("core-x");
    assert_eq!(settle(&lab, 1), [transaction("core-x 3 removed, 6 files, all as packaged")]);
    lab.stop();
}

#[test]
fn the_first_snap_of_a_host_is_news() {
    let mut lab = host("fanotify");
    let mut snapd = Snapd::new(&lab);
    lab.start();
    lab.wait("it to be known that there is none", |lab| {
        crate::packages::count(lab, "SELECT COUNT(*) FROM package_known WHERE manager = 'snap'") == 1
    });
    snapd.assert("first", "7", "image");
    snapd.install("first", "7", "image");
    assert_eq!(settle(&lab, 1), [transaction("first 7 installed, 2 files, all as packaged")]);
}

#[test]
fn an_image_that_is_not_what_the_store_asserted_is_high() {
    let (lab, mut snapd) = with_snap();
    snapd.assert("core-x", "2", "image 2");
    snapd.install("core-x", "2", "image 2 with a back door");
    let findings = settle(&lab, 2);
    let rules: Vec<(&str, &str)> =
        findings.iter().map(|(rule, severity, _)| (rule.as_str(), severity.as_str())).collect();
    assert_eq!(rules, [("package.mismatch", "high"), ("package.transaction", "info")], "{findings:#?}");
    assert!(
        findings[0].2.ends_with("/var/lib/snapd/snaps/core-x_2.snap is not what is in package core-x 2"),
        "{findings:#?}"
    );
    assert_eq!(findings[1].2, "core-x 1 → 2, 2 files as packaged, 1 not as packaged");
}

#[test]
fn a_local_image_and_a_unit_that_does_more_are_told_as_what_they_are() {
    let (lab, mut snapd) = with_snap();
    snapd.install("mine", "x1", "an image of nobody's store");
    let unit = snapd.root.join("etc/systemd/system/snap.core-x.daemon.service");
    fs::write(unit, "[Service]\nExecStart=/usr/bin/snap run core-x.daemon\nExecStartPre=/tmp/evil\n")
        .unwrap();
    snapd.record(false);
    let findings = settle(&lab, 3);
    let of = |end: &str| findings.iter().filter(|(_, _, title)| title.contains(end)).count();
    assert_eq!(of("mine_x1.snap"), 1, "{findings:#?}");
    assert_eq!(of("snap.core-x.daemon.service"), 1, "{findings:#?}");
    assert!(findings.contains(&transaction("mine x1 installed, 2 files, all as packaged")), "{findings:#?}");
    assert_eq!(findings.len(), 3, "{findings:#?}");
}

/// A listener's program counts as packaged when it lies in a mounted image, and not when somebody put it in its place.
#[test]
fn a_program_in_a_mounted_image_is_of_its_snap() {
    let lab = host("fanotify");
    let mut snapd = Snapd::new(&lab);
    let source = lab.outside().join("image");
    fs::create_dir_all(source.join("bin")).unwrap();
    fs::write(source.join("bin/daemon"), "program").unwrap();
    snapd.install("lxd", "2", "replaced below");
    let (image, place) = (snapd.image("lxd", "2"), lab.tree().join("snap/lxd/2"));
    fs::create_dir_all(place.join("bin")).unwrap();
    fs::write(place.join("bin/daemon"), "put there").unwrap();
    let origin = || Programs::open(&lab.tree()).origin(Path::new("/snap/lxd/2/bin/daemon"));
    assert_eq!(origin(), Origin::Unpackaged);
    run(Command::new("mksquashfs").arg(&source).arg(&image).args(["-noappend", "-quiet"]));
    run(Command::new("mount").args(["-t", "squashfs", "-o", "loop,ro"]).args([&image, &place]));
    let found = origin();
    run(Command::new("umount").arg(&place));
    assert_eq!(found, Origin::Package { package: "lxd 2".to_owned(), as_packaged: None });
}
