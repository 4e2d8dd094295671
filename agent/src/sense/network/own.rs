//! Which addresses are this host's: what goes out from another one is forwarded, and was sent by somebody else.
//!
//! They are read again when one is met that is not known, at most every ten seconds: while nothing new is met it costs nothing.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::time::Timestamp;
use pnet::datalink::interfaces;

/// How often they are read at most.
const EVERY: Duration = Duration::from_secs(10);
/// Addresses that are kept: more than a host with a thousand containers has.
const ADDRESSES_MAX: usize = 8_192;

/// See the module.
#[derive(Debug)]
pub struct Own {
    proc: PathBuf,
    addresses: HashSet<IpAddr>,
    /// Whether IPv4 is forwarded, and IPv6.
    forwards: (bool, bool),
    read: Option<Timestamp>,
}

impl Own {
    /// Reads settings below `proc`, which is `/proc` but in tests.
    pub fn new(proc: &Path) -> Self {
        Self { proc: proc.to_owned(), addresses: HashSet::new(), forwards: (false, false), read: None }
    }

    /// Whether what goes out from `source` was sent by somebody else. On a host that forwards nothing it is the host that sends,
    /// whatever address it claims.
    pub fn is_forwarded(&mut self, source: IpAddr, now: Timestamp) -> bool {
        if self.addresses.contains(&source) {
            return false;
        }
        if self.read.is_none_or(|read| now < read || now.since(read) >= EVERY) {
            self.read = Some(now);
            self.refresh();
        }
        let forwards = if source.is_ipv4() { self.forwards.0 } else { self.forwards.1 };
        forwards && !self.addresses.contains(&source)
    }

    fn refresh(&mut self) {
        let all = interfaces().into_iter().flat_map(|interface| interface.ips);
        self.addresses = all.map(|network| network.ip()).take(ADDRESSES_MAX).collect();
        let is_on = |name: &str| {
            // Not there: a kernel without that family.
            let text = fs::read_to_string(self.proc.join("sys/net").join(name)).unwrap_or_default();
            !matches!(text.trim(), "" | "0")
        };
        self.forwards = (is_on("ipv4/ip_forward"), is_on("ipv6/conf/all/forwarding"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_that_forwards_sends_what_others_sent() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join("sys/net").join(name);
        fs::create_dir_all(at("ipv4")).unwrap();
        let (own, other): (IpAddr, IpAddr) = ("127.0.0.1".parse().unwrap(), "192.0.2.77".parse().unwrap());
        let now = |seconds: i64| Timestamp::from_seconds(1_700_000_000 + seconds);
        let mut known = Own::new(directory.path());
        fs::write(at("ipv4/ip_forward"), "0\n").unwrap();
        assert!(!known.is_forwarded(other, now(0)) && !known.is_forwarded(own, now(0)));
        fs::write(at("ipv4/ip_forward"), "1\n").unwrap();
        assert!(!known.is_forwarded(other, now(5)), "not read yet");
        assert!(known.is_forwarded(other, now(11)) && !known.is_forwarded(own, now(11)));
        assert!(!known.is_forwarded("2001:db8::1".parse().unwrap(), now(11)), "the other family is not");
    }
}
