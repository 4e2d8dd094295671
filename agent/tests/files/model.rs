//! Generated changes, with the sensor stopped, killed and started in between: what it ends up believing must be what
//! is on disk, whatever the rung.

use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::Lab;

/// A small generator; the seed is in the test's name when it fails.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn path(&mut self, tree: &Path) -> PathBuf {
        let depth = 1 + self.roll(3);
        (0..depth).fold(tree.to_path_buf(), |path, _| path.join(format!("n{}", self.roll(4))))
    }

    /// One change; those that cannot be are passed over, as on any system.
    fn change(&mut self, tree: &Path) {
        let (path, other) = (self.path(tree), self.path(tree));
        let text = format!("{}", self.roll(1_000_000));
        let _done = match self.roll(9) {
            0 | 1 => fs::write(&path, text),
            2 => fs::create_dir_all(&path),
            3 => fs::remove_file(&path),
            4 => fs::remove_dir_all(&path),
            5 | 6 => fs::rename(&path, &other),
            7 => fs::hard_link(&path, &other),
            _ => std::os::unix::fs::symlink(&text, &path),
        }
        .is_ok();
    }
}

fn run(rung: &str) {
    for seed in 1..=6u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut lab = Lab::new(rung);
        let tree = lab.tree();
        (0..30).for_each(|_| dice.change(&tree));
        lab.start();
        for _ in 0..3 {
            (0..60).for_each(|_| dice.change(&tree));
            // Killed while entries are on their way: what they held is lost, findings and rows alike.
            lab.lose.store(dice.roll(2) == 0, std::sync::atomic::Ordering::Relaxed);
            (0..30).for_each(|_| dice.change(&tree));
            if dice.roll(2) == 0 {
                lab.scan();
            }
            lab.stop();
            lab.lose.store(false, std::sync::atomic::Ordering::Relaxed);
            (0..10).for_each(|_| dice.change(&tree));
            lab.start();
        }
        (0..60).for_each(|_| dice.change(&tree));
        // A file that is being written is left alone for a moment, even by a scan that meets it meanwhile.
        lab.wait(&format!("quiet, {rung}, seed {seed}"), |lab| {
            lab.scan().changed == 0 && lab.counter("pending") == 0
        });
        lab.stop();
        let mut fresh = Lab::new("scan");
        fresh.config.trees = vec![tree];
        fresh.start();
        fresh.stop();
        assert_eq!(lab.rows(), fresh.rows(), "{rung}, seed {seed}");
    }
}

#[test]
fn fanotify_ends_with_the_truth() {
    run("fanotify");
}

#[test]
fn inotify_ends_with_the_truth() {
    run("inotify");
}

#[test]
fn scan_ends_with_the_truth() {
    run("scan");
}
