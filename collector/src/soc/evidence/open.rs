//! Reads a file of age as its plain bytes.

use std::io::{self, Cursor, Read};

use picket_protocol::age::{AgeError, CHUNK_BYTES, HEADER_BYTES_MAX, Header, NONCE_BYTES, Opener, TAG_BYTES};

use super::identity::Identity;

/// The plain bytes of a file of age. An error of kind `InvalidData` says that it was changed.
pub(super) struct Opened<R> {
    source: io::Chain<Cursor<Vec<u8>>, R>,
    opener: Opener,
    /// The next chunk, as it came; the one behind it tells whether it is the last.
    ahead: Vec<u8>,
    plain: Vec<u8>,
    at: usize,
    done: bool,
}

impl<R: Read> Opened<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// What reading gives; `InvalidData` when it is no such file, or not for this identity.
    pub fn new(mut source: R, identity: &Identity) -> io::Result<Self> {
        let mut begin = Vec::new();
        let (header, length) = loop {
            if let Some(found) = Header::parse(&begin).map_err(invalid)? {
                break found;
            }
            let before = begin.len();
            source.by_ref().take(1_024).read_to_end(&mut begin)?;
            if begin.len() == before || before > HEADER_BYTES_MAX {
                return Err(invalid(AgeError::Header("it is cut off")));
            }
        };
        let key = identity.open(&header).map_err(invalid)?;
        let mut source = Cursor::new(begin.split_off(length)).chain(source);
        let mut nonce = [0; NONCE_BYTES];
        source.read_exact(&mut nonce)?;
        let opener = key.payload(&nonce).map_err(invalid)?;
        let ahead = chunk(&mut source)?;
        Ok(Self { source, opener, ahead, plain: Vec::new(), at: 0, done: false })
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let behind = chunk(&mut self.source)?;
        let last = behind.is_empty();
        let mut sealed = std::mem::replace(&mut self.ahead, behind);
        let length = self.opener.chunk(&mut sealed, last).map_err(invalid)?.len();
        sealed.truncate(length);
        (self.plain, self.at, self.done) = (sealed, 0, last);
        Ok(())
    }
}

impl<R: Read> Read for Opened<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() {
            if self.done {
                return Ok(0);
            }
            self.next_chunk()?;
        }
        let rest = self.plain.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        for (place, byte) in buffer.iter_mut().zip(rest) {
            *place = *byte;
        }
        self.at += count;
        Ok(count)
    }
}

/// The next chunk with its tag, or what is left.
fn chunk(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let bytes = CHUNK_BYTES + TAG_BYTES;
    let mut chunk = Vec::with_capacity(bytes);
    source.take(u64::try_from(bytes).unwrap_or(0)).read_to_end(&mut chunk)?;
    Ok(chunk)
}

fn invalid(error: AgeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
