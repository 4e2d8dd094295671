//! Holds a bundle against what the host sealed of it: the encrypted file as a whole, and with an identity each file in it.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, Write};
use std::path::Path;

use picket_protocol::crypto::hex;
use picket_protocol::evidence::{
    Entry, Head, MANIFEST_LINE_BYTES_MAX, MANIFEST_LINES_MAX, MANIFEST_NAME, ManifestTree, Sealed,
};
use picket_protocol::finding::printable;
use picket_protocol::json;
use picket_protocol::tar::{self, BLOCK_BYTES, Block};
use ring::digest;

use super::identity::Identity;
use super::open::Opened;
use crate::soc::error::SocError;

/// Longest manifest that is read; agents write at most a quarter of that.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of all names together: each stands in the manifest.
const MANIFEST_NAMES_MAX: usize = 64 * 1024 * 1024;
/// Problems that are told.
const PROBLEMS_MAX: usize = 1_000;
/// How every file of age begins.
const AGE_BEGIN: &[u8] = b"age-encryption.org/";

/// What came of a check.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// Whether the files in it were looked at.
    pub opened: bool,
    /// How many there are.
    pub entries: u64,
    /// What is not as it was sealed; empty when all is.
    pub problems: Vec<String>,
}

/// A file of the archive.
struct Found {
    name: String,
    size: u64,
    sha256: String,
}

/// Checks a bundle, encrypted or opened. What is opened goes to `output` as it is read.
///
/// # Errors
/// When it cannot be read at all.
pub(super) fn check(
    path: &Path,
    identity: Option<&Identity>,
    output: Option<&File>,
    sealed: &Sealed,
) -> Result<Checked, SocError> {
    let unread = |error: io::Error| SocError::File { verb: "read", path: path.to_owned(), source: error };
    let mut file = File::open(path).map_err(unread)?;
    let mut begin = Vec::new();
    (&file).take(64).read_to_end(&mut begin).map_err(unread)?;
    let mut checked = Checked::default();
    file.rewind().map_err(unread)?;
    if !begin.starts_with(AGE_BEGIN) {
        return Ok(inside(BufReader::new(file), output, sealed, checked));
    }
    let (size, sha256) = hash(&mut BufReader::new(&file)).map_err(unread)?;
    if size != sealed.sealed_bytes || sha256 != sealed.sealed_sha256 {
        checked.problems.push(format!(
            "the encrypted file: {size} bytes with the SHA-256 {sha256}, where the receipt says {} with {}",
            sealed.sealed_bytes, sealed.sealed_sha256
        ));
    }
    let Some(identity) = identity else { return Ok(checked) };
    file.rewind().map_err(unread)?;
    match Opened::new(BufReader::new(file), identity) {
        Ok(opened) => Ok(inside(opened, output, sealed, checked)),
        Err(error) => {
            checked.problems.push(format!("it cannot be opened: {error}"));
            Ok(checked)
        }
    }
}

/// Checks the archive in a compressed stream.
fn inside(source: impl Read, output: Option<&File>, sealed: &Sealed, mut checked: Checked) -> Checked {
    checked.opened = true;
    let mut archive =
        Archive { found: Vec::new(), names: 0, manifest: Vec::new(), at: "its beginning".to_owned() };
    let source = Tee { source, output };
    let read = zstd::stream::read::Decoder::new(source).and_then(|mut plain| {
        archive.read(&mut plain)?;
        // To the end, so that nothing hides behind it and a last chunk that was changed is seen.
        let behind = io::copy(&mut plain, &mut io::sink())?;
        if behind == 0 { Ok(()) } else { Err(io::Error::other("something follows the archive")) }
    });
    if let Err(error) = read {
        checked.problems.push(format!("{}: it cannot be read on: {error}", archive.at));
    }
    checked.entries = u64::try_from(archive.found.len()).unwrap_or(u64::MAX);
    compare(&archive, sealed, &mut checked.problems);
    checked.problems.truncate(PROBLEMS_MAX);
    checked
}

