//! Runs a program of the system within a time and with what it prints bounded: one that hangs (a damaged journal, a lock that nobody gives back, a dead
//! disk) is killed, and holds up nobody.
//!
//! What it is given and what it prints is moved by one loop, so that neither side waits for the other for ever. A program's own children that
//! keep its output open are not waited for beyond the same time.

use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;

/// How long a program may take, unless somebody knows better.
pub const TIME_MAX: Duration = Duration::from_secs(60);
/// Bytes that it may print. A hundred thousand rules of a firewall as text are some 20 MiB.
pub const OUTPUT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What is read of its complaints; more is thrown away.
const COMPLAINT_BYTES_MAX: usize = 64 * 1024;
/// Between two looks whether a program has ended that has closed its output.
const LOOK: Duration = Duration::from_millis(2);
/// How long one that was killed is waited for.
const REAP_WITHIN: Duration = Duration::from_secs(1);
/// Bytes that are moved at once.
const CHUNK: usize = 64 * 1024;

/// Runs it to its end with `input` to read, for `limit` at most, and gives what it printed.
///
/// # Errors
/// Why it cannot be run; `TimedOut` or `FileTooLarge` when it was killed for that.
pub fn run(command: &mut Command, input: Option<&[u8]>, limit: Duration) -> io::Result<(u32, Output)> {
    let until = Instant::now() + limit;
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = child.id();
    let result = attend(&mut child, input.unwrap_or_default(), until);
    if result.is_err() {
        // Fails only when it has ended meanwhile.
        let _ended = child.kill().is_err();
        reap(child);
    }
    Ok((pid, result.map_err(|error| told(error, limit))?))
}

/// Waits for a program that was killed. One that waits for a dead disk ends when that answers: no thread that has other work to do waits
/// for it.
fn reap(mut child: Child) {
    let until = Instant::now() + REAP_WITHIN;
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(LOOK);
    }
    let wait = move || drop(child.wait());
    if let Err(error) = std::thread::Builder::new().name("reaper".to_owned()).spawn(wait) {
        tracing::warn!(%error, "a program that does not end is not waited for");
    }
}

fn told(error: io::Error, limit: Duration) -> io::Error {
    if error.kind() != io::ErrorKind::TimedOut {
        return error;
    }
    let words = format!("it did not end within {} s and was killed", limit.as_secs_f32());
    io::Error::new(io::ErrorKind::TimedOut, words)
}

/// Moves bytes until both outputs are at their end, then waits for the program's.
fn attend(child: &mut Child, input: &[u8], until: Instant) -> io::Result<Output> {
    let mut feed = child.stdin.take().map(|pipe| Feed::new(pipe, input)).transpose()?;
    let mut stdout = child.stdout.take().map(|pipe| Drain::new(pipe, OUTPUT_BYTES_MAX)).transpose()?;
    let mut stderr = child.stderr.take().map(|pipe| Drain::new(pipe, COMPLAINT_BYTES_MAX)).transpose()?;
    let (mut printed, mut complained) = (Vec::new(), Vec::new());
    while stdout.is_some() || stderr.is_some() {
        wait(&feed, &stdout, &stderr, until)?;
        if feed.as_mut().is_some_and(Feed::is_done) {
            feed = None;
        }
        if let Some(drain) = &mut stdout
            && drain.is_at_end()?
        {
            printed = std::mem::take(&mut drain.bytes);
            stdout = None;
        }
        if stdout.as_ref().is_some_and(|drain| drain.overflowed) {
            let words = format!("it printed more than {OUTPUT_BYTES_MAX} bytes and was killed");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
        }
        if let Some(drain) = &mut stderr
            && drain.is_at_end()?
        {
            complained = std::mem::take(&mut drain.bytes);
            stderr = None;
        }
    }
    drop(feed);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Output { status, stdout: printed, stderr: complained });
        }
        std::thread::sleep(LOOK.min(left(until)?));
    }
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Waits until one of the pipes can be served.
fn wait(
    feed: &Option<Feed<'_>>,
    stdout: &Option<Drain<impl AsFd>>,
    stderr: &Option<Drain<impl AsFd>>,
    until: Instant,
) -> io::Result<()> {
    let feeds = feed.iter().map(|feed| (feed.pipe.as_fd(), PollFlags::OUT));
    let reads: [Option<BorrowedFd<'_>>; 2] =
        [stdout.as_ref().map(|drain| drain.pipe.as_fd()), stderr.as_ref().map(|drain| drain.pipe.as_fd())];
    let drains = reads.into_iter().flatten().map(|fd| (fd, PollFlags::IN));
    let mut fds: Vec<PollFd<'_>> =
        feeds.chain(drains).map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
    let left = Timespec::try_from(left(until)?).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&left)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What a program is given to read.
struct Feed<'a> {
    pipe: ChildStdin,
    rest: &'a [u8],
}

