//! The header of an rpm package as its database keeps it: a big-endian index of tags, and their data.
//!
//! ```text
//! entries: u32   bytes: u32   entries × { tag: u32  type: u32  offset: u32  count: u32 }   data
//! ```
//! Types read here: 4 = u32, 6 = one text, 8 and 9 = texts, each ended by a zero byte.

/// Largest header that is read; rpm's own bound is 256 MiB.
pub const HEADER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most entries of the index; rpm's own bound is 65,535.
const ENTRIES_MAX: usize = 65_535;
/// Most values of a tag: files of one package.
const VALUES_MAX: usize = 2_000_000;
/// Longest paths of one package, together: hundreds of thousands of files. A header can name one long directory for all of
/// its files, and would fill the memory; what does not fit is explained by nothing.
pub const PATHS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Tags of a header.
pub mod tag {
    pub const NAME: u32 = 1000;
    pub const VERSION: u32 = 1001;
    pub const RELEASE: u32 = 1002;
    pub const EPOCH: u32 = 1003;
    pub const ARCHITECTURE: u32 = 1022;
    pub const FILE_DIGESTS: u32 = 1035;
    pub const FILE_TARGETS: u32 = 1036;
    pub const FILE_FLAGS: u32 = 1037;
    pub const DIRECTORY_INDEXES: u32 = 1116;
    pub const BASE_NAMES: u32 = 1117;
    pub const DIRECTORY_NAMES: u32 = 1118;
    pub const DIGEST_ALGORITHM: u32 = 5011;
}

/// A header, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    index: &'a [[u8; 16]],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    /// From the database's bytes; none when they are not a header.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() > HEADER_BYTES_MAX {
            return None;
        }
        let (entries, rest) = number(bytes)?;
        let (length, rest) = number(rest)?;
        let (entries, length) = (usize::try_from(entries).ok()?, usize::try_from(length).ok()?);
        if entries > ENTRIES_MAX {
            return None;
        }
        let (index, data) = rest.split_at_checked(entries.checked_mul(16)?)?;
        Some(Self { index: index.as_chunks().0, data: data.get(..length)? })
    }

    /// The bytes from where the values of `tag` begin, and how many there are.
    fn find(&self, wanted: u32, kinds: &[u32]) -> Option<(&'a [u8], usize)> {
        self.index.iter().find_map(|entry| {
            let (tag, rest) = number(entry)?;
            let (kind, rest) = number(rest)?;
            let (offset, rest) = number(rest)?;
            let (count, _) = number(rest)?;
            let count = usize::try_from(count).ok().filter(|count| *count <= VALUES_MAX)?;
            let fits = tag == wanted && kinds.contains(&kind);
            fits.then(|| Some((self.data.get(usize::try_from(offset).ok()?..)?, count)))?
        })
    }

    /// The texts of a tag.
    pub fn texts(&self, tag: u32) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (data, count) = self.find(tag, &[6, 8, 9]).unwrap_or_default();
        data.split(|byte| *byte == 0).take(count)
    }

    /// The numbers of a tag.
    pub fn numbers(&self, tag: u32) -> impl Iterator<Item = u32> + use<'a> {
        let (data, count) = self.find(tag, &[4]).unwrap_or_default();
        data.as_chunks().0.iter().take(count).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// The text of a tag, as text.
    pub fn text(&self, tag: u32) -> Option<String> {
        self.texts(tag).next().map(|text| String::from_utf8_lossy(text).into_owned())
    }

    /// Epoch, version and release as one word.
    pub fn version(&self) -> Option<String> {
        let epoch = self.numbers(tag::EPOCH).next().map(|epoch| format!("{epoch}:")).unwrap_or_default();
        let (version, release) = (self.text(tag::VERSION)?, self.text(tag::RELEASE).unwrap_or_default());
        Some(if release.is_empty() {
            format!("{epoch}{version}")
        } else {
            format!("{epoch}{version}-{release}")
        })
    }

    /// Absolute paths of all files, in the order in which their other values stand.
    pub fn paths(&self) -> Vec<Vec<u8>> {
        let directories: Vec<&[u8]> = self.texts(tag::DIRECTORY_NAMES).collect();
        let indexes = self.numbers(tag::DIRECTORY_INDEXES);
        let names = self.texts(tag::BASE_NAMES).zip(indexes);
        let mut room = PATHS_BYTES_MAX;
        names
            .map_while(|(name, at)| {
                let above = usize::try_from(at).ok().and_then(|at| directories.get(at)).copied();
                let above = above.unwrap_or_default();
                room = room.checked_sub(above.len() + name.len())?;
                Some([above, name].concat())
            })
            .collect()
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header with these tags: type, count and data.
    pub fn header(tags: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
        let (mut index, mut data) = (Vec::new(), Vec::<u8>::new());
        for (tag, kind, count, bytes) in tags {
            let offset = u32::try_from(data.len()).unwrap();
            for number in [*tag, *kind, offset, *count] {
                index.extend(number.to_be_bytes());
            }
            data.extend(*bytes);
        }
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(tags.len()).unwrap().to_be_bytes());
        bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(index);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn a_header_is_read() {
        let bytes = header(&[
            (tag::NAME, 6, 1, b"bash\0"),
            (tag::VERSION, 6, 1, b"5.2\0"),
            (tag::RELEASE, 6, 1, b"3.fc40\0"),
            (tag::EPOCH, 4, 1, &[0, 0, 0, 1]),
            (tag::BASE_NAMES, 8, 2, b"bash\0sh\0"),
            (tag::DIRECTORY_NAMES, 8, 2, b"/usr/bin/\0/bin/\0"),
            (tag::DIRECTORY_INDEXES, 4, 2, &[0, 0, 0, 0, 0, 0, 0, 1]),
        ]);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.text(tag::NAME).as_deref(), Some("bash"));
        assert_eq!(header.version().as_deref(), Some("1:5.2-3.fc40"));
        assert_eq!(header.paths(), [b"/usr/bin/bash".to_vec(), b"/bin/sh".to_vec()]);
        assert_eq!(header.texts(tag::FILE_DIGESTS).count(), 0);
    }

    #[test]
    fn one_long_directory_for_all_files_does_not_fill_the_memory() {
        let long = vec![b'd'; 1024 * 1024];
        let bytes = header(&[
            (tag::BASE_NAMES, 8, 1_000, &b"f\0".repeat(1_000)),
            (tag::DIRECTORY_NAMES, 8, 1, &[long.as_slice(), b"\0"].concat()),
            (tag::DIRECTORY_INDEXES, 4, 1_000, &vec![0; 4_000]),
        ]);
        let paths = Header::parse(&bytes).unwrap().paths();
        assert_eq!(paths.len(), PATHS_BYTES_MAX / (long.len() + 1));
    }

    proptest! {
        #[test]
        fn nothing_that_is_not_a_header_does_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..200), entries in 0..5_u8) {
            if let Some(low) = bytes.get_mut(3) {
                *low = entries;
            }
            bytes.iter_mut().take(3).for_each(|byte| *byte = 0);
            if let Some(header) = Header::parse(&bytes) {
                drop((header.paths(), header.version(), header.texts(tag::FILE_DIGESTS).count()));
            }
        }
    }
}
