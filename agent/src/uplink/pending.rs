//! A join string that waits: the collector could not be reached when the host was to be enrolled, and the running agent goes on
//! trying until it is, or is refused for good.
//!
//! **Promise.** The string is kept durably before the collector is asked for the first time, so that no crash loses it, in a file
//! of root's alone, and stands in no log. It goes when the host is enrolled by whatever way, when the collector will never take
//! it, and when somebody gives another one or retires the agent.
//!
//! `join.pending`, at most [`SMALL_FILE_BYTES_MAX`]: the join string as it was given; a new line; JSON of
//! `{hostname, since, tried, reason}`. `join.refused`: JSON, [`Refused`]; it holds no secret.

use std::io;
use std::os::unix::fs::MetadataExt as _;

use picket_protocol::finding::printable;
use picket_protocol::join::Join;
use picket_protocol::time::Timestamp;
use zeroize::Zeroizing;

use crate::layout::{Layout, SMALL_FILE_BYTES_MAX, read_file, remove_written, write_durably};

/// Longest reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 1_000;

/// What waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The join string.
    pub join: Join,
    /// All else.
    pub note: Note,
}

/// What is known beside the join string.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Note {
    /// The host's name as the vendor will see it, where it is not to be the system's.
    pub hostname: Option<String>,
    /// Since when it waits.
    pub since: Timestamp,
    /// When whoever gave it tried it; none before.
    pub tried: Option<Timestamp>,
    /// What came of that.
    pub reason: String,
}

/// Why a join string waits no more although the host is not enrolled.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Refused {
    /// The collector's address, where it could be read.
    pub address: String,
    /// When it was given up.
    pub time: Timestamp,
    /// Why.
    pub reason: String,
}

/// How a join string fares that was to wait; in `agent status`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JoinReport {
    /// Whether it still waits; else it was given up.
    pub waits: bool,
    /// The collector's address.
    pub address: String,
    /// When the collector was last tried; none before the first time.
    pub last_try: Option<Timestamp>,
    /// What came of that.
    pub reason: String,
    /// When it is tried next; none while it is being tried, and where no agent runs.
    pub next_try: Option<Timestamp>,
}

/// A time to the second.
fn second(time: Timestamp) -> String {
    let text = time.to_string();
    text.get(..19).map_or(text.clone(), |text| format!("{}Z", text.replace('T', " ")))
}

impl JoinReport {
    /// How it fares at `now`, in a sentence.
    pub fn sentence(&self, now: Timestamp) -> String {
        let tried = self.last_try.map(second);
        if !self.waits {
            let tried = tried.map_or(String::new(), |time| format!(" at {time}"));
            return format!(
                "not enrolled: the join string was given up{tried}: {} (agent enroll takes another one)",
                self.reason
            );
        }
        let last = match tried {
            Some(time) => format!("; last try {time}: {}", self.reason),
            // Before the first try, or with a file that cannot be read.
            None if self.reason.is_empty() => String::new(),
            None => format!(": {}", self.reason),
        };
        let next =
            self.next_try.map_or(String::new(), |time| format!("; next in {} s", time.since(now).as_secs()));
        format!("not enrolled yet: the join string waits{last}{next}")
    }
}

/// Which file it is: another one when somebody wrote it anew.
pub type Stamp = (u64, i64, i64);

/// Which file waits now.
pub fn stamp(layout: &Layout) -> Option<Stamp> {
    let found = std::fs::symlink_metadata(layout.join_pending()).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec()))
}

/// `reason`, fit to be kept and shown.
fn shown(reason: &str) -> String {
    printable(reason.get(..reason.floor_char_boundary(REASON_BYTES_MAX)).unwrap_or_default()).into_owned()
}

impl Pending {
    /// A join string that has not been tried.
    pub fn new(join: Join, hostname: Option<String>, now: Timestamp) -> Self {
        Self { join, note: Note { hostname, since: now, tried: None, reason: String::new() } }
    }

    /// What waits, if anything does.
    ///
    /// # Errors
    /// It cannot be read, or is not what [`Pending::keep`] wrote.
    pub fn load(layout: &Layout) -> io::Result<Option<Self>> {
        let bytes = match read_file(&layout.join_pending(), SMALL_FILE_BYTES_MAX) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (join, note) = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.split_once('\n'))
            .ok_or_else(|| damaged("it has no second line"))?;
        let join = Join::parse(join).map_err(damaged)?;
        let note = serde_json::from_str(note).map_err(damaged)?;
        Ok(Some(Self { join, note }))
    }

    /// Keeps it, durably.
    ///
    /// # Errors
    /// What the disk says; what was there before stays then.
    pub fn keep(&self, layout: &Layout) -> io::Result<()> {
        let join = self.join.to_text().map(Zeroizing::new).map_err(damaged)?;
        let note = serde_json::to_string(&self.note)?;
        // Large enough from the start: a buffer that grows leaves copies of the string behind.
        let mut text = Zeroizing::new(String::with_capacity(join.len() + note.len() + 2));
        text.extend([&join, "\n", &note, "\n"]);
        write_durably(&layout.join_pending(), text.as_bytes(), 0o600)
    }

    /// The same after it was tried in vain.
    pub fn tried(self, now: Timestamp, reason: &str) -> Self {
        Self { note: Note { tried: Some(now), reason: shown(reason), ..self.note }, ..self }
    }
}

