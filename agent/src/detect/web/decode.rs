//! Requests as a server reads them.

/// Bytes of a request that are looked at: servers refuse longer request lines by default.
pub const BYTES_MAX: usize = 8 * 1024;
/// Layers of percent signs that are taken off. Two: a proxy takes off one, the application another.
const LAYERS_MAX: u32 = 2;

/// The request in small letters without its encodings, and how many layers of percent signs were taken off.
pub fn decode(request: &str) -> (String, u32) {
    let mut bytes: Vec<u8> = request.bytes().take(BYTES_MAX).collect();
    let mut layers = 0;
    while layers < LAYERS_MAX && is_encoded(&bytes, layers == 0) {
        let (next, changed) = once(&bytes, layers == 0);
        bytes = next;
        if !changed {
            break;
        }
        layers += 1;
    }
    let text = if bytes.is_ascii() {
        bytes.make_ascii_lowercase();
        String::from_utf8(bytes).unwrap_or_default()
    } else {
        String::from_utf8_lossy(&bytes).to_lowercase()
    };
    (if is_flat(&text) { text } else { without_comments(&text) }, layers)
}

/// Whether there is anything to decode.
fn is_encoded(bytes: &[u8], plus_is_space: bool) -> bool {
    memchr::memchr3(b'%', 0xc0, 0xc1, bytes).is_some()
        || (plus_is_space && memchr::memchr(b'+', bytes).is_some())
}

/// Whether there are neither comments nor white space other than single spaces.
fn is_flat(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.is_ascii()
        && !bytes.iter().any(u8::is_ascii_control)
        && memchr::memmem::find(bytes, b"  ").is_none()
        && memchr::memmem::find(bytes, b"/*").is_none()
}

fn once(bytes: &[u8], plus_is_space: bool) -> (Vec<u8>, bool) {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut changed = false;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        let decoded = match (first, behind) {
            (b'%', [b'u' | b'U', a, b, c, d, ..]) => hex(*a, *b).zip(hex(*c, *d)).map(|(high, low)| {
                rest = behind.get(5..).unwrap_or_default();
                // Full-width forms stand for ASCII in servers that are too kind.
                if high == 0xff { low.wrapping_add(0x20) } else { low }
            }),
            (b'%', [a, b, ..]) => hex(*a, *b).inspect(|_| {
                rest = behind.get(2..).unwrap_or_default();
            }),
            _ => None,
        };
        match decoded {
            Some(byte) => {
                changed = true;
                out.push(byte);
            }
            None if *first == b'+' && plus_is_space => out.push(b' '),
            None => out.push(*first),
        }
    }
    (overlong(out), changed)
}

/// Slash, backslash and dot in two bytes where one is due.
fn overlong(bytes: Vec<u8>) -> Vec<u8> {
    if !bytes.contains(&0xc0) && !bytes.contains(&0xc1) {
        return bytes;
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.as_slice();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match (first, behind.first()) {
            (0xc0 | 0xc1, Some(second)) => {
                out.push(((first & 1) << 6) | (second & 0x3f));
                rest = behind.get(1..).unwrap_or_default();
            }
            _ => out.push(*first),
        }
    }
    out
}

/// `un/**/ion` and `union/**/select` are as good as the words; white space of any kind is one space.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("/*") {
        let Some(length) = rest.get(at + 2..).and_then(|rest| rest.find("*/")) else { break };
        out.push_str(rest.get(..at).unwrap_or_default());
        out.push(' ');
        rest = rest.get(at + 2 + length + 2..).unwrap_or_default();
    }
    out.push_str(rest);
    let mut flat = String::with_capacity(out.len());
    for c in out.chars() {
        let c = if c.is_whitespace() || c.is_control() { ' ' } else { c };
        if c != ' ' || !flat.ends_with(' ') {
            flat.push(c);
        }
    }
    flat
}

fn hex(a: u8, b: u8) -> Option<u8> {
    let digit = |c: u8| char::from(c).to_digit(16);
    u8::try_from(digit(a)? * 16 + digit(b)?).ok()
}
