//! Mounts over what is watched, over processes and over the agent; options that are lost.

use std::process::Command;

use crate::lab::{Lab, is_inside, sh};

#[test]
fn what_is_mounted_over_a_watched_place_a_process_or_the_agent_is_told() {
    if !is_inside("mounts::what_is_mounted_over_a_watched_place_a_process_or_the_agent_is_told") {
        return;
    }
    let mut lab = Lab::new();
    let (tree, state) = (lab.path("tree"), lab.path("state"));
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(tree.join("bin/ls"), "x").unwrap();
    lab.start(&["mounts"]);
    sh(&format!("mount -t tmpfs none {}", tree.display()));
    let finding = lab.told_only("defence.mount", "high", "A mount (tmpfs) over");
    assert_eq!(finding["entities"][0]["path"]["text"], tree.to_str().unwrap());
    lab.forget();
    sh(&format!("umount {}", tree.display()));
    lab.told_only("defence.mount", "info", "is gone");
    lab.forget();
    // One program replaced by another.
    sh(&format!("mount --bind /bin/true {}/bin/ls", tree.display()));
    let finding = lab.told_only("defence.mount", "high", "bin/ls covers what is watched there");
    assert!(finding["evidence"]["after"]["root"]["text"].as_str().unwrap().ends_with("/true"), "{finding:#}");
    lab.forget();
    sh(&format!("mount -t tmpfs none {}", state.display()));
    lab.told_only("defence.mount", "high", "covers the agent's own files");
    lab.forget();
    // A process that hides.
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    sh(&format!("mount -t tmpfs none /proc/{}", child.id()));
    let words = format!("/proc/{} hides what the kernel shows there", child.id());
    let finding = lab.told_only("defence.mount", "high", &words);
    assert_eq!(finding["attack"][0], "T1564.013");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn mounts_elsewhere_are_silent_and_lost_options_are_told() {
    if !is_inside("mounts::mounts_elsewhere_are_silent_and_lost_options_are_told") {
        return;
    }
    let mut lab = Lab::new();
    sh("mount -t tmpfs -o nosuid,nodev,noexec none /dev/shm");
    lab.start(&["mounts"]);
    // What service managers and container engines do all day long.
    let other = lab.path("containers");
    for name in ["lower", "upper", "work", "merged", "run"] {
        std::fs::create_dir_all(other.join(name)).unwrap();
    }
    let at = other.display();
    sh(&format!("mount -t tmpfs none {at}; mkdir {at}/l {at}/u {at}/w {at}/m {at}/run"));
    sh(&format!("mount -t overlay o -o lowerdir={at}/l,upperdir={at}/u,workdir={at}/w {at}/m"));
    sh(&format!("mount -t tmpfs none {at}/run; mount --bind /etc {at}/run; umount {at}/run; umount {at}/m"));
    sh("mount -o remount,nosuid,nodev,exec /dev/shm");
    let finding = lab.told_only("defence.mount", "medium", "/dev/shm was mounted anew without noexec");
    assert_eq!(finding["rule"], "defence.mount");
    lab.forget();
    sh("mount -o remount,nosuid,nodev,noexec /dev/shm");
    lab.told_only("defence.mount", "info", "protecting options again");
}
