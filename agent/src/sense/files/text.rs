//! The text of small files that matter, as it was when the sensor looked: for words, diffs and before-images.

use std::path::Path;

use ring::digest;

use super::examine;
use super::object::{Content, Kind, ObjectState};

/// Longer files are not looked at as text.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// The text of the object at `path` that was just found to be in `state`: from `buffer`, into which its first block was
/// read, or read again. None for what is no text, or is another already.
pub fn of(path: &Path, state: &ObjectState, buffer: &[u8]) -> Option<Vec<u8>> {
    let Content::Digest(wanted) = &state.content else { return None };
    let length = usize::try_from(state.meta.size).ok().filter(|length| *length <= TEXT_BYTES_MAX)?;
    if state.meta.kind != Kind::File {
        return None;
    }
    let is_it = |text: &[u8]| digest::digest(&digest::SHA256, text).as_ref() == wanted;
    let text = match buffer.get(..length).filter(|text| is_it(text)) {
        Some(text) => text.to_vec(),
        None => read(path).filter(|text| is_it(text))?,
    };
    (!text.contains(&0)).then_some(text)
}

/// The first [`TEXT_BYTES_MAX`] bytes of a regular file; none when there are more.
fn read(path: &Path) -> Option<Vec<u8>> {
    let file = examine::open_file(path).ok()?;
    let mut text = vec![0; TEXT_BYTES_MAX + 1];
    let mut length = 0;
    while let Some(rest) = text.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match rustix::io::read(&file, rest) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    text.truncate(length);
    (length <= TEXT_BYTES_MAX).then_some(text)
}
