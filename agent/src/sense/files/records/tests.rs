use proptest::prelude::*;

use super::*;

pub(crate) fn handle(bytes: &[u8]) -> Vec<u8> {
    let mut out = b"fsid5678".to_vec();
    out.extend(u32::try_from(bytes.len()).unwrap().to_ne_bytes());
    out.extend(1i32.to_ne_bytes());
    out.extend(bytes);
    out
}

pub(crate) fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let mut out = vec![kind, 0];
    out.extend(u16::try_from(4 + padded).unwrap().to_ne_bytes());
    out.extend(body);
    out.resize(4 + padded, 0);
    out
}

pub(crate) fn named(kind: u8, directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut body = handle(directory);
    body.extend(name);
    body.push(0);
    record(kind, &body)
}

pub(crate) fn event(mask: u64, pid: i32, records: &[Vec<u8>]) -> Vec<u8> {
    let records = records.concat();
    let mut out = u32::try_from(HEADER_BYTES + records.len()).unwrap().to_ne_bytes().to_vec();
    out.extend([VERSION, 0]);
    out.extend(u16::try_from(HEADER_BYTES).unwrap().to_ne_bytes());
    out.extend(mask.to_ne_bytes());
    out.extend((-1i32).to_ne_bytes());
    out.extend(pid.to_ne_bytes());
    out.extend(records);
    out
}

#[test]
fn a_rename_gives_both_ends_and_the_object() {
    let buffer = event(
        libc::FAN_RENAME,
        7,
        &[
            named(libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, b"dir-one!", b"a\nb"),
            named(libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, b"dir-two!", b"\xff\xfe"),
            record(libc::FAN_EVENT_INFO_TYPE_FID, &handle(b"file-id!")),
            record(libc::FAN_EVENT_INFO_TYPE_PIDFD, &5i32.to_ne_bytes()),
        ],
    );
    let parsed: Vec<_> = events(&buffer).collect::<Result<_, _>>().unwrap();
    assert_eq!(parsed.len(), 1);
    assert_eq!(parsed[0].pid, 7);
    assert_eq!(parsed[0].old.unwrap().name.unwrap().as_bytes(), b"a\nb");
    assert_eq!(parsed[0].new.unwrap().name.unwrap().as_bytes(), b"\xff\xfe");
    assert_eq!(parsed[0].new.unwrap().directory.bytes, b"dir-two!");
    assert_eq!(parsed[0].object.unwrap().bytes, b"file-id!");
}

#[test]
fn a_dot_is_the_directory_itself() {
    let buffer = event(libc::FAN_ATTRIB, 1, &[named(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"dir-one!", b".")]);
    let parsed = events(&buffer).next().unwrap().unwrap();
    assert_eq!(parsed.entry.unwrap().name, None);
}

#[test]
fn an_overflow_has_no_records() {
    let buffer = [event(libc::FAN_Q_OVERFLOW, 0, &[]), event(libc::FAN_CREATE, 2, &[])].concat();
    let parsed: Vec<_> = events(&buffer).collect::<Result<_, _>>().unwrap();
    assert!(parsed[0].has(libc::FAN_Q_OVERFLOW));
    assert_eq!(parsed[1].pid, 2);
}

#[test]
fn a_name_that_would_lead_elsewhere_is_refused() {
    for name in [&b"a/b"[..], b".."] {
        let buffer = event(libc::FAN_CREATE, 1, &[named(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"d", name)]);
        assert_eq!(events(&buffer).next(), Some(Err(RecordError::Length("name"))));
    }
}

#[test]
fn impossible_lengths_end_the_buffer() {
    let good = event(1, 1, &[]);
    let mut short = good.clone();
    short[0..4].copy_from_slice(&10u32.to_ne_bytes());
    assert_eq!(events(&short).collect::<Vec<_>>(), [Err(RecordError::Length("event"))]);
    let mut long = good.clone();
    long[0..4].copy_from_slice(&4_000u32.to_ne_bytes());
    assert_eq!(events(&long).collect::<Vec<_>>(), [Err(RecordError::CutOff("event"))]);
    let mut version = good;
    version[4] = 9;
    assert_eq!(events(&version).collect::<Vec<_>>(), [Err(RecordError::Version(9))]);
    let zero_record = event(1, 1, &[vec![2, 0, 0, 0]]);
    assert_eq!(events(&zero_record).collect::<Vec<_>>(), [Err(RecordError::Length("record"))]);
    let mut huge = handle(b"x");
    huge[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
    let buffer = event(1, 1, &[record(libc::FAN_EVENT_INFO_TYPE_FID, &huge)]);
    assert_eq!(events(&buffer).collect::<Vec<_>>(), [Err(RecordError::Length("handle"))]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(events(&bytes).count() <= bytes.len());
    }

    /// Good events with some bytes overwritten: the parser meets lengths that nearly fit.
    #[test]
    fn damaged_events_are_read_without_harm(
        name in proptest::collection::vec(1..=255u8, 1..40),
        damage in proptest::collection::vec((0..200usize, any::<u8>()), 0..6),
    ) {
        let records = [named(2, b"dir-one!", &name), record(1, &handle(b"file-id!"))];
        let mut buffer = [event(1, 1, &records), event(2, 2, &records)].concat();
        for (at, byte) in damage {
            let at = at % buffer.len();
            buffer[at] = byte;
        }
        prop_assert!(events(&buffer).count() <= buffer.len());
    }

    #[test]
    fn what_is_written_is_read(
        names in proptest::collection::vec(proptest::collection::vec(1..=255u8, 1..60), 1..5),
        pid in any::<i32>(),
        mask in any::<u64>(),
    ) {
        let names: Vec<Vec<u8>> = names
            .into_iter()
            .filter(|name| !name.contains(&b'/') && name != b"." && name != b"..")
            .collect();
        let buffer: Vec<u8> =
            names.iter().flat_map(|name| event(mask, pid, &[named(2, b"directory", name)])).collect();
        let parsed: Vec<_> = events(&buffer).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(parsed.len(), names.len());
        for (event, name) in parsed.iter().zip(&names) {
            prop_assert_eq!((event.mask, event.pid), (mask, pid));
            prop_assert_eq!(event.entry.unwrap().name.unwrap().as_bytes(), &name[..]);
        }
    }
}
