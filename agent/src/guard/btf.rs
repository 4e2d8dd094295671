//! What the kernel says of its own types (BTF): where members of structures lie, and what functions take.
//!
//! The format is that of the kernel's `Documentation/bpf/btf.rst`: a header of 24 bytes, types one behind the other, each of 12 bytes and
//! what its kind adds, numbered from 1; then names, each ended by NUL. Read once, with every length held against what is there; types of
//! a kind that is not known end it, since nobody knows where the next one begins. Only this machine's byte order is read.

use std::collections::HashMap;

/// Larger ones are not read: distributions' kernels have 4 to 12 MB.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;
/// `BTF_MAGIC`.
const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;
/// Names that stand for another type (`typedef`, `const` …) are followed so far.
const FOLLOWED_MAX: usize = 32;
/// Structures without a name within each other.
const NESTED_MAX: usize = 8;
/// Members that are looked at for one path; a process's structure has some hundreds.
const LOOKED_AT_MAX: usize = 100_000;
/// Bytes of a name: `KSYM_NAME_LEN`.
const NAME_BYTES_MAX: usize = 512;

/// Why nothing is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// It begins with something else, or has another byte order or version.
    #[error("it is no BTF of a version that is known")]
    Header,
    /// A length leads beyond the end.
    #[error("it is cut short, or damaged, at byte {0}")]
    Short(usize),
    /// A kind of type that is not known.
    #[error("type {number} is of kind {kind}, which is not known")]
    Kind {
        /// Its number.
        number: usize,
        /// `BTF_KIND_…`.
        kind: u32,
    },
    /// What is asked for is not there.
    #[error("it has no {0}")]
    Missing(String),
}

/// Kinds that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Pointer,
    Structure,
    /// `typedef`, `const`, `volatile`, `restrict`, and a type with a tag.
    Name,
    Function,
    Prototype,
    Other,
}

/// One type, and where it stands.
#[derive(Clone, Copy, Debug)]
struct Type {
    kind: Kind,
    name: u32,
    /// What it leads to, for those that lead somewhere.
    to: u32,
    /// Members, parameters.
    count: usize,
    /// Members carry the width of bit fields in their upper byte.
    has_widths: bool,
    /// Where its members or parameters begin.
    body: usize,
}

/// The types of a kernel.
#[derive(Debug)]
pub struct Btf<'a> {
    bytes: &'a [u8],
    names: &'a [u8],
    types: Vec<Type>,
    functions: HashMap<&'a [u8], u32>,
    structures: HashMap<&'a [u8], u32>,
}

/// A parameter of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter<'a> {
    /// A pointer to a structure of that name.
    Pointer(&'a [u8]),
    /// A number.
    Number,
    /// Something else.
    Other,
}

