//! The agent's log as journald takes it: the same line as elsewhere, with its level and with each field by itself, so that
//! `journalctl PICKET_SENSOR=files` and `journalctl -p warning` find what they should.
//!
//! The format is that of <https://systemd.io/JOURNAL_NATIVE_PROTOCOL>: one datagram an entry; a value without a line break as
//! `NAME=value`, any other with its length before it. What journald does not take goes to standard error, as without it.
//!
//! | field | what |
//! |---|---|
//! | `MESSAGE` | the line: what happened, then the fields as `name=value` |
//! | `PRIORITY` | 3 error, 4 warning, 6 information, 7 for who looks for faults |
//! | `SYSLOG_IDENTIFIER` | `picket-agent` |
//! | `PICKET_<NAME>` | a field of the line, its name in capitals |

use std::fmt::{Debug, Write as _};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Longest value that is handed on; a line of the agent's is far shorter.
const VALUE_BYTES_MAX: usize = 16 * 1024;

/// Hands each event to journald.
pub(super) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Opens it when standard error is journald's (`JOURNAL_STREAM`, see systemd.exec(5)); none elsewhere.
    pub(super) fn open() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let (device, inode) = stream.split_once(':')?;
        let own = std::fs::metadata("/proc/self/fd/2").ok()?;
        if device.parse() != Ok(own.dev()) || inode.parse() != Ok(own.ino()) {
            return None;
        }
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(SOCKET).ok()?;
        // A journal that does not read must not hold the agent up.
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = *event.metadata().level();
        if let Err(error) = self.socket.send(&line.entry(level)) {
            fall_back(&line.message(), level, &error);
        }
    }

    fn enabled(&self, metadata: &tracing::Metadata<'_>, _context: Context<'_, S>) -> bool {
        *metadata.level() <= Level::INFO
    }
}

/// Standard error leads to journald as well, by another way; in one line, since each line is an entry of its own there. A journal that
/// does not read that either must not hold the agent up: then the line is lost.
fn fall_back(message: &str, level: Level, error: &io::Error) {
    let message = message.replace(['\n', '\r'], "\u{2424}");
    let line = format!("<{}>{message} (journald: {error})\n", priority(level));
    let stderr = io::stderr();
    let mut ready = [rustix::event::PollFd::new(&stderr, rustix::event::PollFlags::OUT)];
    let now = rustix::time::Timespec::default();
    if rustix::event::poll(&mut ready, Some(&now)).is_ok_and(|count| count == 1) {
        // Gone, or full after all.
        let _lost = rustix::net::send(
            &stderr,
            line.as_bytes(),
            rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL,
        )
        .is_err();
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// An event, taken apart.
#[derive(Default)]
struct Line {
    text: String,
    fields: Vec<(&'static str, String)>,
}

impl Line {
    fn add(&mut self, field: &Field, mut value: String) {
        value.truncate(value.floor_char_boundary(VALUE_BYTES_MAX));
        if field.name() == "message" {
            self.text = value;
        } else {
            self.fields.push((field.name(), value));
        }
    }

    fn message(&self) -> String {
        let mut text = self.text.clone();
        for (name, value) in &self.fields {
            // Writing to a String cannot fail.
            let _written = write!(text, " {name}={value}").is_ok();
        }
        text
    }

    fn entry(&self, level: Level) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, "MESSAGE", &self.message());
        put(&mut out, "PRIORITY", &priority(level).to_string());
        put(&mut out, "SYSLOG_IDENTIFIER", "picket-agent");
        for (name, value) in &self.fields {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
            let name: String = name.chars().map(plain).collect();
            put(&mut out, &format!("PICKET_{name}"), value);
        }
        out
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }
}

fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&u64::try_from(value.len()).unwrap_or(0).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str, fields: &[(&'static str, &str)]) -> Line {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Line { text: text.to_owned(), fields }
    }

    #[test]
    fn an_entry_has_the_line_its_level_and_each_field() {
        let entry =
            line("a sensor does not run", &[("sensor", "files"), ("why", "no rung")]).entry(Level::ERROR);
        assert_eq!(
            String::from_utf8(entry).expect("text"),
            "MESSAGE=a sensor does not run sensor=files why=no rung\nPRIORITY=3\nSYSLOG_IDENTIFIER=picket-agent\n\
             PICKET_SENSOR=files\nPICKET_WHY=no rung\n"
        );
    }

    proptest! {
        /// A value cannot become a field of its own, whatever it holds.
        #[test]
        fn no_value_forges_a_field(value in any::<String>()) {
            let mut rest = &line("x", &[("why", &value)]).entry(Level::INFO)[..];
            let mut names = Vec::new();
            while !rest.is_empty() {
                let end = rest.iter().position(|byte| *byte == b'=' || *byte == b'\n').expect("a name ends");
                names.push(String::from_utf8(rest[..end].to_vec()).expect("a name"));
                let body = &rest[end + 1..];
                let length = if rest[end] == b'=' {
                    body.iter().position(|byte| *byte == b'\n').expect("a value ends")
                } else {
                    8 + usize::try_from(u64::from_le_bytes(body[..8].try_into().expect("eight"))).expect("fits")
                };
                rest = &body[length + 1..];
            }
            prop_assert_eq!(names, ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "PICKET_WHY"]);
        }
    }
}
