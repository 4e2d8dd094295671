//! A terminal that is drawn on and gives keys at once; left as it was found, whatever ends the drawing.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};

/// Another screen without a cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// What Ctrl-C and Ctrl-D give.
const INTERRUPT: u8 = 3;
const END: u8 = 4;

/// See the module.
#[derive(Debug)]
pub struct Terminal {
    before: Termios,
    signals: OwnedFd,
}

impl Terminal {
    /// Takes the terminal over; none when there is none to be read from and written to.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take() -> io::Result<Option<Self>> {
        let (stdin, mut stdout) = (io::stdin(), io::stdout());
        if !stdin.is_terminal() || !stdout.is_terminal() {
            return Ok(None);
        }
        let signals = signals()?;
        let before = tcgetattr(&stdin)?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        modes.special_codes[SpecialCodeIndex::VMIN] = 0;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&stdin, OptionalActions::Now, &modes)?;
        let terminal = Self { before, signals };
        stdout.write_all(ENTER.as_bytes())?;
        stdout.flush()?;
        Ok(Some(terminal))
    }

    /// Columns and rows.
    pub fn size() -> (usize, usize) {
        let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        size.map_or((80, 24), |size| (usize::from(size.ws_col), usize::from(size.ws_row)))
    }

    /// Draws lines over what was drawn before.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn draw(&self, lines: &[String]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        let screen = format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"));
        stdout.write_all(screen.as_bytes())?;
        stdout.flush()
    }

    /// Waits; whether it is to end: `q`, Ctrl-C, Ctrl-D, a signal, or a terminal that is gone.
    pub fn wait(&self, length: Duration) -> bool {
        let until = Instant::now() + length;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let stdin = io::stdin();
            let mut polled = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            match poll(&mut polled, Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return true,
            }
            let [keys, signals] = polled.map(|one| one.revents());
            if !signals.is_empty() || keys.intersects(PollFlags::HUP | PollFlags::ERR) {
                return true;
            }
            let mut pressed = [0; 64];
            match stdin.lock().read(&mut pressed) {
                Ok(0) | Err(_) => return true,
                Ok(count) => {
                    let pressed = pressed.get(..count).unwrap_or_default();
                    if pressed.iter().any(|key| matches!(*key, b'q' | b'Q' | INTERRUPT | END)) {
                        return true;
                    }
                }
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails when the terminal is gone, and then there is nothing to restore.
        let _restored = tcsetattr(io::stdin(), OptionalActions::Now, &self.before).is_ok();
        let mut stdout = io::stdout();
        let _left = stdout.write_all(LEAVE.as_bytes()).and_then(|()| stdout.flush()).is_ok();
    }
}

/// Becomes readable when a signal asks this process to end: it is not to end before the terminal is as it was.
fn signals() -> io::Result<OwnedFd> {
    use tokio::signal::unix::{SignalKind, signal};
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut hangup, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        // Closed: the other end is told.
        drop(writer);
    })?;
    Ok(reader)
}