/// What is in the archive with what its manifest says, and that with what was sealed.
fn compare(archive: &Archive, sealed: &Sealed, problems: &mut Vec<String>) {
    let mut tree = ManifestTree::default();
    let mut files = archive.found.iter();
    let text = archive.manifest.strip_suffix(b"\n").unwrap_or(&archive.manifest);
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        tree.push(line);
        if number >= MANIFEST_LINES_MAX || line.len() > MANIFEST_LINE_BYTES_MAX {
            problems.push(format!("line {number} of the manifest is beyond its bounds"));
            break;
        }
        if number == 0 {
            if let Err(error) = json::object::<Head>(line) {
                problems.push(format!("the head of the manifest cannot be read: {error}"));
            }
            continue;
        }
        let entry = match json::object::<Entry>(line) {
            Ok(entry) => entry,
            Err(error) => {
                problems.push(format!("line {number} of the manifest cannot be read: {error}"));
                continue;
            }
        };
        let Some(size) = entry.size else { continue };
        let name = printable(&entry.name);
        match files.next() {
            Some(found) if found.name != entry.name => {
                problems.push(format!("{name}: {} is in its place", printable(&found.name)));
            }
            Some(found) if found.size != size || Some(&found.sha256) != entry.sha256.as_ref() => {
                problems.push(format!("{name}: its content is another one than the manifest says"));
            }
            Some(_) => {}
            None => problems.push(format!("{name}: it is missing")),
        }
    }
    problems.extend(files.map(|found| format!("{}: the manifest does not know it", printable(&found.name))));
    if tree.root() != sealed.root || tree.lines() != sealed.lines {
        problems.push("the manifest is another one than the host had sealed".to_owned());
    }
}

struct Archive {
    found: Vec<Found>,
    /// Bytes of their names.
    names: usize,
    manifest: Vec<u8>,
    /// What is being read, for who asks where it broke.
    at: String,
}

impl Archive {
    fn read(&mut self, source: &mut impl Read) -> io::Result<()> {
        let mut name = None;
        loop {
            let mut block = [0; BLOCK_BYTES];
            source.read_exact(&mut block)?;
            match tar::parse(&block).map_err(io::Error::other)? {
                Block::Extended(size) => {
                    let mut bytes = Vec::new();
                    source.take(size).read_to_end(&mut bytes)?;
                    skip(source, size)?;
                    name = Some(tar::long_name(&bytes).map_err(io::Error::other)?);
                }
                Block::File(header) => {
                    let name = name.take().unwrap_or(header.name);
                    self.at = printable(&name).into_owned();
                    self.file(name, header.size, source)?;
                    skip(source, header.size)?;
                }
                Block::End => {
                    source.read_exact(&mut block)?;
                    return Ok(());
                }
            }
        }
    }

    fn file(&mut self, name: String, size: u64, source: &mut impl Read) -> io::Result<()> {
        if !self.manifest.is_empty() {
            return Err(io::Error::other("something follows the manifest"));
        }
        if name == MANIFEST_NAME {
            if size > MANIFEST_BYTES_MAX {
                return Err(io::Error::other("the manifest is too long"));
            }
            source.take(size).read_to_end(&mut self.manifest)?;
            return Ok(());
        }
        let (read, sha256) = hash(&mut source.take(size))?;
        if read != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Each stands in the manifest, which is no longer than that.
        self.names = self.names.saturating_add(name.len());
        if self.found.len() >= MANIFEST_LINES_MAX || self.names > MANIFEST_NAMES_MAX {
            return Err(io::Error::other("there are too many files"));
        }
        self.found.push(Found { name, size, sha256 });
        Ok(())
    }
}

fn skip(source: &mut impl Read, size: u64) -> io::Result<()> {
    let mut rest = vec![0; tar::padding(size)];
    source.read_exact(&mut rest)
}

fn hash(source: &mut impl Read) -> io::Result<(u64, String)> {
    let mut context = digest::Context::new(&digest::SHA256);
    let (mut buffer, mut size) = (vec![0; 128 * 1024], 0_u64);
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => return Ok((size, hex(context.finish().as_ref()))),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        context.update(buffer.get(..count).unwrap_or_default());
        size = size.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

/// Writes what is read to a file as well.
struct Tee<'a, R> {
    source: R,
    output: Option<&'a File>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some(mut output) = self.output {
            output.write_all(buffer.get(..count).unwrap_or_default())?;
        }
        Ok(count)
    }
}