impl<'a> Btf<'a> {
    /// Reads all types.
    ///
    /// # Errors
    /// [`BtfError::Header`], [`BtfError::Short`], [`BtfError::Kind`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let word = |at: usize| word(bytes, at);
        let is_known = bytes.len() <= BYTES_MAX
            && bytes.get(..3) == Some([MAGIC.to_ne_bytes()[0], MAGIC.to_ne_bytes()[1], 1].as_slice());
        if !is_known {
            return Err(BtfError::Header);
        }
        let header = place(word(4)?);
        let part = |offset: u32, length: u32| {
            let begin = header.checked_add(place(offset)).filter(|_| header >= HEADER_BYTES);
            let part = begin.and_then(|begin| Some((begin, begin.checked_add(place(length))?)));
            part.filter(|(_, end)| *end <= bytes.len()).ok_or(BtfError::Short(HEADER_BYTES))
        };
        let (mut at, end) = part(word(8)?, word(12)?)?;
        let (names_begin, names_end) = part(word(16)?, word(20)?)?;
        let names = bytes.get(names_begin..names_end).unwrap_or_default();
        let mut btf =
            Self { bytes, names, types: Vec::new(), functions: HashMap::new(), structures: HashMap::new() };
        while at < end {
            let (of, next) = read_type(bytes, at, btf.types.len() + 1)?;
            if next > end {
                return Err(BtfError::Short(at));
            }
            btf.add(of);
            at = next;
        }
        Ok(btf)
    }

    fn add(&mut self, of: Type) {
        self.types.push(of);
        let number = u32::try_from(self.types.len()).unwrap_or(0);
        let name = self.name(of.name);
        match of.kind {
            Kind::Function => self.functions.entry(name).or_insert(number),
            Kind::Structure if !name.is_empty() => self.structures.entry(name).or_insert(number),
            _ => return,
        };
    }

    /// The number of the function of that name.
    ///
    /// # Errors
    /// [`BtfError::Missing`].
    pub fn function(&self, name: &str) -> Result<u32, BtfError> {
        self.functions.get(name.as_bytes()).copied().ok_or_else(|| missing("function", name))
    }

    /// What the function of that number takes.
    ///
    /// # Errors
    /// [`BtfError::Missing`] when it is none; [`BtfError::Short`].
    pub fn parameters(&self, function: u32) -> Result<Vec<Parameter<'a>>, BtfError> {
        let prototype = self.get(function).filter(|of| of.kind == Kind::Function);
        let prototype = prototype.and_then(|of| self.get(of.to)).filter(|of| of.kind == Kind::Prototype);
        let prototype = prototype.ok_or_else(|| missing("function", &function.to_string()))?;
        (0..prototype.count)
            .map(|index| Ok(self.parameter(word(self.bytes, prototype.body + 8 * index + 4)?)))
            .collect()
    }

    fn parameter(&self, number: u32) -> Parameter<'a> {
        match self.resolve(number) {
            Some(of) if of.kind == Kind::Integer => Parameter::Number,
            Some(of) if of.kind == Kind::Pointer => match self.resolve(of.to) {
                Some(to) if to.kind == Kind::Structure => Parameter::Pointer(self.name(to.name)),
                _ => Parameter::Other,
            },
            _ => Parameter::Other,
        }
    }

    /// How many bytes behind the beginning of a structure a member lies. The path leads through structures that are members.
    ///
    /// # Errors
    /// [`BtfError::Missing`], also for bit fields, which lie between bytes.
    pub fn offset(&self, structure: &str, path: &[&str]) -> Result<u16, BtfError> {
        let absent = || missing("member", &format!("{structure}.{}", path.join(".")));
        let mut of = self.structures.get(structure.as_bytes()).and_then(|number| self.get(*number));
        let (mut bits, mut left) = (0u32, LOOKED_AT_MAX);
        for name in path {
            let (offset, number) = of
                .and_then(|of| self.member(of, name.as_bytes(), NESTED_MAX, &mut left))
                .ok_or_else(absent)?;
            bits = bits.checked_add(offset).ok_or_else(absent)?;
            of = self.resolve(number);
        }
        // As far as an instruction can say.
        let bytes = (bits % 8 == 0).then_some(bits / 8).and_then(|bytes| u16::try_from(bytes).ok());
        bytes.filter(|bytes| *bytes <= i16::MAX.unsigned_abs()).ok_or_else(absent)
    }

    /// Where the member of that name lies, in bits, and of which type it is; looked for in members without a name as well.
    fn member(&self, of: Type, name: &[u8], deep: usize, left: &mut usize) -> Option<(u32, u32)> {
        if of.kind != Kind::Structure || deep == 0 {
            return None;
        }
        (0..of.count).find_map(|index| {
            *left = left.checked_sub(1)?;
            let at = of.body + 12 * index;
            let field = |behind: usize| word(self.bytes, at + behind).ok();
            let (own, number, offset) = (self.name(field(0)?), field(4)?, field(8)?);
            let offset =
                if of.has_widths { (offset >> 24 == 0).then_some(offset & 0x00ff_ffff)? } else { offset };
            if own == name {
                return Some((offset, number));
            }
            let (within, number) =
                self.member(self.resolve(number).filter(|_| own.is_empty())?, name, deep - 1, left)?;
            Some((offset.checked_add(within)?, number))
        })
    }

    fn get(&self, number: u32) -> Option<Type> {
        self.types.get(place(number).checked_sub(1)?).copied()
    }

    /// The type that a name stands for.
    fn resolve(&self, mut number: u32) -> Option<Type> {
        for _ in 0..FOLLOWED_MAX {
            let of = self.get(number)?;
            if of.kind != Kind::Name {
                return Some(of);
            }
            number = of.to;
        }
        None
    }

    fn name(&self, at: u32) -> &'a [u8] {
        let rest = self.names.get(place(at)..).unwrap_or_default();
        let rest = rest.get(..NAME_BYTES_MAX).unwrap_or(rest);
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

fn missing(what: &str, name: &str) -> BtfError {
    BtfError::Missing(format!("{what} {name}"))
}

