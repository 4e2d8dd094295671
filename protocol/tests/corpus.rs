//! The committed fuzz corpus, replayed through every decoder without a fuzzer, and the program that wrote its
//! first part: `WRITE_CORPUS=1 cargo test -p picket-protocol --test corpus` writes the seeds anew.
//!
//! A file `good-…` must be taken by its decoder, a file `bad-…` refused; any other was found by a fuzzer, and
//! must only break nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::PathBuf;

#[expect(dead_code, reason = "what the golden bytes are made of is not used here")]
#[path = "corpus/seeds.rs"]
mod seeds;
#[path = "../../fuzz/src/targets.rs"]
mod targets;

/// Corpus files stay small: they are for people, too.
const FILE_BYTES_MAX: usize = 16 * 1024;

fn directory() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "fuzz", "corpus", "protocol"].iter().collect()
}

/// Target, name and content of every file.
fn files() -> Vec<(String, String, Vec<u8>)> {
    let list = |path: PathBuf| {
        let entries = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let of_target = |target: PathBuf| {
        let files = list(target.clone());
        files.into_iter().map(move |file| (name(&target), name(&file), std::fs::read(&file).unwrap()))
    };
    list(directory()).into_iter().flat_map(of_target).collect()
}

#[test]
fn every_file_through_every_decoder() {
    for (target, name, content) in files() {
        assert!(content.len() <= FILE_BYTES_MAX, "{target}/{name} is too long");
        for (check_name, check) in targets::ALL.iter().copied() {
            let taken = check(&content);
            if check_name != target {
                continue;
            }
            assert!(taken || !name.starts_with("good-"), "{target}/{name} is refused");
            assert!(!taken || !name.starts_with("bad-"), "{target}/{name} is taken");
        }
    }
}

#[test]
fn every_target_has_a_corpus() {
    let files = files();
    for (target, _) in targets::ALL.iter().copied() {
        let of_target = |prefix: &str| {
            files.iter().filter(|(t, name, _)| t == target && name.starts_with(prefix)).count()
        };
        assert!(of_target("good-") >= 1 && of_target("bad-") >= 2, "{target} lacks good and bad examples");
    }
    let known: BTreeSet<&str> = targets::ALL.iter().map(|(name, _)| *name).collect();
    let found: BTreeSet<&str> = files.iter().map(|(target, ..)| target.as_str()).collect();
    assert_eq!(known, found, "a directory for each target and no other");
}

/// Text formats byte for byte; what zstd packs may change with its version, and is only to be there.
#[test]
fn the_seeds_are_committed() {
    let write = std::env::var_os("WRITE_CORPUS").is_some();
    for (target, name, content) in seeds::all() {
        let path = directory().join(target).join(&name);
        if write {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &content).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(
            kept == content || matches!(target, "batch" | "frame" | "message"),
            "{target}/{name} is another"
        );
    }
}
