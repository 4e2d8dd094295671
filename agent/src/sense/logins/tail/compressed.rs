//! Rotated files that were compressed before they were read: unpacked by `gzip`, the program that packed them.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};

use crate::sense::logins::position::Head;

/// Largest file that is unpacked; what is larger counts as lost.
const UNPACKED_BYTES_MAX: u64 = 512 * 1024 * 1024;

fn gzip(packed: &File) -> io::Result<Child> {
    let mut input = packed.try_clone()?;
    input.rewind()?;
    let mut command = Command::new("gzip");
    command.args(["--decompress", "--stdout"]);
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
}

/// How the packed file begins.
pub fn first_bytes(packed: &File) -> io::Result<Vec<u8>> {
    let mut child = gzip(packed)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(Head::BYTES_MAX).unwrap_or(0);
    let read = child.stdout.take().map(|output| output.take(limit).read_to_end(&mut bytes));
    // With its output closed it ends, if it had more to say.
    child.wait()?;
    read.transpose()?;
    Ok(bytes)
}

/// Unpacks into a file without a name in `scratch`. Fails on a file that is not complete (gzip may still be
/// writing it) or too large.
pub fn unpack(packed: &File, scratch: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut plain = File::from(rustix::fs::open(scratch, flags, Mode::RUSR | Mode::WUSR)?);
    let mut child = gzip(packed)?;
    let copied = match child.stdout.take() {
        Some(output) => io::copy(&mut output.take(UNPACKED_BYTES_MAX + 1), &mut plain),
        None => Err(io::Error::other("gzip has no standard output")),
    };
    let status = child.wait()?;
    if copied? > UNPACKED_BYTES_MAX {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    if !status.success() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    plain.flush()?;
    Ok(plain)
}
