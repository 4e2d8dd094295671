//! One message of the kernel's audit, taken apart.
//!
//! `audit(1700000000.123:456): pid=7 uid=0 auid=1001 ses=3 msg='op=PAM:authentication acct="al" … addr=192.0.2.7 …
//! res=failed'`. What stands before `msg='` was written by the kernel. What stands inside was written by a program that
//! may send such messages, and names in it may have been typed by a remote user: libaudit writes `acct`, `exe`, `cwd`
//! and `cmd` in quotes, or in hexadecimal when they hold a space, a quote or anything outside of printable ASCII; a
//! host name it writes as it is. So of names that stand before the host name the first counts, of those behind it
//! (`addr`, `terminal`, `res`) the last.

use std::borrow::Cow;

use memchr::memmem;
use picket_protocol::time::Timestamp;

/// Longest message that is looked at; the kernel's own bound is `MAX_AUDIT_MESSAGE_LENGTH`, 8,970 bytes.
pub const MESSAGE_BYTES_MAX: usize = 9_216;
/// How the kernel writes a number that is not set.
const UNSET: u32 = u32::MAX;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// When, by the kernel's clock (of the last tick).
    pub time: Timestamp,
    /// The event's number; messages of one event share it.
    pub serial: u64,
    /// What the kernel wrote.
    kernel: &'a [u8],
    /// What the sender wrote; empty for messages of the kernel's own.
    sender: &'a [u8],
}

impl<'a> Message<'a> {
    /// Takes `text` apart; none when it does not begin as the kernel's messages do.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let text = text.get(..text.len().min(MESSAGE_BYTES_MAX))?;
        let end = text.iter().rposition(|&byte| byte != 0 && byte != b'\n').map_or(0, |last| last + 1);
        let rest = text.get(..end)?.strip_prefix(b"audit(")?;
        let close = memmem::find(rest, b"): ")?;
        let (stamp, body) = (rest.get(..close)?, rest.get(close + 3..)?);
        let colon = stamp.iter().position(|&byte| byte == b':')?;
        let time = time(stamp.get(..colon)?)?;
        let serial = digits(stamp.get(colon + 1..)?)?;
        // The kernel's part holds no quote before `msg='` except for a security label, which no remote user chooses.
        let (kernel, sender) = match memmem::find(body, b"msg='") {
            Some(at) => {
                let inner = body.get(at + 5..)?;
                (body.get(..at)?, inner.strip_suffix(b"'").unwrap_or(inner))
            }
            None => (body, &b""[..]),
        };
        Some(Self { time, serial, kernel, sender })
    }

    /// A number that the kernel wrote; none when it is absent or not set.
    pub fn number(&self, name: &str) -> Option<u32> {
        let value = first(self.kernel, name)?;
        u32::try_from(digits(value)?).ok().filter(|number| *number != UNSET)
    }

    /// A word that the kernel wrote.
    pub fn kernel_word(&self, name: &str) -> Option<&'a [u8]> {
        first(self.kernel, name)
    }

    /// A name that the sender wrote, decoded; none when it is absent, `?` or damaged.
    pub fn name(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        decode(first(self.sender, name)?)
    }

    /// A word that the sender wrote behind everything that a remote user may have shaped.
    pub fn last_word(&self, name: &str) -> Option<&'a [u8]> {
        last(self.sender, name).filter(|word| !matches!(*word, b"?" | b""))
    }

    /// What was done, up to the next key: `adding user to group`.
    pub fn operation(&self) -> &'a [u8] {
        let Some(rest) = self.sender.strip_prefix(b"op=") else { return b"" };
        let ends = [&b" acct="[..], b" id=", b" grantors=", b" exe="];
        let end = ends.iter().filter_map(|end| memmem::find(rest, end)).min().unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default()
    }

    /// A number that the sender wrote.
    pub fn sender_number(&self, name: &str) -> Option<u32> {
        u32::try_from(digits(first(self.sender, name)?)?).ok().filter(|number| *number != UNSET)
    }
}

/// The first value of `name`: up to the next space, or the closing quote.
fn first<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut from = 0;
    while let Some(at) = memmem::find(text.get(from..)?, name.as_bytes()).map(|at| from + at) {
        if let Some(value) = value_at(text, at, name) {
            return Some(value);
        }
        from = at + name.len();
    }
    None
}

fn last<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut end = text.len();
    while let Some(at) = memmem::rfind(text.get(..end)?, name.as_bytes()) {
        if let Some(value) = value_at(text, at, name) {
            return Some(value);
        }
        end = at;
    }
    None
}

/// The value when `name=` stands at `at`, at the beginning or behind a space.
fn value_at<'a>(text: &'a [u8], at: usize, name: &str) -> Option<&'a [u8]> {
    let begins = at == 0 || text.get(at - 1) == Some(&b' ');
    let value = text.get(at + name.len()..)?.strip_prefix(b"=").filter(|_| begins)?;
    match value.first() {
        Some(b'"') => {
            let close = value.get(1..)?.iter().position(|&byte| byte == b'"')?;
            value.get(..close + 2)
        }
        _ => {
            let end = value.iter().position(|&byte| byte == b' ').unwrap_or(value.len());
            value.get(..end)
        }
    }
}

