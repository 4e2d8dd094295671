//! What no ordinary listing shows: capabilities, access lists, other extended attributes, immutable files.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::fs::{XattrFlags, setxattr};

use crate::lab::{Lab, path};

/// `cap_net_raw=ep`, as `setcap` writes it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// `user::rwx,user:1000:rwx,group::r-x,mask::rwx,other::r-x`, as `setfacl` writes it.
const ACCESS_LIST: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 232, 3, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16,
    0, 7, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255,
];

fn set(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn change_attributes(path: &Path, flag: &str) {
    let done = Command::new("chattr").args([flag]).arg(path).status().unwrap();
    assert!(done.success(), "chattr {flag}");
}

/// Waits for a finding about `name` in the tree that says that `aspect` changed.
fn wait_for(lab: &Lab, name: &str, aspect: &str) {
    let wanted = lab.tree().join(name);
    lab.wait(&format!("{aspect} of {name}"), |lab| {
        lab.findings.lock().unwrap().iter().any(|finding| {
            let changed = finding["evidence"]["changed"].as_array();
            path(finding) == wanted.to_str().unwrap()
                && changed.is_some_and(|changed| changed.iter().any(|each| each == aspect))
        })
    });
}

fn run(rung: &str) {
    let mut lab = Lab::on(rung, Path::new("/var/tmp"));
    let tree = lab.tree();
    for name in ["capability", "list", "note", "guarded"] {
        fs::write(tree.join(name), "x").unwrap();
    }
    fs::create_dir(tree.join("directory")).unwrap();
    lab.start();
    set(&tree.join("capability"), "security.capability", &CAPABILITY);
    wait_for(&lab, "capability", "capabilities");
    set(&tree.join("list"), "system.posix_acl_access", &ACCESS_LIST);
    wait_for(&lab, "list", "access-list");
    set(&tree.join("directory"), "system.posix_acl_default", &ACCESS_LIST);
    wait_for(&lab, "directory", "access-list");
    set(&tree.join("note"), "user.note", b"hidden here");
    wait_for(&lab, "note", "extended");
    for flag in ["+i", "-i"] {
        lab.forget();
        change_attributes(&tree.join("guarded"), flag);
        // Not every kernel tells of it; the next look does.
        if rung != "scan" {
            lab.scan();
        }
        wait_for(&lab, "guarded", "guards");
    }
    lab.forget();
    assert_eq!((lab.scan().changed, lab.seen()), (0, Vec::new()));
}

#[test]
fn fanotify_tells_of_attributes_that_no_listing_shows() {
    run("fanotify");
}

#[test]
fn inotify_tells_of_attributes_that_no_listing_shows() {
    run("inotify");
}

#[test]
fn scan_tells_of_attributes_that_no_listing_shows() {
    run("scan");
}
