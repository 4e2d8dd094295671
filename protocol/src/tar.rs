//! The headers of tar archives (POSIX.1-2017 `pax`, ustar with extended headers), as far as bundles of evidence and backups of the
//! collector need them: regular files with a name, a size and a time. What is written here, GNU tar and bsdtar extract. A size that
//! eleven octal digits do not hold is written in binary, as GNU tar does (`0x80`, then big-endian).

/// Archives are made of blocks of that size.
pub const BLOCK_BYTES: usize = 512;
/// Longest name.
pub const NAME_BYTES_MAX: usize = 16 * 1024;
/// Largest file.
pub const FILE_BYTES_MAX: u64 = 1 << 50;
/// What eleven octal digits hold.
const OCTAL_MAX: u64 = (1 << 33) - 1;
/// Longest extended header that is read.
pub const EXTENDED_BYTES_MAX: u64 = 64 * 1024;
/// Names up to that length need no extended header.
const SHORT_NAME_BYTES: usize = 100;
const REGULAR: u8 = b'0';
const EXTENDED: u8 = b'x';

/// What stands before a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Relative, printable.
    pub name: String,
    /// Bytes of content; the archive goes on at the next block.
    pub size: u64,
    /// Seconds since the epoch; 0 when before.
    pub mtime: u64,
}

/// One block of an archive, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// A file; its name is that of an extended header before it, when there was one.
    File(Header),
    /// An extended header of so many bytes, for the file behind it: see [`long_name`].
    Extended(u64),
    /// Nothing follows but another such block.
    End,
}

/// Why bytes are not what is written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an archive of regular files: {0}")]
pub struct TarError(&'static str);

impl Header {
    /// The blocks before the content.
    ///
    /// # Errors
    /// When name or size are beyond their bounds.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TarError> {
        if self.size > FILE_BYTES_MAX {
            return Err(TarError("a file is too large"));
        }
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || self.name.contains(['\0', '\n']) {
            return Err(TarError("a name is too long, or no name"));
        }
        if self.name.len() <= SHORT_NAME_BYTES {
            return Ok(block(self.name.as_bytes(), self.size, self.mtime, REGULAR).to_vec());
        }
        let record = record("path", &self.name);
        let mut out =
            block(b"extended", u64::try_from(record.len()).unwrap_or(0), self.mtime, EXTENDED).to_vec();
        out.extend_from_slice(&record);
        out.resize(out.len() + padding(u64::try_from(record.len()).unwrap_or(0)), 0);
        let short = self.name.as_bytes().get(..SHORT_NAME_BYTES).unwrap_or_default();
        out.extend_from_slice(&block(short, self.size, self.mtime, REGULAR));
        Ok(out)
    }
}

/// How many zeros follow a content of that size.
pub fn padding(size: u64) -> usize {
    let block = u64::try_from(BLOCK_BYTES).unwrap_or(1);
    usize::try_from((block - size % block) % block).unwrap_or(0)
}

/// What ends an archive.
pub fn end() -> [u8; 2 * BLOCK_BYTES] {
    [0; 2 * BLOCK_BYTES]
}

/// Reads one block.
///
/// # Errors
/// When it is neither a regular file's, nor an extended header, nor the end.
pub fn parse(bytes: &[u8; BLOCK_BYTES]) -> Result<Block, TarError> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Block::End);
    }
    let field = |from: usize, length: usize| bytes.get(from..from + length).unwrap_or_default();
    if field(257, 6) != b"ustar\0" {
        return Err(TarError("a block is no header"));
    }
    let sum = octal(field(148, 8)).ok_or(TarError("a checksum is no number"))?;
    if sum != checksum(bytes) {
        return Err(TarError("a checksum does not fit"));
    }
    let size = size(field(124, 12)).ok_or(TarError("a size is no number, or too large"))?;
    let mtime = octal(field(136, 12)).ok_or(TarError("a time is no number"))?;
    match field(156, 1) {
        [EXTENDED] if size <= EXTENDED_BYTES_MAX => Ok(Block::Extended(size)),
        [REGULAR] => {
            let name = field(0, SHORT_NAME_BYTES);
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = std::str::from_utf8(name).map_err(|_| TarError("a name is not text"))?;
            Ok(Block::File(Header { name: name.to_owned(), size, mtime }))
        }
        _ => Err(TarError("it holds something that is no regular file")),
    }
}

