//! The tree against the recursive definitions of RFC 9162, written down as they stand there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;

use picket_protocol::crypto::Hash;
use picket_protocol::tree::{self, Frontier, Nodes, leaf_hash, node_hash};
use proptest::prelude::*;

/// Section 2.1.1, 2.1.3.1 and 2.1.4.1 over a list of leaf hashes. Ranges are remembered, or it would take hours.
struct Naive {
    leaves: Vec<Hash>,
    ranges: RefCell<HashMap<(usize, usize), Hash>>,
}

impl Naive {
    fn of(size: u64, salt: u64) -> Self {
        let leaf = |n: u64| leaf_hash(&(n ^ salt).to_be_bytes());
        Self { leaves: (0..size).map(leaf).collect(), ranges: RefCell::default() }
    }

    /// MTH(D[from:to]).
    fn hash(&self, from: usize, to: usize) -> Hash {
        if let Some(hash) = self.ranges.borrow().get(&(from, to)) {
            return *hash;
        }
        let hash = match to - from {
            0 => tree::empty_root(),
            1 => self.leaves[from],
            n => node_hash(&self.hash(from, from + k(n)), &self.hash(from + k(n), to)),
        };
        self.ranges.borrow_mut().insert((from, to), hash);
        hash
    }

    /// PATH(m, D[from:to]).
    fn path(&self, m: usize, from: usize, to: usize) -> Vec<Hash> {
        let n = to - from;
        if n == 1 {
            return Vec::new();
        }
        let middle = from + k(n);
        let (mut path, last) = if m < k(n) {
            (self.path(m, from, middle), self.hash(middle, to))
        } else {
            (self.path(m - k(n), middle, to), self.hash(from, middle))
        };
        path.push(last);
        path
    }

    /// SUBPROOF(m, D[from:to], whole).
    fn subproof(&self, m: usize, from: usize, to: usize, whole: bool) -> Vec<Hash> {
        let n = to - from;
        if m == n {
            return if whole { Vec::new() } else { vec![self.hash(from, to)] };
        }
        let middle = from + k(n);
        let (mut proof, last) = if m <= k(n) {
            (self.subproof(m, from, middle, whole), self.hash(middle, to))
        } else {
            (self.subproof(m - k(n), middle, to, false), self.hash(from, middle))
        };
        proof.push(last);
        proof
    }
}

/// The largest power of two smaller than n.
fn k(n: usize) -> usize {
    let mut k = 1;
    while k * 2 < n {
        k *= 2;
    }
    k
}

/// The nodes that a ledger keeps.
#[derive(Default)]
struct Kept(HashMap<(u8, u64), Hash>);

impl Nodes for Kept {
    type Error = Infallible;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        Ok(self.0[&(level, index)])
    }
}

fn grow(leaves: &[Hash]) -> (Frontier, Kept) {
    let (mut frontier, mut kept) = (Frontier::default(), Kept::default());
    for leaf in leaves {
        frontier.append(*leaf, |level, index, hash| {
            assert_eq!(kept.0.insert((level, index), hash), None, "a node is completed once");
        });
    }
    (frontier, kept)
}

fn check_all(size: u64, naive: &Naive, kept: &Kept, index: u64, old: u64) {
    let at = |n: u64| usize::try_from(n).unwrap();
    let root = naive.hash(0, at(size));
    if index < size {
        let path = tree::inclusion_proof(index, size, kept).unwrap();
        assert_eq!(path, naive.path(at(index), 0, at(size)), "path of {index} in {size}");
        assert!(path.len() <= tree::PROOF_HASHES_MAX);
        assert!(tree::verify_inclusion(&naive.leaves[at(index)], index, size, &path, &root));
        let next = (index + 1) % size;
        let other = tree::verify_inclusion(&naive.leaves[at(index)], next, size, &path, &root);
        assert!(!other || next == index, "a leaf has one place");
    }
    if (1..=size).contains(&old) {
        let proof = tree::consistency_proof(old, size, kept).unwrap();
        assert_eq!(proof, naive.subproof(at(old), 0, at(size), true), "proof from {old} to {size}");
        let old_root = naive.hash(0, at(old));
        assert!(tree::verify_consistency(old, size, &proof, &old_root, &root));
    }
}

