//! What may be done about a directory that keeps the file sensor busy. Pure.
//!
//! Nothing is suggested that would blind the agent where changes matter: there the one who writes is to be quietened.

use std::path::Path;

use picket_protocol::finding::Severity;

use crate::detect::files::Class;
use crate::sense::files::spending::{Noisy, Spent};

/// Fewer events and looks cost nothing that anybody would notice.
const BUSY_MIN: u64 = 1_000;
/// Files of this mean size make the reading dear, not the events.
const LARGE_BYTES: u64 = 4 * 1024 * 1024;
/// Where nothing is excluded: what runs, what decides, and who may.
const GUARDED: &[&str] = &[
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/boot",
    "/root",
    "/opt",
    "/var/spool/cron",
];
/// Where package managers keep their books.
const BOOKS: &[&str] =
    &["/var/lib/dpkg", "/var/lib/apt", "/var/lib/rpm", "/var/cache/apt", "/var/cache/dnf", "/var/lib/dnf"];

/// One sentence for a person.
pub fn suggestion(noisy: &Noisy) -> String {
    let Spent { events, looks, findings, files_read, bytes_read, .. } = noisy.spent;
    let subject = noisy.file.as_deref().unwrap_or(&noisy.path);
    let under = |places: &[&str]| places.iter().any(|place| noisy.path.starts_with(place));
    let large = bytes_read.checked_div(files_read).is_some_and(|mean| mean >= LARGE_BYTES);
    if events.saturating_add(looks) < BUSY_MIN && !large {
        return "little: nothing to do".to_owned();
    }
    if under(BOOKS) {
        return "a package manager's books, busy while it works: nothing to do".to_owned();
    }
    if Class::of(subject) == Class::Logs || noisy.path.starts_with("/var/log") {
        return format!("a log: name it in files.logs, where growth is free; or {}", exclude(noisy));
    }
    if under(GUARDED) || Class::of(subject).severity() >= Severity::Medium {
        return if findings > 0 {
            "what changes here matters: have it come by packages, or declare the work (agent window open --for 1h --reason …)"
        } else {
            "written again and again without becoming another: find who writes (agent findings, lsof) and have it write only what changes"
        }
        .to_owned();
    }
    if large {
        return format!("large files that change: lower files.hash_bytes_max, or {}", exclude(noisy));
    }
    if findings > 0 {
        return format!(
            "if this is planned, declare it (agent window open --for 1h --reason …); if it never matters, {}",
            exclude(noisy)
        );
    }
    exclude(noisy)
}

/// The glob to add; a name that is no text has none.
fn exclude(noisy: &Noisy) -> String {
    let (path, beneath) = match &noisy.file {
        Some(file) => (file.as_path(), ""),
        None => (noisy.path.as_path(), "/**"),
    };
    match glob(path, beneath) {
        Some(glob) => format!("add to files.exclude: {glob}"),
        None => "exclude a directory above (the name is no text)".to_owned(),
    }
}

fn glob(path: &Path, beneath: &str) -> Option<String> {
    let escaped = crate::glob::escape(path.to_str()?);
    // A string of TOML may be written as one of JSON.
    serde_json::to_string(&format!("{escaped}{beneath}")).ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn check(path: &str, file: Option<&str>, spent: Spent, expected: &str) {
        let noisy = Noisy { path: PathBuf::from(path), file: file.map(PathBuf::from), spent };
        let said = suggestion(&noisy);
        assert!(said.contains(expected), "{path}: {said}");
    }

    #[test]
    fn each_kind_of_noise_has_its_remedy_and_nothing_that_matters_is_excluded() {
        let busy = Spent { events: 50_000, looks: 900, ..Spent::default() };
        let telling = Spent { findings: 7, ..busy };
        let large = Spent { files_read: 3, bytes_read: 3 << 30, looks: 3, ..Spent::default() };
        check("/srv/app", None, Spent { events: 3, ..Spent::default() }, "nothing to do");
        check("/srv/app/cache", None, busy, "add to files.exclude: \"/srv/app/cache/**\"");
        check("/srv/app", Some("/srv/app/state.json"), busy, "add to files.exclude: \"/srv/app/state.json\"");
        check("/srv/[a]", None, busy, "\"/srv/[[]a[]]/**\"");
        check("/srv/app", None, telling, "agent window open");
        check("/srv/images", None, large, "hash_bytes_max");
        check("/var/log/app", None, busy, "files.logs");
        check("/var/lib/dpkg", None, busy, "a package manager's books");
        for matters in ["/etc/app", "/usr/lib/app", "/root/.ssh", "/home/a/.ssh", "/var/spool/cron/crontabs"]
        {
            for spent in [busy, telling] {
                let file = format!("{matters}/authorized_keys");
                let noisy = Noisy { path: PathBuf::from(matters), file: Some(PathBuf::from(&file)), spent };
                assert!(!suggestion(&noisy).contains("exclude"), "{matters}: {}", suggestion(&noisy));
            }
        }
        let odd: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(b"/srv/\xff".to_vec());
        let noisy = Noisy { path: PathBuf::from(odd), file: None, spent: busy };
        assert!(suggestion(&noisy).contains("no text"));
    }
}
