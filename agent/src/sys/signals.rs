//! Signals that ask this process for something, with who sent them and when: `tokio::signal` tells neither.
//!
//! The handler writes one note of fixed size into a pipe, and nothing else; whoever waits reads it there. A handler rather than a mask:
//! programs that are started have the usual handling again, where a blocked signal would stay blocked in them.

use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// Bytes of a note: signal, code, pid and uid of the sender, and the boot clock in nanoseconds.
const NOTE_BYTES: usize = 24;
/// `SI_KERNEL` of `asm-generic/siginfo.h`.
const SI_KERNEL: i32 = 0x80;

/// Where the handler writes; -1 before there is anything. Never closed, since a handler may be under way at any time.
static NOTES: AtomicI32 = AtomicI32::new(-1);

/// Who sent a signal, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A process of this PID namespace, or of one below.
    Process {
        /// Its number.
        pid: u32,
        /// Its real user.
        uid: u32,
    },
    /// A process of a PID namespace above this one: whoever runs the container.
    Outside,
    /// The kernel itself: a key at the terminal.
    Kernel,
    /// Nobody vouches for it: `sigqueue` lets its caller name whom he likes.
    Unproved,
}

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Its number.
    pub signal: i32,
    /// Who sent it.
    pub sender: Sender,
    /// When, on the boot clock.
    pub time: Duration,
}

/// The signals that this process catches. There is one of it, for the life of the process.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Catches `signals` from now on; none that comes afterwards is lost, unless thousands wait.
    ///
    /// # Errors
    /// What the kernel refuses.
    ///
    /// # Panics
    /// When called twice.
    pub fn catch(signals: &[i32]) -> std::io::Result<Self> {
        let (notes, end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let before = NOTES.swap(end.into_raw_fd(), Ordering::SeqCst);
        assert_eq!(before, -1, "signals are caught once");
        signals.iter().try_for_each(|signal| handle(*signal))?;
        Ok(Self(notes))
    }

    /// Waits for the next one, `timeout` at most.
    ///
    /// # Errors
    /// What the kernel says, which is never that a signal came.
    pub fn wait(&self, timeout: Duration) -> std::io::Result<Option<Caught>> {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
            // Interrupted by the very signal: its note is there.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut note = [0; NOTE_BYTES];
        match rustix::io::read(&self.0, &mut note) {
            Ok(NOTE_BYTES) => Ok(Some(Caught::of(&note))),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Caught {
    fn of(note: &[u8; NOTE_BYTES]) -> Self {
        let number = |at: usize| {
            let bytes = note.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, i32::from_ne_bytes)
        };
        let time = note.last_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        let (pid, uid) = (number(8).cast_unsigned(), number(12).cast_unsigned());
        Self { signal: number(0), sender: Sender::of(number(4), pid, uid), time: Duration::from_nanos(time) }
    }
}

impl Sender {
    /// By `si_code`, `si_pid` and `si_uid`: see sigaction(2). The kernel fills in the last two of `kill` and `tgkill` alone.
    fn of(code: i32, pid: u32, uid: u32) -> Self {
        match code {
            libc::SI_USER | libc::SI_TKILL if pid == 0 => Self::Outside,
            libc::SI_USER | libc::SI_TKILL => Self::Process { pid, uid },
            SI_KERNEL => Self::Kernel,
            _ => Self::Unproved,
        }
    }
}

fn handle(signal: i32) -> std::io::Result<()> {
    // SAFETY: a sigaction is integers, a set of bits and a pointer that may be null: zero is a value of each.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = note as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: `action` lives through the call, which copies it; the old one is not asked for. `note` has the signature that SA_SIGINFO
    // asks for and does nothing that a handler must not.
    let result = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// The handler. Only `clock_gettime` and `write`, which signal-safety(7) allows, and no allocation.
extern "C" fn note(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a filled siginfo_t. Whether pid and uid mean anything for its code is judged by
    // who reads them; they are within it in any case.
    let (code, pid, uid) = unsafe { ((*info).si_code, (*info).si_pid(), (*info).si_uid()) };
    // SAFETY: the address of this thread's errno, which is there as long as the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: a plain integer of this thread.
    let before = unsafe { *errno };
    let time = crate::clock::since_boot();
    let nanos = time.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(time.subsec_nanos()));
    let mut note = [0_u8; NOTE_BYTES];
    let parts = [signal.to_ne_bytes(), code.to_ne_bytes(), pid.to_ne_bytes(), uid.to_ne_bytes()];
    let all = parts.as_flattened().iter().copied().chain(nanos.to_ne_bytes());
    note.iter_mut().zip(all).for_each(|(place, byte)| *place = byte);
    // SAFETY: `note` has NOTE_BYTES bytes; the descriptor is never closed. Fewer bytes than PIPE_BUF are written as a whole or not at all.
    unsafe { libc::write(NOTES.load(Ordering::SeqCst), note.as_ptr().cast(), NOTE_BYTES) };
    // SAFETY: as above. Whoever was interrupted finds its own errno.
    unsafe { *errno = before };
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn who_sent_a_signal_is_the_kernels_word_or_nobodys() {
        for (code, pid, sender) in [
            (libc::SI_USER, 47, Sender::Process { pid: 47, uid: 7 }),
            (libc::SI_TKILL, 47, Sender::Process { pid: 47, uid: 7 }),
            (libc::SI_USER, 0, Sender::Outside),
            (SI_KERNEL, 0, Sender::Kernel),
            (libc::SI_QUEUE, 1, Sender::Unproved),
            (libc::SI_TIMER, 1, Sender::Unproved),
        ] {
            assert_eq!(Sender::of(code, pid, 7), sender, "{code}");
        }
    }

    /// The only test that catches signals: what is caught is so for the whole process.
    #[test]
    fn a_signal_comes_with_its_sender() {
        let signals = Signals::catch(&[libc::SIGUSR1]).expect("caught");
        assert_eq!(signals.wait(Duration::ZERO).expect("a wait"), None);
        let before = crate::clock::since_boot();
        let own = std::process::id().to_string();
        let mut sent = Command::new("kill").args(["-USR1", &own]).spawn().expect("kill");
        let caught = signals.wait(Duration::from_secs(10)).expect("a wait").expect("a signal");
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(caught.signal, libc::SIGUSR1);
        assert_eq!(caught.sender, Sender::Process { pid: sent.id(), uid });
        assert!(caught.time >= before && caught.time <= crate::clock::since_boot());
        assert!(sent.wait().expect("it ends").success());
        // Started programs die by it as ever.
        let mut other = Command::new("sleep").arg("60").spawn().expect("sleep");
        let status = Command::new("kill").args(["-USR1", &other.id().to_string()]).status();
        assert!(status.expect("kill").success());
        let ended = other.wait().expect("it ends");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(libc::SIGUSR1));
    }
}
