//! What is written through another mount, or in another mount namespace, and what is mounted into a watched tree while the
//! sensor runs: seen at once, without a look at everything.

use std::fs;

use crate::filesystems::{in_namespace, run};
use crate::lab::Lab;

fn sh(script: &str) {
    run("sh", &["-ec", script]);
}

/// Waits for the finding without asking for a scan.
fn told(lab: &Lab, rule: &str, path: &str) {
    lab.wait(&format!("{rule} {path}"), |lab| lab.seen().iter().any(|(seen, at)| seen == rule && at == path));
}

fn on_each_rung(test: &str, check: impl Fn(&mut Lab)) {
    if !in_namespace(test) {
        return;
    }
    for rung in ["fanotify", "fanotify-inode", "inotify"] {
        let mut lab = Lab::new(rung);
        fs::create_dir(lab.tree().join("sub")).unwrap();
        fs::write(lab.tree().join("sub/covered"), "x").unwrap();
        check(&mut lab);
        lab.stop();
        // What the test mounted must not outlive its directory.
        let beneath = lab.directory.path().display();
        sh(&format!("for at in $(grep -o ' {beneath}/[^ ]*' /proc/self/mounts | tac); do umount $at; done"));
    }
}

#[test]
fn what_is_mounted_into_a_tree_is_followed_from_then_on() {
    on_each_rung("namespaces::what_is_mounted_into_a_tree_is_followed_from_then_on", |lab| {
        lab.start();
        let sub = lab.tree().join("sub");
        sh(&format!("mount -t tmpfs -o size=1m tmpfs {}", sub.display()));
        // What it covers is not there any more.
        told(lab, "file.deleted", "tree/sub/covered");
        lab.wait("events of it", |lab| {
            fs::write(sub.join("probe"), "x").unwrap();
            lab.seen().iter().any(|(_, at)| at == "tree/sub/probe")
        });
        fs::create_dir(sub.join("deeper")).unwrap();
        fs::write(sub.join("deeper/new"), "x").unwrap();
        told(lab, "file.created", "tree/sub/deeper/new");
        fs::write(sub.join("probe"), "other content").unwrap();
        told(lab, "file.modified", "tree/sub/probe");
        lab.forget();
        // The sensor may be reading a file there.
        lab.wait("the file system to be let go", |_| {
            std::process::Command::new("umount").arg(&sub).status().unwrap().success()
        });
        told(lab, "file.created", "tree/sub/covered");
        fs::write(sub.join("covered"), "changed").unwrap();
        told(lab, "file.modified", "tree/sub/covered");
    });
}

#[test]
fn what_is_written_through_a_bind_mount_is_told_at_its_place_in_the_tree() {
    on_each_rung(
        "namespaces::what_is_written_through_a_bind_mount_is_told_at_its_place_in_the_tree",
        |lab| {
            lab.start();
            let (tree, outside) = (lab.tree(), lab.outside());
            sh(&format!("mount --bind {} {}", tree.display(), outside.display()));
            fs::write(outside.join("sub/through"), "x").unwrap();
            told(lab, "file.created", "tree/sub/through");
            fs::write(outside.join("sub/covered"), "changed").unwrap();
            told(lab, "file.modified", "tree/sub/covered");
            fs::rename(outside.join("sub/through"), outside.join("moved")).unwrap();
            told(lab, "file.moved", "tree/moved");
        },
    );
}

#[test]
fn what_another_mount_namespace_writes_is_told() {
    on_each_rung("namespaces::what_another_mount_namespace_writes_is_told", |lab| {
        lab.start();
        let (tree, outside) = (lab.tree(), lab.outside());
        // As a container does that was given the directory: it has mounts that nobody else sees.
        let inside = format!(
            "mount -t tmpfs tmpfs {outside} && mkdir {outside}/given && mount --bind {tree}/sub {outside}/given && \
             echo x > {outside}/given/inside && echo changed > {outside}/given/covered && echo x > {tree}/plain",
            outside = outside.display(),
            tree = tree.display()
        );
        run("unshare", &["--mount", "--propagation", "private", "sh", "-ec", &inside]);
        told(lab, "file.created", "tree/sub/inside");
        told(lab, "file.modified", "tree/sub/covered");
        told(lab, "file.created", "tree/plain");
        assert!(fs::read_dir(&outside).unwrap().next().is_none(), "the mount got out");
    });
}
