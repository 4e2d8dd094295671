//! What is read from a fanotify group, parsed. The kernel writes it, but names are anybody's: everything is checked
//! against the bytes that are there, and nothing is assumed of their meaning.
//!
//! ```text
//! event    length u32, version u8, reserved u8, header length u16, mask u64, descriptor i32, pid i32, records…
//! record   type u8, pad u8, length u16, body
//! body     file system id [8], handle length u32, handle type i32, handle, then for named types a name and NUL
//! ```
//! Integers are in the byte order of the host. Records of other types are passed over.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::sys::HANDLE_BYTES_MAX;

/// The version of the event's layout.
const VERSION: u8 = libc::FANOTIFY_METADATA_VERSION;
const HEADER_BYTES: usize = 24;

/// What names an object on its file system, as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle<'a> {
    /// The file system.
    pub filesystem: [u8; 8],
    /// Type of the handle; only the file system knows what it means.
    pub handle_type: i32,
    /// The handle.
    pub bytes: &'a [u8],
}

/// A name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The directory.
    pub directory: Handle<'a>,
    /// The name; none when it is about the directory itself.
    pub name: Option<&'a OsStr>,
}

/// One event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// `FAN_*` bits, in no order: events about one object are merged.
    pub mask: u64,
    /// The process that did it; 0 when not known.
    pub pid: i32,
    /// Directory and name of the object.
    pub entry: Option<Entry<'a>>,
    /// For a rename: where it was.
    pub old: Option<Entry<'a>>,
    /// For a rename: where it is.
    pub new: Option<Entry<'a>>,
    /// The object itself.
    pub object: Option<Handle<'a>>,
}

impl Event<'_> {
    /// Whether any of the `FAN_*` bits is set.
    pub fn has(&self, bits: u64) -> bool {
        self.mask & bits != 0
    }
}

/// Why bytes are not events. What follows in the same buffer cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The buffer ends within an event or a record.
    #[error("the {0} is cut off")]
    CutOff(&'static str),
    /// A length that cannot be.
    #[error("the {0} has an impossible length")]
    Length(&'static str),
    /// Not the layout that this program knows.
    #[error("the event has layout version {0}; this program knows {VERSION}")]
    Version(u8),
}

/// The events in `buffer`; after an error there are no more.
pub fn events(buffer: &[u8]) -> Events<'_> {
    Events { rest: buffer }
}

/// See [`events`].
#[derive(Clone, Debug)]
pub struct Events<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match split_event(self.rest) {
            Ok((event, rest)) => {
                self.rest = rest;
                Some(Ok(event))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

fn split_event(buffer: &[u8]) -> Result<(Event<'_>, &[u8]), RecordError> {
    let mut header = Cursor(buffer);
    let length = usize::try_from(header.u32("event")?).unwrap_or(usize::MAX);
    let [version, _reserved] = header.take::<2>("event")?;
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    let header_length = usize::from(header.u16("event")?);
    let mask = u64::from_ne_bytes(header.take("event")?);
    let _descriptor = header.i32("event")?;
    let pid = header.i32("event")?;
    if header_length < HEADER_BYTES || length < header_length {
        return Err(RecordError::Length("event"));
    }
    let (event, rest) = buffer.split_at_checked(length).ok_or(RecordError::CutOff("event"))?;
    let records = event.get(header_length..).ok_or(RecordError::Length("event"))?;
    let mut event = Event { mask, pid, ..Event::default() };
    read_records(records, &mut event)?;
    Ok((event, rest))
}

fn read_records<'a>(mut records: &'a [u8], event: &mut Event<'a>) -> Result<(), RecordError> {
    while !records.is_empty() {
        let mut header = Cursor(records);
        let [kind, _pad] = header.take::<2>("record")?;
        let length = usize::from(header.u16("record")?);
        if length < 4 {
            return Err(RecordError::Length("record"));
        }
        let (record, rest) = records.split_at_checked(length).ok_or(RecordError::CutOff("record"))?;
        let body = Cursor(record.get(4..).unwrap_or_default());
        match kind {
            libc::FAN_EVENT_INFO_TYPE_FID => event.object = Some(read_handle(body)?.0),
            libc::FAN_EVENT_INFO_TYPE_DFID => {
                event.entry = Some(Entry { directory: read_handle(body)?.0, name: None });
            }
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME => event.entry = Some(read_entry(body)?),
            libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => event.old = Some(read_entry(body)?),
            libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => event.new = Some(read_entry(body)?),
            _ => {}
        }
        records = rest;
    }
    Ok(())
}

fn read_handle(mut body: Cursor<'_>) -> Result<(Handle<'_>, Cursor<'_>), RecordError> {
    let filesystem = body.take("file system id")?;
    let length = usize::try_from(body.u32("handle")?).unwrap_or(usize::MAX);
    let handle_type = body.i32("handle")?;
    if length > HANDLE_BYTES_MAX {
        return Err(RecordError::Length("handle"));
    }
    let (bytes, rest) = body.0.split_at_checked(length).ok_or(RecordError::CutOff("handle"))?;
    Ok((Handle { filesystem, handle_type, bytes }, Cursor(rest)))
}

fn read_entry(body: Cursor<'_>) -> Result<Entry<'_>, RecordError> {
    let (directory, rest) = read_handle(body)?;
    let name = rest.0.split(|&byte| byte == 0).next().unwrap_or_default();
    // "." stands for the directory itself. A slash cannot be in a name; were one there, the path would lead elsewhere.
    let name = match name {
        b"" | b"." => None,
        b".." => return Err(RecordError::Length("name")),
        name if name.contains(&b'/') => return Err(RecordError::Length("name")),
        name => Some(OsStr::from_bytes(name)),
    };
    Ok(Entry { directory, name })
}

/// The bytes not read yet.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], RecordError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(RecordError::CutOff(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, RecordError> {
        self.take(what).map(u16::from_ne_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, RecordError> {
        self.take(what).map(u32::from_ne_bytes)
    }

    fn i32(&mut self, what: &'static str) -> Result<i32, RecordError> {
        self.take(what).map(i32::from_ne_bytes)
    }
}

#[cfg(test)]
pub(crate) mod tests;
