//! Takes the agent's own secrets out of text, whatever it is and whoever wrote it.
//!
//! **Promise.** No key of the agent's, in any spelling that its files or its programs use (PEM lines, hex, base64), no join
//! string and nothing that stands before the `@` of a URL is left. What else may be a secret in text that people wrote is
//! [`crate::detect::files::redact`]'s business, which errs on the side of leaving out.

use std::path::Path;

use picket_protocol::crypto::{hex, to_base64};
use picket_protocol::join;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::detect::files::redact::MARK;
use crate::layout::{Layout, SMALL_FILE_BYTES_MAX, read_file};

/// Shorter words are too common to be taken out wherever they stand.
const WORD_CHARS_MIN: usize = 4;

/// What must not be told.
pub(crate) struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    /// Those of this host that can be read: whoever cannot read one does not spell it either.
    pub(crate) fn gather(layout: &Layout, config: &Config) -> Self {
        let mut secrets = Self(Vec::new());
        secrets.file(&layout.tls_key());
        secrets.file(&layout.core().join("images.key"));
        for entry in std::fs::read_dir(layout.ledger_keys()).into_iter().flatten().flatten() {
            secrets.file(&entry.path());
        }
        if let Some(proxy) = &config.uplink.proxy {
            secrets.proxy(proxy);
        }
        // The longest first, so that none is left in part.
        secrets.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets
    }

    fn add(&mut self, text: &str) {
        if text.len() >= WORD_CHARS_MIN {
            self.0.push(Zeroizing::new(text.to_owned()));
        }
    }

    fn file(&mut self, path: &Path) {
        let Ok(bytes) = read_file(path, SMALL_FILE_BYTES_MAX).map(Zeroizing::new) else { return };
        self.add(&Zeroizing::new(hex(&bytes)));
        self.add(&Zeroizing::new(to_base64(&bytes)));
        let Ok(text) = std::str::from_utf8(&bytes) else { return };
        text.lines().map(str::trim).filter(|line| !line.starts_with("-----")).for_each(|line| self.add(line));
    }

    fn proxy(&mut self, setting: &str) {
        let Some((_, rest)) = setting.split_once("://") else { return };
        let Some((credentials, _)) = rest.rsplit_once('@') else { return };
        self.add(credentials);
        self.add(&Zeroizing::new(to_base64(credentials.as_bytes())));
        if let Some((_, password)) = credentials.split_once(':') {
            self.add(password);
        }
    }

    /// The text without them.
    pub(crate) fn scrub(&self, text: &str) -> String {
        let known = self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), MARK));
        urls(&joins(&known))
    }
}

/// Join strings, whole.
fn joins(text: &str) -> String {
    let mut parts = text.split(join::PREFIX);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_of_it = |c: char| c.is_ascii_alphanumeric() || "-_=".contains(c);
        let rest = part.trim_start_matches(is_of_it);
        // Text that only speaks of them ("picket1.…") stays.
        out.push_str(if rest.len() == part.len() { join::PREFIX } else { MARK });
        out.push_str(rest);
    }
    out
}

/// What stands before the `@` of a URL.
fn urls(text: &str) -> String {
    let mut parts = text.split("://");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("://");
        let end = part.find(|c: char| c.is_whitespace() || "/\"'<>\\".contains(c)).unwrap_or(part.len());
        let (authority, rest) = part.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => out.push_str(&format!("{MARK}@{host}")),
            None => out.push_str(authority),
        }
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn planted(secret: &str) -> Secrets {
        let mut secrets = Secrets(Vec::new());
        secrets.add(secret);
        secrets
    }

    #[test]
    fn join_strings_and_credentials_in_urls_go_whoever_wrote_them() {
        let text = "enrol with 'picket1.QUJD-_8' by http://us:p%40ss@proxy:1/x and https://host/y@z; run agent enroll 'picket1.…'";
        assert_eq!(
            Secrets(Vec::new()).scrub(text),
            "enrol with '[redacted]' by http://[redacted]@proxy:1/x and https://host/y@z; run agent enroll 'picket1.…'"
        );
    }

    #[test]
    fn keys_go_in_every_spelling() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), &dir.path().join("run"));
        std::fs::create_dir_all(layout.ledger_keys()).expect("directories");
        let key = [0xa7u8; 32];
        std::fs::write(layout.ledger_keys().join("ledger-0.key"), key).expect("a key");
        let secrets = Secrets::gather(&layout, &Config::default());
        let text = format!("{} {} rest", hex(&key), to_base64(&key));
        assert_eq!(secrets.scrub(&text), "[redacted] [redacted] rest");
    }

    proptest! {
        #[test]
        fn a_planted_secret_is_nowhere(before in "\\PC{0,40}", secret in "[A-Za-z0-9+/=]{12,60}", after in "\\PC{0,40}") {
            let text = format!("{before}{secret}{after} {secret}");
            prop_assert!(!planted(&secret).scrub(&text).contains(&secret));
        }
    }
}
