//! RFC 6962 trees: the leaves, roots and proofs of the certificate-transparency reference implementation, as
//! they stand in github.com/transparency-dev/merkle, proof/verify_test.go at
//! 02194e9afb6c1d95b5381350007963aa70fff472 and rfc6962/rfc6962_test.go at 78493b07ef9b552e3379abf9e23d4da26fbe797c.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;

use picket_protocol::crypto::Hash;
use picket_protocol::tree::{self, Frontier, Nodes};

use crate::{unhex, unhex32};

const LEAVES: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];

const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

/// Leaf (from 1), size, path.
const INCLUSION: [(u64, u64, &[&str]); 5] = [
    (1, 1, &[]),
    (
        1,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        &[
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (3, 3, &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        2,
        5,
        &[
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
];

/// Old size, new size, path.
const CONSISTENCY: [(u64, u64, &[&str]); 5] = [
    (1, 1, &[]),
    (
        1,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        &[
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        &[
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
    (
        6,
        7,
        &[
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
];

#[derive(Default)]
struct Kept(RefCell<HashMap<(u8, u64), Hash>>);

impl Nodes for Kept {
    type Error = Infallible;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        Ok(self.0.borrow()[&(level, index)])
    }
}

fn grown() -> (Frontier, Kept) {
    let (mut frontier, kept) = (Frontier::default(), Kept::default());
    for (leaf, root) in LEAVES.iter().zip(ROOTS) {
        frontier.append(tree::leaf_hash(&unhex(leaf)), |level, index, hash| {
            kept.0.borrow_mut().insert((level, index), hash);
        });
        assert_eq!(frontier.root(), unhex32(root));
    }
    (frontier, kept)
}

fn root(size: u64) -> Hash {
    size.checked_sub(1).map_or_else(tree::empty_root, |at| unhex32(ROOTS[usize::try_from(at).unwrap()]))
}

fn path(hashes: &[&str]) -> Vec<Hash> {
    hashes.iter().map(|hash| unhex32(hash)).collect()
}

#[test]
fn hashes_of_leaf_and_empty_tree() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(tree::empty_root(), unhex32(empty));
    assert_eq!(Frontier::default().root(), unhex32(empty));
    let leaf = "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56";
    assert_eq!(tree::leaf_hash(b"L123456"), unhex32(leaf));
    assert_eq!(tree::leaf_hash(b""), unhex32(ROOTS[0]));
}

#[test]
fn roots_of_every_size() {
    let (_, kept) = grown();
    for size in 0..=8 {
        assert_eq!(tree::root(size, &kept).unwrap(), root(size));
        assert_eq!(Frontier::load(size, &kept).unwrap().root(), root(size));
    }
}

#[test]
fn inclusion_proofs() {
    let (_, kept) = grown();
    for (leaf, size, hashes) in INCLUSION {
        let (index, proof) = (leaf - 1, path(hashes));
        assert_eq!(tree::inclusion_proof(index, size, &kept).unwrap(), proof);
        let leaf = tree::leaf_hash(&unhex(LEAVES[usize::try_from(index).unwrap()]));
        assert!(tree::verify_inclusion(&leaf, index, size, &proof, &root(size)));
        for (what, index, size, leaf, proof, root) in broken_inclusion(index, size, leaf, &proof) {
            assert!(
                !tree::verify_inclusion(&leaf, index, size, &proof, &root),
                "{what} at {index} of {size}"
            );
        }
    }
}

type Inclusion = (&'static str, u64, u64, Hash, Vec<Hash>, Hash);

/// The ways in which `corruptInclusionProof` of the same file breaks a proof.
fn broken_inclusion(index: u64, size: u64, leaf: Hash, proof: &[Hash]) -> Vec<Inclusion> {
    let (root, some) = (root(size), tree::leaf_hash(b"something else"));
    let with = |front: &[Hash], back: &[Hash]| [front, proof, back].concat();
    let same = proof.to_vec();
    let mut all = vec![
        ("index - 1", index.wrapping_sub(1), size, leaf, same.clone(), root),
        ("index + 1", index + 1, size, leaf, same.clone(), root),
        ("index ^ 2", index ^ 2, size, leaf, same.clone(), root),
        ("size * 2", index, size * 2, leaf, same.clone(), root),
        ("size / 2", index, size / 2, leaf, same.clone(), root),
        ("wrong leaf", index, size, some, same.clone(), root),
        ("empty root", index, size, leaf, same.clone(), tree::empty_root()),
        ("random root", index, size, leaf, same, some),
        ("trailing root", index, size, leaf, with(&[], &[root]), root),
        ("preceding root", index, size, leaf, with(&[root], &[]), root),
    ];
    for at in 0..proof.len() {
        let mut changed = proof.to_vec();
        changed[at][0] ^= 8;
        all.push(("a changed bit", index, size, leaf, changed, root));
    }
    if let Some((_, shorter)) = proof.split_last() {
        all.push(("removed component", index, size, leaf, shorter.to_vec(), root));
    }
    if let [first, rest @ ..] = proof
        && !rest.is_empty()
    {
        all.push(("inserted component", index, size, leaf, [&[*first, some], rest].concat(), root));
    }
    all
}

#[test]
fn consistency_proofs() {
    let (_, kept) = grown();
    for (old, new, hashes) in CONSISTENCY {
        let proof = path(hashes);
        assert_eq!(tree::consistency_proof(old, new, &kept).unwrap(), proof);
        assert!(tree::verify_consistency(old, new, &proof, &root(old), &root(new)));
        if proof.is_empty() {
            continue;
        }
        for (what, old, new, first, second, proof) in broken_consistency(old, new, &proof) {
            let accepted = tree::verify_consistency(old, new, &proof, &first, &second);
            assert!(!accepted, "{what} from {old} to {new}");
        }
    }
}

type Consistency = (&'static str, u64, u64, Hash, Hash, Vec<Hash>);

/// The ways in which `corruptConsistencyProof` of the same file breaks a proof.
fn broken_consistency(old: u64, new: u64, proof: &[Hash]) -> Vec<Consistency> {
    let (first, second, some) = (root(old), root(new), tree::leaf_hash(b"something else"));
    let with = |front: &[Hash], back: &[Hash]| [front, proof, back].concat();
    let same = proof.to_vec();
    let mut all = vec![
        ("old - 1", old - 1, new, first, second, same.clone()),
        ("old + 1", old + 1, new, first, second, same.clone()),
        ("old ^ 2", old ^ 2, new, first, second, same.clone()),
        ("new * 2", old, new * 2, first, second, same.clone()),
        ("new / 2", old, new / 2, first, second, same.clone()),
        ("wrong old root", old, new, some, second, same.clone()),
        ("wrong new root", old, new, first, some, same.clone()),
        ("swapped roots", old, new, second, first, same),
        ("empty proof", old, new, first, second, Vec::new()),
        ("trailing old root", old, new, first, second, with(&[], &[first])),
        ("trailing new root", old, new, first, second, with(&[], &[second])),
        ("preceding old root", old, new, first, second, with(&[first], &[])),
        ("preceding new root", old, new, first, second, with(&[second], &[])),
        ("repeated component", old, new, first, second, with(&proof[..1], &[])),
        ("truncated", old, new, first, second, proof[..proof.len() - 1].to_vec()),
    ];
    for at in 0..proof.len() {
        let mut changed = proof.to_vec();
        changed[at][0] ^= 16;
        all.push(("a changed bit", old, new, first, second, changed));
    }
    all
}

/// `TestVerifyInclusion` and `TestVerifyConsistency` on trees that hardly exist. (From size 0 the suite takes
/// any pair of roots; here the old root must be the empty tree's.)
#[test]
fn edges() {
    let (some, empty) = (tree::leaf_hash(b"some"), tree::empty_root());
    for (index, size) in [(0, 0), (0, 1), (1, 0), (2, 1)] {
        assert!(!tree::verify_inclusion(&some, index, size, &[], &empty));
    }
    assert!(tree::verify_inclusion(&some, 0, 1, &[], &some));
    type Case<'a> = (u64, u64, Hash, Hash, &'a [Hash], bool);
    let cases: [Case<'_>; 13] = [
        (0, 0, some, empty, &[], false),
        (1, 1, some, empty, &[], false),
        (0, 0, empty, empty, &[], true),
        (0, 1, empty, some, &[], true),
        (0, 1, some, empty, &[], false),
        (1, 1, some, some, &[], true),
        (1, 0, some, empty, &[], false),
        (2, 1, some, empty, &[], false),
        (1, 2, some, empty, &[], false),
        (0, 0, empty, some, &[], false),
        (0, 0, empty, empty, &[empty], false),
        (0, 1, empty, empty, &[empty], false),
        (1, 1, empty, empty, &[empty], false),
    ];
    for (old, new, first, second, proof, expected) in cases {
        assert_eq!(tree::verify_consistency(old, new, proof, &first, &second), expected, "{old} to {new}");
    }
}
