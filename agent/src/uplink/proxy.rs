//! HTTP CONNECT (RFC 9110, 9.3.6) as far as a client needs it: the request, and a bounded reader of the
//! response head. No I/O. Only plain `http://` proxies: what goes through is TLS to the collector in any case;
//! the proxy's password crosses the customer's own network in the clear, as with every such proxy.

use picket_protocol::crypto::to_base64;
use zeroize::Zeroizing;

/// Longest response head that is read, in bytes.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Longest proxy setting, in bytes.
const SETTING_BYTES_MAX: usize = 1_024;

/// Where a proxy is and how it knows us.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    credentials: Option<Zeroizing<String>>,
}

/// Why a setting is not a proxy, or a proxy's answer no tunnel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The setting.
    #[error("a proxy is written http://[user:password@]host:port; {0}")]
    Setting(&'static str),
    /// The answer is not HTTP.
    #[error("the proxy's answer is not an HTTP response")]
    NotHttp,
    /// The head is longer than [`HEAD_BYTES_MAX`].
    #[error("the proxy's answer is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// The proxy speaks behind the head, where only the collector may.
    #[error("the proxy sent data before the tunnel was open")]
    EarlyData,
    /// 407.
    #[error("the proxy wants other credentials (407): set user and password in uplink.proxy")]
    Credentials,
    /// Any other refusal.
    #[error("the proxy refused the tunnel: status {0}")]
    Refused(u16),
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Parses `http://[user:password@]host:port`; user and password may be percent-encoded.
    pub fn parse(setting: &str) -> Result<Self, ProxyError> {
        if setting.len() > SETTING_BYTES_MAX {
            return Err(ProxyError::Setting("it is too long"));
        }
        let rest = setting.strip_prefix("http://").ok_or(ProxyError::Setting("it begins with http://"))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(decode_credentials(credentials)?), address),
            None => (None, rest),
        };
        if !picket_protocol::join::is_address(address) {
            return Err(ProxyError::Setting("host and port are not well-formed"));
        }
        let (host, port) = split_address(address).ok_or(ProxyError::Setting("there is no port"))?;
        Ok(Self { host: host.to_owned(), port, credentials })
    }

    /// The request for a tunnel to `target` (`host:port`, already checked).
    pub fn request(&self, target: &str) -> Zeroizing<Vec<u8>> {
        let mut text = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
        if let Some(credentials) = &self.credentials {
            let encoded = Zeroizing::new(to_base64(credentials.as_bytes()));
            text.push_str("Proxy-Authorization: Basic ");
            text.push_str(&encoded);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        Zeroizing::new(text.as_bytes().to_vec())
    }
}

/// `host:port` taken apart, the brackets of IPv6 removed.
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((bare, port.parse().ok()?))
}

fn decode_credentials(text: &str) -> Result<Zeroizing<String>, ProxyError> {
    let bad = ProxyError::Setting("user:password is not well-formed");
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let decoded = match byte {
            b'%' => digit(rest.next()).zip(digit(rest.next())).map(|(high, low)| high * 16 + low),
            _ => Some(u32::from(byte)),
        };
        bytes.push(decoded.and_then(|value| u8::try_from(value).ok()).ok_or_else(|| bad.clone())?);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| bad.clone())?;
    let plain = text.contains(':') && !text.contains(char::is_control);
    if plain { Ok(Zeroizing::new(text.to_owned())) } else { Err(bad) }
}

/// Reads the proxy's answer as it arrives.
#[derive(Debug, Default)]
pub struct Response {
    head: Vec<u8>,
}

impl Response {
    /// Takes what was read; true when the tunnel is open.
    pub fn push(&mut self, bytes: &[u8]) -> Result<bool, ProxyError> {
        let room = HEAD_BYTES_MAX.saturating_sub(self.head.len());
        self.head.extend(bytes.iter().take(room));
        let end = self.head.windows(4).position(|window| window == b"\r\n\r\n");
        let Some(end) = end else {
            check_begins_well(&self.head)?;
            return if bytes.len() > room { Err(ProxyError::TooLong) } else { Ok(false) };
        };
        match status(&self.head)? {
            200..=299 if self.head.len() == end + 4 && bytes.len() <= room => Ok(true),
            200..=299 => Err(ProxyError::EarlyData),
            407 => Err(ProxyError::Credentials),
            code => Err(ProxyError::Refused(code)),
        }
    }
}

/// A server that is no proxy is told from one before 8 KiB of something else were awaited.
fn check_begins_well(head: &[u8]) -> Result<(), ProxyError> {
    let expected = b"HTTP/1.";
    let length = head.len().min(expected.len());
    if head.get(..length) == expected.get(..length) { Ok(()) } else { Err(ProxyError::NotHttp) }
}

