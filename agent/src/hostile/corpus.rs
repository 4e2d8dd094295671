//! The corpus through every parser, by an ordinary test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::ALL;

/// Corpus files stay small: they are for people, too.
const FILE_BYTES_MAX: usize = 16 * 1024;
/// Ways in which each file is damaged.
const DAMAGES: u64 = 60;

/// Damages some bytes: xorshift64 (Marsaglia), so that every run does the same.
fn damaged(content: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 8).unwrap_or(0) % bound.max(1)
    };
    let mut bytes = content.to_vec();
    for _ in 0..=next(6) {
        let at = next(bytes.len() + 1);
        match next(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, u8::try_from(next(256)).unwrap_or(0)),
            2 => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << next(8)),
            _ => {
                let piece = bytes.get(at..).unwrap_or_default().to_vec();
                bytes.extend_from_slice(piece.get(..next(40)).unwrap_or_default());
            }
        }
    }
    bytes
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries =
        std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_file_of_the_corpus_through_every_parser_whole_and_damaged() {
    let corpus: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "fuzz", "corpus", "agent"].iter().collect();
    let targets: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&corpus), targets, "a directory for each target and no other");
    let mut wrong = Vec::new();
    for (target, own) in ALL {
        let (mut good, mut bad) = (0, 0);
        for name in names(&corpus.join(target)) {
            let content = std::fs::read(corpus.join(target).join(&name)).expect("read");
            ALL.iter().for_each(|(_, check)| {
                check(&content);
            });
            let taken = own(&content);
            (0..DAMAGES).for_each(|seed| {
                own(&damaged(&content, seed + 1));
            });
            let (is_good, is_bad) = (name.starts_with("good-"), name.starts_with("bad-"));
            for (holds, what) in [
                (content.len() <= FILE_BYTES_MAX, "too long"),
                (taken || !is_good, "refused"),
                (!taken || !is_bad, "taken"),
            ] {
                wrong.extend((!holds).then(|| format!("{target}/{name} is {what}")));
            }
            (good, bad) = (good + usize::from(is_good), bad + usize::from(is_bad));
        }
        wrong.extend((good == 0 || bad == 0).then(|| format!("{target}: {good} good and {bad} bad inputs")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