fn damaged(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("join.pending is damaged: {why}"))
}

/// Nothing waits any more, nor was anything given up.
///
/// # Errors
/// A file is there and cannot be removed.
pub fn forget(layout: &Layout) -> io::Result<()> {
    remove_written(&layout.join_pending())?;
    remove_written(&layout.join_refused())
}

/// Another join string than `join` waits no more: somebody gave this one.
///
/// # Errors
/// It cannot be removed.
pub fn supersede(layout: &Layout, join: &Join) -> io::Result<()> {
    match Pending::load(layout) {
        Ok(None) => Ok(()),
        Ok(Some(pending)) if pending.join == *join => Ok(()),
        _ => remove_written(&layout.join_pending()),
    }
}

/// What waits will never be taken. The reason stays.
///
/// # Errors
/// What the disk says; it waits on then.
pub fn refuse(layout: &Layout, address: &str, reason: &str, now: Timestamp) -> io::Result<()> {
    let refused = Refused { address: address.to_owned(), time: now, reason: shown(reason) };
    write_durably(&layout.join_refused(), &serde_json::to_vec(&refused)?, 0o600)?;
    remove_written(&layout.join_pending())
}

/// How it fares, as the files say; none when nothing waits and nothing was given up.
pub fn look(layout: &Layout) -> Option<JoinReport> {
    match Pending::load(layout) {
        Ok(Some(Pending { join, note })) => {
            let (last_try, reason) = (note.tried, note.reason);
            return Some(JoinReport { waits: true, address: join.address, last_try, reason, next_try: None });
        }
        Ok(None) => {}
        Err(error) => {
            let (address, reason) = (String::new(), error.to_string());
            return Some(JoinReport { waits: true, address, last_try: None, reason, next_try: None });
        }
    }
    let bytes = read_file(&layout.join_refused(), SMALL_FILE_BYTES_MAX).ok()?;
    let refused: Refused = serde_json::from_slice(&bytes).ok()?;
    Some(JoinReport {
        waits: false,
        address: refused.address,
        last_try: Some(refused.time),
        reason: refused.reason,
        next_try: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(token: u8) -> Join {
        let address = "collector.example:8443".to_owned();
        Join { address, token: Zeroizing::new([token; 32]), ca: [3; 32], trust_root: None }
    }

    fn place() -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::new(&directory.path().join("state"), &directory.path().join("run"));
        std::fs::create_dir_all(layout.core()).expect("core directory");
        (directory, layout)
    }

    #[test]
    fn what_waits_is_roots_alone_and_comes_back_as_it_was() {
        let (_directory, layout) = place();
        assert_eq!((Pending::load(&layout).expect("nothing"), stamp(&layout)), (None, None));
        let now = Timestamp::from_seconds(1_800_000_000);
        let pending =
            Pending::new(join(7), Some("web-1".to_owned()), now).tried(now, "no\nroute\u{1b}[31m to it");
        pending.keep(&layout).expect("kept");
        assert_eq!(Pending::load(&layout).expect("read"), Some(pending));
        let mode = std::fs::metadata(layout.join_pending()).expect("a file").mode();
        assert_eq!(mode & 0o7777, 0o600);
        let report = look(&layout).expect("it waits");
        assert!(
            report.waits && report.last_try == Some(now) && !report.reason.contains('\u{1b}'),
            "{report:?}"
        );
        let first = stamp(&layout);
        Pending::new(join(7), None, now).keep(&layout).expect("kept again");
        assert_ne!(stamp(&layout), first, "it is another file");
    }

    #[test]
    fn another_join_string_takes_its_place_and_the_same_one_does_not() {
        let (_directory, layout) = place();
        let now = Timestamp::from_seconds(1_800_000_000);
        Pending::new(join(7), None, now).keep(&layout).expect("kept");
        supersede(&layout, &join(7)).expect("the same");
        assert!(stamp(&layout).is_some());
        supersede(&layout, &join(8)).expect("another");
        assert!(stamp(&layout).is_none());
    }

    #[test]
    fn what_was_given_up_says_why_and_holds_no_secret() {
        let (_directory, layout) = place();
        let now = Timestamp::from_seconds(1_800_000_000);
        let pending = Pending::new(join(7), None, now);
        pending.keep(&layout).expect("kept");
        refuse(&layout, "collector.example:8443", "this token was used", now).expect("given up");
        assert!(stamp(&layout).is_none());
        let kept = std::fs::read_to_string(layout.join_refused()).expect("the reason");
        assert!(kept.contains("this token was used") && !kept.contains("picket1."), "{kept}");
        assert!(look(&layout).is_some_and(|report| !report.waits));
        forget(&layout).expect("forgotten");
        assert_eq!(look(&layout), None);
    }

    #[test]
    fn a_damaged_file_is_told() {
        let (_directory, layout) = place();
        for text in ["", "picket1.AAAA\n{}\n", "nonsense"] {
            std::fs::write(layout.join_pending(), text).expect("written");
            let error = Pending::load(&layout).expect_err("damaged").to_string();
            assert!(error.contains("is damaged"), "{error}");
        }
    }
}