#[test]
fn every_tree_up_to_200() {
    let naive = Naive::of(200, 0);
    let (mut frontier, kept) = (Frontier::default(), grow(&naive.leaves).1);
    for size in 0..=200_u64 {
        let root = naive.hash(0, usize::try_from(size).unwrap());
        assert_eq!((frontier.size(), frontier.root()), (size, root));
        assert_eq!(tree::root(size, &kept).unwrap(), root);
        assert_eq!(Frontier::load(size, &kept).unwrap(), frontier);
        let brought_back = Frontier::from_peaks(size, frontier.peaks().to_vec());
        assert_eq!(brought_back, Some(frontier.clone()));
        for n in 0..=size {
            check_all(size, &naive, &kept, n, n);
        }
        if let Some(leaf) = naive.leaves.get(usize::try_from(size).unwrap()) {
            frontier.append(*leaf, |_, _, _| ());
        }
    }
}

#[test]
fn no_proof_of_what_is_not_there() {
    let kept = grow(&Naive::of(5, 0).leaves).1;
    for (index, size) in [(0, 0), (5, 5), (u64::MAX, 5)] {
        assert!(tree::inclusion_proof(index, size, &kept).unwrap().is_empty());
        assert!(!tree::verify_inclusion(&leaf_hash(b""), index, size, &[], &tree::empty_root()));
    }
    for (old, new) in [(0, 5), (5, 5), (6, 5), (u64::MAX, 1)] {
        assert!(tree::consistency_proof(old, new, &kept).unwrap().is_empty());
    }
    assert_eq!(Frontier::from_peaks(5, Vec::new()), None);
    assert_eq!(Frontier::from_peaks(u64::MAX, vec![[0; 32]; 63]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_trees(size in 1..3_000_u64, salt in any::<u64>(), picks in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 8)) {
        let naive = Naive::of(size, salt);
        let (frontier, kept) = grow(&naive.leaves);
        prop_assert_eq!(frontier.root(), naive.hash(0, naive.leaves.len()));
        for (index, old) in picks {
            check_all(size, &naive, &kept, index.index(naive.leaves.len()) as u64, 1 + old.index(naive.leaves.len()) as u64);
        }
    }

    /// Any path, any sizes, up to the ends of the range: an answer, and never yes.
    #[test]
    fn made_up_proofs(index in any::<u64>(), size in any::<u64>(), path in prop::collection::vec(any::<[u8; 32]>(), 0..70)) {
        let (leaf, root) = ([1; 32], [2; 32]);
        prop_assert!(!tree::verify_inclusion(&leaf, index, size, &path, &root));
        prop_assert!(!tree::verify_consistency(index, size, &path, &leaf, &root));
    }

    #[test]
    fn a_changed_proof_is_no_proof(size in 2..200_u64, pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in 0..32_usize, bit in 0..8_u8) {
        let naive = Naive::of(size, 1);
        let kept = grow(&naive.leaves).1;
        let root = naive.hash(0, naive.leaves.len());
        let index = pick.index(naive.leaves.len());
        let mut path = tree::inclusion_proof(index as u64, size, &kept).unwrap();
        let place = at.index(path.len());
        path[place][byte] ^= 1 << bit;
        prop_assert!(!tree::verify_inclusion(&naive.leaves[index], index as u64, size, &path, &root));
        let old = 1 + index as u64;
        let mut proof = tree::consistency_proof(old, size, &kept).unwrap();
        if !proof.is_empty() {
            let place = at.index(proof.len());
            proof[place][byte] ^= 1 << bit;
            let old_root = naive.hash(0, index + 1);
            prop_assert!(!tree::verify_consistency(old, size, &proof, &old_root, &root));
        }
    }
}
