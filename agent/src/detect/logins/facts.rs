//! What the host knows of its accounts and of its like: passed in, since detectors read no files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

use super::rule::Subject;
use crate::sense::logins::{LoginEvent, LoginKind};

/// Accounts of programs on most hosts, for hosts whose account files cannot be read.
const SERVICE_NAMES: [&str; 34] = [
    "_apt",
    "apache",
    "avahi",
    "backup",
    "bin",
    "daemon",
    "dovecot",
    "exim",
    "ftp",
    "games",
    "gnats",
    "irc",
    "list",
    "lp",
    "mail",
    "man",
    "messagebus",
    "mysql",
    "news",
    "nginx",
    "nobody",
    "ntp",
    "postfix",
    "postgres",
    "proxy",
    "redis",
    "rpc",
    "sshd",
    "sync",
    "sys",
    "tomcat",
    "uucp",
    "www",
    "www-data",
];
/// Services by which a person gets a shell, a screen or a terminal.
const SHELLS: [&str; 17] = [
    "sshd",
    "login",
    "dropbear",
    "telnetd",
    "in.telnetd",
    "rlogin",
    "rsh",
    "remote",
    "cockpit",
    "cockpit-session",
    "gdm",
    "gdm-password",
    "lightdm",
    "sddm",
    "xrdp",
    "xrdp-sesman",
    "systemd-user",
];
/// Below it are accounts of the system.
const PERSON_UID_MIN: u32 = 1_000;
/// From here on are accounts that systemd makes for services, and nobody.
const PERSON_UID_END: u32 = 60_001;

/// An account of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountFacts {
    /// Its number.
    pub uid: u32,
    /// Its shell lets nobody in (`nologin`, `false`).
    pub shell_refuses: bool,
    /// When it logged in last, by the records that the host kept before the agent came.
    pub last_login: Option<Timestamp>,
    /// From where, as far as they say.
    pub last_from: Option<IpAddr>,
}

/// What is passed in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Accounts by name.
    pub accounts: BTreeMap<String, AccountFacts>,
    /// Addresses of other hosts of the fleet.
    pub fleet: BTreeSet<IpAddr>,
    /// The file sensor tells of every change of the account files, and of who made it.
    pub accounts_watched: bool,
}

impl Facts {
    /// Why `user` is an account of a program rather than of a person; none for a person.
    pub fn why_service(&self, user: &Text) -> Option<&'static str> {
        match self.accounts.get(&user.text) {
            Some(facts) if facts.uid == 0 => None,
            Some(facts) if facts.shell_refuses => Some("its shell lets nobody in"),
            Some(facts) if facts.uid < PERSON_UID_MIN || facts.uid >= PERSON_UID_END => {
                Some("its number is that of a system account")
            }
            Some(_) => None,
            None => SERVICE_NAMES
                .contains(&user.text.as_str())
                .then_some("its name is that of a program's account"),
        }
    }

    /// Whether the file sensor tells what this log line says of an account. The tools that make and remove accounts work on
    /// the local files; of other changes only those of local accounts are seen there.
    pub fn is_told_by_files(&self, event: &LoginEvent) -> bool {
        let makes = matches!(event.event, LoginKind::AccountCreated | LoginKind::AccountRemoved);
        let group = event.reason.as_ref().is_some_and(|reason| reason.text.contains("group"));
        let local = event.user.as_ref().is_some_and(|user| self.accounts.contains_key(&user.text));
        self.accounts_watched && (makes || group || local)
    }

    /// Whether `user` is root, by any name.
    pub fn is_root(&self, user: &Text) -> bool {
        user.text == "root" || self.accounts.get(&user.text).is_some_and(|facts| facts.uid == 0)
    }
}

/// Whether a login by `service` gives a shell or a screen.
pub fn is_shell(service: &str) -> bool {
    SHELLS.contains(&service)
}

/// A user, and where from when that is told.
pub fn who(user: &Text, event: &LoginEvent) -> Subject {
    match event.address {
        Some(address) => Subject::Pair(user.clone(), address),
        None => Subject::User(user.clone()),
    }
}

/// Whether the address is one of an own network: private, link-local or of a carrier's gateway.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            address.is_private() || address.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(address) => {
            let [first, ..] = address.segments();
            first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80
                || address.to_ipv4_mapped().is_some_and(|address| is_private(IpAddr::V4(address)))
        }
    }
}

/// The first `v4` or `v6` bits of an address.
pub fn network(address: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let bits = address.to_bits() & u32::MAX.checked_shl(32 - v4.min(32)).unwrap_or(0);
            IpAddr::V4(bits.into())
        }
        IpAddr::V6(whole) => match whole.to_ipv4_mapped() {
            Some(address) => network(IpAddr::V4(address), v4, v6),
            None => {
                let bits = whole.to_bits() & u128::MAX.checked_shl(128 - v6.min(128)).unwrap_or(0);
                IpAddr::V6(bits.into())
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let of = |address: &str, v4, v6| network(address.parse().unwrap(), v4, v6).to_string();
        assert_eq!(of("192.0.2.77", 24, 48), "192.0.2.0");
        assert_eq!(of("192.0.2.77", 16, 32), "192.0.0.0");
        assert_eq!(of("2001:db8:1:2::3", 24, 48), "2001:db8:1::");
        assert_eq!(of("::ffff:192.0.2.77", 24, 48), "192.0.2.0");
        for (address, private) in [
            ("10.1.2.3", true),
            ("100.64.0.1", true),
            ("fd00::1", true),
            ("8.8.8.8", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_private(address.parse().unwrap()), private, "{address}");
        }
    }

    #[test]
    fn who_is_a_service() {
        let text = |name: &str| Text::from_bytes(name.as_bytes());
        let mut facts = Facts::default();
        assert!(facts.why_service(&text("www-data")).is_some() && facts.why_service(&text("al")).is_none());
        let of = |uid, shell_refuses| AccountFacts { uid, shell_refuses, ..AccountFacts::default() };
        facts.accounts.insert("al".to_owned(), of(1_000, false));
        facts.accounts.insert("www-data".to_owned(), of(1_001, false));
        facts.accounts.insert("nagios".to_owned(), of(112, false));
        facts.accounts.insert("shut".to_owned(), of(1_002, true));
        facts.accounts.insert("toor".to_owned(), of(0, false));
        for (name, service) in
            [("al", false), ("www-data", false), ("nagios", true), ("shut", true), ("toor", false)]
        {
            assert_eq!(facts.why_service(&text(name)).is_some(), service, "{name}");
        }
        assert!(facts.is_root(&text("toor")) && !facts.is_root(&text("al")));
    }
}
