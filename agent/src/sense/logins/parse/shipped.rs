//! Rule files in the binary, and what is made of them when it is first needed.
//!
//! A host speaks for few of the services that have a rule file. So of a shipped file only its head is read at the start: the
//! programs, logs and senders by which a message finds it. Its rules are compiled when the first message or line is for
//! them, and stay. The customer's own files were compiled to be checked, and stay as they are.

use std::sync::OnceLock;

use super::rules::ServiceRules;
use super::rules::file::read;

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        /// The rule files in the binary: name and text.
        pub const SHIPPED: &[(&str, &str)] = &[
            $(($name, include_str!(concat!("../../../../parsers/", $name, ".toml")))),*
        ];
    };
}

shipped![
    "sshd",
    "dropbear",
    "su",
    "sudo",
    "doas",
    "login",
    "polkit",
    "cron",
    "pam",
    "accounts",
    "vsftpd",
    "proftpd",
    "pure-ftpd",
    "dovecot",
    "postfix",
    "exim",
    "mysql",
    "postgresql",
    "redis",
    "nginx",
    "apache",
    "asterisk",
    "freeswitch",
    "kamailio",
    "openvpn",
    "wireguard",
    "cockpit",
    "webmin",
    "phpmyadmin",
    "wordpress",
    "nextcloud",
    "gitlab",
    "gitlab-text",
    "gitea",
    "grafana",
];

/// A service, known by its head.
#[derive(Debug)]
pub struct Service {
    /// All of it, or for a shipped one all but its rules.
    head: ServiceRules,
    /// Where the rules of a shipped one are.
    text: Option<&'static str>,
    whole: OnceLock<Option<ServiceRules>>,
}

impl Service {
    /// A shipped one; none when its head cannot be read, which a test excludes.
    pub fn shipped(text: &'static str) -> Option<Self> {
        // The head has no rules: what that is a problem of is the whole's.
        let head = read(head_of(text)).0?;
        Some(Self { head, text: Some(text), whole: OnceLock::new() })
    }

    /// One whose rules are there.
    pub fn own(mut rules: ServiceRules) -> Self {
        rules.compact();
        Self { head: rules, text: None, whole: OnceLock::new() }
    }

    /// Its name, programs, logs, format and sender; nothing is compiled for that.
    pub fn head(&self) -> &ServiceRules {
        &self.head
    }

    /// All of it.
    pub fn rules(&self) -> &ServiceRules {
        let Some(text) = self.text else { return &self.head };
        let whole = self.whole.get_or_init(|| {
            let mut rules = read(text).0?;
            rules.compact();
            Some(rules)
        });
        // A test checks that each can be read; what a problem would leave out is less than what a panic would.
        whole.as_ref().unwrap_or(&self.head)
    }

    /// Whether its rules are in memory.
    #[cfg(test)]
    pub fn is_compiled(&self) -> bool {
        self.text.is_none() || self.whole.get().is_some()
    }
}

/// What stands before the first rule or sample.
fn head_of(text: &str) -> &str {
    text.find("\n[[").and_then(|end| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_all_but_the_rules() {
        for (name, text) in SHIPPED {
            let service = Service::shipped(text).unwrap();
            let (head, whole) = (service.head(), service.rules());
            let told = |rules: &ServiceRules| {
                let named = (rules.name.clone(), rules.programs.clone(), rules.logs.clone());
                let written = (rules.format, rules.builtin, rules.sender.clone());
                (named, written, (rules.message_bytes_max, rules.line_bytes_max))
            };
            assert_eq!(told(head), told(whole), "{name}");
            assert!(
                head.rules().is_empty() && (!whole.rules().is_empty() || whole.builtin.is_some()),
                "{name}"
            );
        }
    }
}