/// `HTTP/1.x SP 3DIGIT (SP | CR)`.
fn status(head: &[u8]) -> Result<u16, ProxyError> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::NotHttp)?;
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "));
    let code = rest.and_then(|rest| rest.split(' ').next()).ok_or(ProxyError::NotHttp)?;
    let digits = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    let code = code.parse().ok().filter(|code| digits && (100..=599).contains(code));
    code.ok_or(ProxyError::NotHttp)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn settings() {
        let plain = Proxy::parse("http://proxy.example:3128").expect("plain");
        assert_eq!((plain.host.as_str(), plain.port), ("proxy.example", 3128));
        let request = plain.request("collector.example:8443");
        assert_eq!(
            request.as_slice(),
            b"CONNECT collector.example:8443 HTTP/1.1\r\nHost: collector.example:8443\r\n\r\n"
        );
        let named = Proxy::parse("http://us%40er:p%3Ass@[::1]:8080/").expect("with credentials");
        assert_eq!((named.host.as_str(), named.port), ("::1", 8080));
        let request = String::from_utf8(named.request("a:1").to_vec()).expect("text");
        assert!(request.contains("\r\nProxy-Authorization: Basic dXNAZXI6cDpzcw==\r\n\r\n"), "{request}");
        assert!(!format!("{named:?}").contains("ss"), "Debug shows no password");
    }

    #[test]
    fn settings_that_are_refused() {
        for setting in [
            "",
            "proxy:3128",
            "https://proxy:3128",
            "http://proxy",
            "http://proxy:0",
            "http://pro xy:1",
            "http://user@proxy:1",
            "http://a:b%0d%0aX-Evil: 1@proxy:1",
            "http://a:%zz@proxy:1",
            "http://a:%f",
            "http://proxy:1/path",
            "http://pro\r\nxy:1",
        ] {
            assert!(matches!(Proxy::parse(setting), Err(ProxyError::Setting(_))), "{setting:?}");
        }
    }

    fn answer(bytes: &[u8]) -> Result<bool, ProxyError> {
        Response::default().push(bytes)
    }

    #[test]
    fn answers() {
        assert_eq!(answer(b"HTTP/1.1 200 Connection established\r\n\r\n"), Ok(true));
        assert_eq!(answer(b"HTTP/1.0 200\r\nVia: x\r\n\r\n"), Ok(true));
        assert_eq!(answer(b"HTTP/1.1 407 Who\r\n\r\nbody"), Err(ProxyError::Credentials));
        assert_eq!(answer(b"HTTP/1.1 503 Busy\r\n\r\n"), Err(ProxyError::Refused(503)));
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n\r\n\x16\x03"), Err(ProxyError::EarlyData));
        assert_eq!(answer(b"HTTP/1.1 200 O"), Ok(false));
        for bytes in [
            &b"SSH-2.0-x\r\n"[..],
            b"HTTP/1.1 20 \r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 999 x\r\n\r\n",
        ] {
            assert_eq!(answer(bytes), Err(ProxyError::NotHttp), "{}", bytes.escape_ascii());
        }
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; HEAD_BYTES_MAX]].concat();
        assert_eq!(answer(&endless), Err(ProxyError::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_within_the_bound(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..50) {
            let mut response = Response::default();
            for part in bytes.chunks(cut) {
                if response.push(part) != Ok(false) {
                    break;
                }
                prop_assert!(response.head.len() <= HEAD_BYTES_MAX);
            }
        }

        #[test]
        fn however_it_is_cut_the_answer_is_the_same(code in 100u16..600, filler in "[ -~]{0,300}", cut in 1usize..40) {
            let text = format!("HTTP/1.1 {code} x\r\nX: {filler}\r\n\r\n");
            let mut response = Response::default();
            let mut last = Ok(false);
            for part in text.as_bytes().chunks(cut) {
                last = response.push(part);
                if last != Ok(false) {
                    break;
                }
            }
            prop_assert_eq!(last, answer(text.as_bytes()));
        }

        #[test]
        fn no_setting_injects_a_header(setting in "\\PC{0,60}", user in "\\PC{0,20}") {
            for text in [setting.clone(), format!("http://{user}:x@proxy:1")] {
                if let Ok(proxy) = Proxy::parse(&text) {
                    let request = proxy.request("a:1").to_vec();
                    let lines = request.windows(2).filter(|w| w == b"\r\n").count();
                    prop_assert!(lines <= 4 && !request.contains(&0));
                }
            }
        }
    }
}