fn place(word: u32) -> usize {
    usize::try_from(word).unwrap_or(usize::MAX)
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let end = at.checked_add(4).ok_or(BtfError::Short(at))?;
    let four = bytes.get(at..end).and_then(|four| four.try_into().ok());
    four.map(u32::from_ne_bytes).ok_or(BtfError::Short(at))
}

/// The type at a place, and where the next one begins.
fn read_type(bytes: &[u8], at: usize, number: usize) -> Result<(Type, usize), BtfError> {
    let [name, info, to] = [word(bytes, at)?, word(bytes, at + 4)?, word(bytes, at + 8)?];
    let (count, code) = (place(info & 0xffff), info >> 24 & 0x1f);
    // What its kind is here, and how many bytes it adds: once, and for each member.
    let (kind, once, each) = match code {
        1 => (Kind::Integer, 4, 0),
        2 => (Kind::Pointer, 0, 0),
        3 => (Kind::Other, 12, 0),
        4 | 5 => (Kind::Structure, 0, 12),
        // Enumerations are numbers to who is called with one.
        6 => (Kind::Integer, 0, 8),
        7 | 16 => (Kind::Other, 0, 0),
        8..=11 | 18 => (Kind::Name, 0, 0),
        12 => (Kind::Function, 0, 0),
        13 => (Kind::Prototype, 0, 8),
        14 | 17 => (Kind::Other, 4, 0),
        15 => (Kind::Other, 0, 12),
        19 => (Kind::Integer, 0, 12),
        kind => return Err(BtfError::Kind { number, kind }),
    };
    // The upper bits of a function's count say how it is linked.
    let count = if matches!(kind, Kind::Structure | Kind::Prototype) || each > 0 { count } else { 0 };
    let body = at + TYPE_BYTES;
    let next = body + once + each * count;
    if next > bytes.len() {
        return Err(BtfError::Short(at));
    }
    Ok((Type { kind, name, to, count, has_widths: info >> 31 == 1, body }, next))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOOKS: &[u8] = include_bytes!("../../../fuzz/corpus/agent/btf/good-hooks");

    #[test]
    fn members_are_found_where_they_lie_in_structures_without_a_name_too() {
        let btf = Btf::read(HOOKS).expect("types");
        for (structure, member, offset) in [
            ("task_struct", "tgid", 12),
            ("task_struct", "real_parent", 24),
            ("inode", "i_ino", 16),
            ("file", "f_inode", 8),
        ] {
            assert_eq!(btf.offset(structure, &[member]), Ok(offset), "{structure}.{member}");
        }
        let missing = |what: &str| Err(BtfError::Missing(what.to_owned()));
        assert_eq!(
            btf.offset("inode", &["i_mode"]),
            missing("member inode.i_mode"),
            "a bit field lies between bytes"
        );
        assert_eq!(btf.offset("cred", &["uid"]), missing("member cred.uid"));
        assert_eq!(btf.offset("file", &["f_mode", "more"]), missing("member file.f_mode.more"));
    }

    #[test]
    fn what_a_function_takes_is_told_by_its_type() {
        let btf = Btf::read(HOOKS).expect("types");
        let setattr = btf.function("bpf_lsm_inode_setattr").expect("there");
        let pointer = |name: &'static str| Parameter::Pointer(name.as_bytes());
        let taken = vec![pointer("super_block"), pointer("dentry"), pointer("super_block")];
        assert_eq!(btf.parameters(setattr), Ok(taken));
        let kill = btf.function("bpf_lsm_task_kill").expect("there");
        assert_eq!(btf.parameters(kill).expect("there").last(), Some(&Parameter::Number));
        assert!(btf.parameters(1).is_err(), "a number is no function");
        assert!(btf.function("bpf_lsm_inode_create").is_err());
    }

    #[test]
    fn this_kernels_own_types_are_read() {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").expect("a kernel with BTF");
        let btf = Btf::read(&bytes).expect("types");
        assert!(btf.offset("task_struct", &["tgid"]).is_ok_and(|offset| offset > 100));
        assert!(btf.offset("file", &["f_path", "dentry"]).is_ok(), "through a member that is a structure");
    }

    proptest! {
        #[test]
        fn damage_is_refused_or_leads_nowhere(at in 0..HOOKS.len(), byte: u8, cut in 0..HOOKS.len()) {
            let mut bytes = HOOKS.to_vec();
            *bytes.get_mut(at).expect("within") = byte;
            for bytes in [&bytes[..], &bytes[..cut]] {
                crate::hostile::kernel_types(bytes);
            }
        }
    }
}