/// The name in an extended header.
///
/// # Errors
/// When it holds anything else.
pub fn long_name(bytes: &[u8]) -> Result<String, TarError> {
    let text = std::str::from_utf8(bytes).map_err(|_| TarError("an extended header is not text"))?;
    let malformed = TarError("an extended header is malformed");
    let (length, _) = text.split_once(' ').ok_or(malformed)?;
    let (_, name) = text.split_once(" path=").ok_or(malformed)?;
    let name = name.strip_suffix('\n').ok_or(malformed)?;
    if record("path", name) != bytes || length.starts_with('0') || name.len() > NAME_BYTES_MAX {
        return Err(malformed);
    }
    Ok(name.to_owned())
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    // Its own digits may make it longer once more.
    for _ in 0..3 {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}").into_bytes()
}

fn block(name: &[u8], size: u64, mtime: u64, kind: u8) -> [u8; BLOCK_BYTES] {
    let mut bytes = [0; BLOCK_BYTES];
    let mtime = mtime.min(OCTAL_MAX);
    let mut put = |from: usize, field: &[u8]| {
        for (place, byte) in bytes.iter_mut().skip(from).zip(field) {
            *place = *byte;
        }
    };
    put(0, name);
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size > OCTAL_MAX {
        put(124, &[&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat());
    } else {
        put(124, format!("{size:011o}\0").as_bytes());
    }
    put(136, format!("{mtime:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum = checksum(&bytes);
    let mut put = |from: usize, field: &[u8]| {
        for (place, byte) in bytes.iter_mut().skip(from).zip(field) {
            *place = *byte;
        }
    };
    put(148, format!("{sum:06o}\0 ").as_bytes());
    bytes
}

/// The sum of all bytes, that of the checksum itself counted as blanks.
fn checksum(bytes: &[u8; BLOCK_BYTES]) -> u64 {
    let blank =
        |(at, byte): (usize, &u8)| if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*byte) };
    bytes.iter().enumerate().map(blank).sum()
}

/// Octal, or binary where octal digits would not do: a size has one form.
fn size(field: &[u8]) -> Option<u64> {
    let Some(bytes) = field.strip_prefix(&[0x80, 0, 0, 0]) else { return octal(field) };
    let size = u64::from_be_bytes(bytes.try_into().ok()?);
    (OCTAL_MAX + 1..=FILE_BYTES_MAX).contains(&size).then_some(size)
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    u64::from_str_radix(text, 8).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Header, TarError> {
        let block =
            |at: usize| -> &[u8; BLOCK_BYTES] { bytes[at..at + BLOCK_BYTES].try_into().expect("a block") };
        match parse(block(0))? {
            Block::File(header) => Ok(header),
            Block::Extended(size) => {
                let size = usize::try_from(size).expect("small");
                let name = long_name(&bytes[BLOCK_BYTES..BLOCK_BYTES + size])?;
                let Block::File(header) = parse(block(bytes.len() - BLOCK_BYTES))? else { panic!("a file") };
                Ok(Header { name, ..header })
            }
            Block::End => panic!("not the end"),
        }
    }

    proptest! {
        #[test]
        fn headers_are_read_back(name in "[ -~ä]{1,300}", size in 0..=FILE_BYTES_MAX, mtime in 0..=OCTAL_MAX) {
            let header = Header { name, size, mtime };
            let bytes = header.to_bytes().expect("within bounds");
            prop_assert_eq!(bytes.len() % BLOCK_BYTES, 0);
            if header.name.is_char_boundary(SHORT_NAME_BYTES.min(header.name.len())) {
                prop_assert_eq!(read(&bytes), Ok(header));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), BLOCK_BYTES), ustar in any::<bool>()) {
            let mut bytes: [u8; BLOCK_BYTES] = bytes.try_into().expect("a block");
            if ustar {
                bytes[257..263].copy_from_slice(b"ustar\0");
            }
            let _any = (parse(&bytes), long_name(&bytes));
        }
    }

    #[test]
    fn what_is_too_large_or_has_no_name_is_refused() {
        let header = |name: &str, size| Header { name: name.to_owned(), size, mtime: 0 }.to_bytes();
        assert!(
            header("a", FILE_BYTES_MAX + 1).is_err() && header("", 0).is_err() && header("a\nb", 0).is_err()
        );
        assert!(header(&"x".repeat(NAME_BYTES_MAX + 1), 0).is_err() && header(&"x".repeat(9_999), 0).is_ok());
        assert_eq!(parse(&[0; BLOCK_BYTES]), Ok(Block::End));
    }
}