impl<'a> Feed<'a> {
    fn new(pipe: ChildStdin, rest: &'a [u8]) -> io::Result<Self> {
        ioctl_fionbio(&pipe, true)?;
        Ok(Self { pipe, rest })
    }

    /// Gives it what it takes; whether that was all, or it takes no more. A program that ended early says why by itself.
    fn is_done(&mut self) -> bool {
        while !self.rest.is_empty() {
            match self.pipe.write(self.rest) {
                Ok(taken) => self.rest = self.rest.get(taken..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}

/// What a program prints.
struct Drain<P> {
    pipe: P,
    bytes: Vec<u8>,
    limit: usize,
    overflowed: bool,
}

impl<P: Read + AsFd> Drain<P> {
    fn new(pipe: P, limit: usize) -> io::Result<Self> {
        ioctl_fionbio(&pipe, true)?;
        Ok(Self { pipe, bytes: Vec::new(), limit, overflowed: false })
    }

    /// Takes what is there, a chunk at most; whether that was the end.
    fn is_at_end(&mut self) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK];
        match self.pipe.read(&mut chunk) {
            Ok(0) => Ok(true),
            Ok(count) => {
                let kept = count.min(self.limit.saturating_sub(self.bytes.len()));
                self.overflowed |= kept < count;
                self.bytes.extend(chunk.get(..kept).unwrap_or_default());
                Ok(false)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn kind(script: &str, limit: Duration) -> Option<io::ErrorKind> {
        run(&mut shell(script), None, limit).err().map(|error| error.kind())
    }

    #[test]
    fn one_that_hangs_is_killed_whatever_it_does_with_its_output() {
        let limit = Duration::from_millis(100);
        let begin = Instant::now();
        for script in ["exec sleep 600", "exec sleep 600 >&- 2>&-", "sleep 5 & exec true", "exec yes >&2"] {
            assert_eq!(kind(script, limit), Some(io::ErrorKind::TimedOut), "{script}");
        }
        assert!(begin.elapsed() < Duration::from_secs(30));
        let said = run(&mut shell("exec sleep 600"), None, limit).expect_err("it hangs").to_string();
        assert_eq!(said, "it did not end within 0.1 s and was killed");
    }

    #[test]
    fn one_that_prints_without_end_is_killed_and_complaints_are_cut() {
        assert_eq!(kind("exec yes", TIME_MAX), Some(io::ErrorKind::FileTooLarge));
        let (_, output) =
            run(&mut shell("head -c 1000000 /dev/zero >&2; exit 3"), None, TIME_MAX).expect("it ends");
        assert_eq!((output.status.code(), output.stderr.len()), (Some(3), COMPLAINT_BYTES_MAX));
    }

    #[test]
    fn much_goes_in_and_comes_out_at_once() {
        let input = vec![b'x'; 3_000_000];
        let (_, output) = run(&mut Command::new("cat"), Some(&input), TIME_MAX).expect("it ends");
        assert!(output.stdout == input && output.status.success());
        // One that does not read what it is given.
        let (_, output) = run(&mut shell("echo no"), Some(&input), TIME_MAX).expect("it ends");
        assert_eq!(output.stdout, b"no\n");
    }
}
