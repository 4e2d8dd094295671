//! What a request to a web server is after, by the request alone.
//!
//! A request is decoded as servers do it (percent signs up to twice, `%u`, overlong slashes, `+`), put in small letters, and
//! looked through for traits: pieces that attacks have and honest requests hardly ever do. Each trait has a weight;
//! one alone is never enough, unless it can be nothing else. Who searches for "union select" is no attacker; who asks for
//! `1' union select null--` is.
//!
//! Pure. `decode::BYTES_MAX` of a request are looked at. Whether an attack worked, no log tells; the server's answer
//! only raises or lowers the alarm.

mod decode;
mod tools;
mod traits;

pub use tools::scanner;
pub use traits::{Attack, Judgement};

/// Looks a request through (`GET /path?query HTTP/1.1`, or the target alone); none when it is harmless.
pub fn judge(request: &str) -> Option<Judgement> {
    if !may_harm(request) {
        return None;
    }
    let (decoded, layers) = decode::decode(request);
    traits::judge(&decoded, layers)
}

/// Nearly all requests have nothing that could: they are told apart by their bytes alone.
fn may_harm(request: &str) -> bool {
    let bytes = request.as_bytes();
    memchr::memchr3(b'%', b'\'', b'"', bytes).is_some()
        || memchr::memchr3(b'<', b'(', b';', bytes).is_some()
        || memchr::memchr3(b'|', b'`', b'$', bytes).is_some()
        || memchr::memchr3(b'{', b'\\', b'&', bytes).is_some()
        || memchr::memmem::find(bytes, b"..").is_some()
        || memchr::memmem::find(bytes, b"://").is_some()
        || memchr::memmem::find(bytes, b"=/").is_some()
        || memchr::memchr(b'+', bytes).is_some()
}

#[cfg(test)]
mod tests;
