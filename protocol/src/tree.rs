//! The Merkle tree of RFC 6962 / RFC 9162: hashes, appending, inclusion and consistency proofs.
//!
//! A tree of n leaves is written as perfect subtrees: node (level, index) covers the leaves
//! `index << level .. (index + 1) << level`. Only perfect nodes are ever stored, they never change, and
//! every root and proof is made of them.

use crate::crypto::{Hash, sha256};

/// Longest proof of a tree with up to 2^63 leaves; a longer one is refused before it is read.
pub const PROOF_HASHES_MAX: usize = 128;

/// RFC 9162 2.1.1: the hash of a leaf is SHA-256(0x00 ‖ record bytes).
pub fn leaf_hash(record: &[u8]) -> Hash {
    sha256(&[&[0], record])
}

/// RFC 9162 2.1.1: the hash of an interior node is SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// The root of the tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    sha256(&[])
}

/// Where perfect nodes come from: node (level, index) of the log.
pub trait Nodes {
    /// What a failed look-up is.
    type Error;
    /// The hash of the perfect subtree over leaves `index << level .. (index + 1) << level`.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// The right edge of a growing tree: the roots of its perfect subtrees, largest first.
/// Holds at most 64 hashes whatever the size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The frontier of a tree of `size` leaves, its peaks read from `nodes`.
    pub fn load<N: Nodes>(size: u64, nodes: &N) -> Result<Self, N::Error> {
        let peaks = peaks(0, size).into_iter().map(|(level, index)| nodes.node(level, index));
        Ok(Self { size, peaks: peaks.collect::<Result<_, _>>()? })
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of its perfect subtrees, largest first: what [`Frontier::from_peaks`] takes.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// The frontier that had these peaks; `None` when their number does not fit the size.
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        let fits = usize::try_from(size.count_ones()) == Ok(peaks.len());
        fits.then_some(Self { size, peaks })
    }

    /// Appends a leaf and calls `completed(level, index, hash)` for each perfect node that it completes,
    /// the leaf itself first (level 0).
    pub fn append(&mut self, leaf: Hash, mut completed: impl FnMut(u8, u64, Hash)) {
        let (mut hash, mut index, mut level) = (leaf, self.size, 0u8);
        completed(level, index, hash);
        while index & 1 == 1 {
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(&left, &hash);
            index >>= 1;
            level += 1;
            completed(level, index, hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root of the tree as it stands.
    pub fn root(&self) -> Hash {
        fold_peaks(&self.peaks)
    }
}

/// The perfect subtrees that cover leaves `begin..end` of a log, in order, for a `begin` that is a multiple
/// of the largest one (as all ranges in proofs are).
fn peaks(begin: u64, end: u64) -> Vec<(u8, u64)> {
    let (mut at, mut out) = (begin, Vec::new());
    while at < end {
        let width = 63 - (end - at).leading_zeros();
        out.push((u8::try_from(width).unwrap_or(63), at >> width));
        at += 1 << width;
    }
    out
}

fn fold_peaks(peaks: &[Hash]) -> Hash {
    let mut right_to_left = peaks.iter().rev();
    let Some(last) = right_to_left.next() else { return empty_root() };
    right_to_left.fold(*last, |right, left| node_hash(left, &right))
}

fn range_root<N: Nodes>(begin: u64, end: u64, nodes: &N) -> Result<Hash, N::Error> {
    let peaks = peaks(begin, end).into_iter().map(|(level, index)| nodes.node(level, index));
    Ok(fold_peaks(&peaks.collect::<Result<Vec<_>, _>>()?))
}

/// The root of the first `size` leaves.
pub fn root<N: Nodes>(size: u64, nodes: &N) -> Result<Hash, N::Error> {
    range_root(0, size, nodes)
}

/// The largest power of two smaller than `n`, for n ≥ 2 (RFC 9162 2.1.1, "k").
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// RFC 9162 2.1.3.1: the path from leaf `index` to the root of the tree of `size` leaves, leaf side first.
/// Empty when `index` is not in the tree.
pub fn inclusion_proof<N: Nodes>(index: u64, size: u64, nodes: &N) -> Result<Vec<Hash>, N::Error> {
    let (mut begin, mut end, mut path) = (0, size, Vec::new());
    if index >= size {
        return Ok(path);
    }
    while end - begin > 1 {
        let middle = begin + split(end - begin);
        if index < middle {
            path.push(range_root(middle, end, nodes)?);
            end = middle;
        } else {
            path.push(range_root(begin, middle, nodes)?);
            begin = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// RFC 9162 2.1.4.1: shows that the tree of `old` leaves is a prefix of the one of `new` leaves.
/// Empty when `old` is 0 or not smaller than `new`.
pub fn consistency_proof<N: Nodes>(old: u64, new: u64, nodes: &N) -> Result<Vec<Hash>, N::Error> {
    let (mut begin, mut end, mut whole, mut path) = (0, new, true, Vec::new());
    if old == 0 || old >= new {
        return Ok(path);
    }
    while old < end {
        let middle = begin + split(end - begin);
        if old <= middle {
            path.push(range_root(middle, end, nodes)?);
            end = middle;
        } else {
            path.push(range_root(begin, middle, nodes)?);
            begin = middle;
            whole = false;
        }
    }
    if !whole {
        path.push(range_root(begin, end, nodes)?);
    }
    path.reverse();
    Ok(path)
}

/// RFC 9162 2.1.3.2: whether `path` leads from `leaf` at `index` to `root` of a tree of `size` leaves.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// RFC 9162 2.1.4.2: whether `path` shows that the tree (`old`, `old_root`) is a prefix of (`new`, `new_root`).
pub fn verify_consistency(old: u64, new: u64, path: &[Hash], old_root: &Hash, new_root: &Hash) -> bool {
    if old > new {
        return false;
    }
    if old == new {
        return path.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return path.is_empty() && *old_root == empty_root();
    }
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let mut hashes = path.iter();
    let seed = if node == 0 { Some(old_root) } else { hashes.next() };
    let Some(seed) = seed else { return false };
    let (mut first, mut second) = (*seed, *seed);
    for sibling in hashes {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            first = node_hash(sibling, &first);
            second = node_hash(sibling, &second);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            second = node_hash(&second, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && first == *old_root && second == *new_root
}