/// `"text"`, hexadecimal, or a word that libaudit left as it was.
fn decode(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    if let Some(inner) = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
        return Some(Cow::Borrowed(inner));
    }
    match value {
        b"" | b"?" | b"(null)" | b"(none)" => None,
        _ if value.len().is_multiple_of(2) && value.iter().all(u8::is_ascii_hexdigit) => {
            unhex(value).map(Cow::Owned)
        }
        _ => Some(Cow::Borrowed(value)),
    }
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
            _ => None,
        })
        .collect()
}

fn digits(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 20 && text.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

/// `1700000000.123`.
fn time(text: &[u8]) -> Option<Timestamp> {
    let point = text.iter().position(|&byte| byte == b'.')?;
    let seconds = i64::try_from(digits(text.get(..point)?)?).ok()?;
    let millis = text.get(point + 1..).filter(|millis| millis.len() == 3).and_then(digits)?;
    let nanos = seconds.checked_mul(1_000_000_000)?;
    Some(Timestamp::from_nanos(nanos.checked_add(i64::try_from(millis).ok()?.checked_mul(1_000_000)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &[u8] = b"audit(1795884006.121:6): pid=9097 uid=0 auid=4294967295 ses=4294967295 \
        subj=system_u:system_r:sshd_t:s0-s0:c0.c1023 msg='op=PAM:authentication grantors=? acct=\"demo\" \
        exe=\"/usr/sbin/sshd\" hostname=127.0.0.1 addr=127.0.0.1 terminal=ssh res=failed'\0";

    #[test]
    fn the_kernels_words_and_the_senders_are_kept_apart() {
        let message = Message::parse(FAILED).expect("a message");
        assert_eq!((message.time.nanos(), message.serial), (1_795_884_006_121_000_000, 6));
        assert_eq!((message.number("pid"), message.number("auid")), (Some(9_097), None));
        assert_eq!(message.name("acct").as_deref(), Some(&b"demo"[..]));
        assert_eq!(message.operation(), b"PAM:authentication");
        assert_eq!(
            (message.last_word("addr"), message.last_word("res")),
            (Some(&b"127.0.0.1"[..]), Some(&b"failed"[..]))
        );
        assert_eq!(message.name("pid"), None);
        assert_eq!(message.number("acct"), None);
    }

    #[test]
    fn the_sender_cannot_speak_as_the_kernel() {
        let text = b"audit(1.000:2): pid=5 uid=0 auid=7 ses=3 msg='op=login acct=\"x\" pid=1 auid=0 ses=9 res=success'";
        let message = Message::parse(text).expect("a message");
        assert_eq!(
            (message.number("pid"), message.number("auid"), message.number("ses")),
            (Some(5), Some(7), Some(3))
        );
    }

    #[test]
    fn a_host_name_forges_neither_name_nor_address_nor_outcome() {
        let text =
            b"audit(1.000:2): pid=5 uid=0 auid=7 ses=3 msg='op=login acct=\"al\" exe=\"/usr/sbin/sshd\" \
            hostname=a acct=\"root\" addr=192.0.2.9 res=success addr=192.0.2.7 terminal=ssh res=failed'";
        let message = Message::parse(text).expect("a message");
        assert_eq!(message.name("acct").as_deref(), Some(&b"al"[..]));
        assert_eq!(message.last_word("addr"), Some(&b"192.0.2.7"[..]));
        assert_eq!(message.last_word("res"), Some(&b"failed"[..]));
    }

    #[test]
    fn names_in_hexadecimal_are_read_and_absent_ones_absent() {
        let text = |acct: &str| format!("audit(1.000:2): pid=5 msg='op=login acct={acct} res=failed'");
        let name = |acct: &str| {
            let text = text(acct);
            Message::parse(text.as_bytes()).and_then(|message| message.name("acct").map(Cow::into_owned))
        };
        assert_eq!(name("28696E76616C6964207573657229"), Some(b"(invalid user)".to_vec()));
        assert_eq!(name("6120226220FF"), Some(b"a \"b \xff".to_vec()));
        assert_eq!(name("\"beef\""), Some(b"beef".to_vec()));
        assert_eq!(name("?"), None);
        assert_eq!(name("\"\""), Some(Vec::new()));
    }

    #[test]
    fn anything_else_is_nothing() {
        for text in [
            &b""[..],
            b"audit(",
            b"audit(1:2): ",
            b"audit(1.5:2): x",
            b"audit(1.000:): x",
            b"audit(1.000:2):",
            b"x",
        ] {
            assert_eq!(Message::parse(text), None, "{}", text.escape_ascii());
        }
        for end in 0..FAILED.len() {
            // Cut anywhere: no panic, and the kernel's words stay the kernel's.
            let cut = Message::parse(&FAILED[..end]);
            assert!(cut.is_none_or(|message| {
                message.number("pid").is_none_or(|pid| 9_097u32.to_string().starts_with(&pid.to_string()))
            }));
        }
    }
}
