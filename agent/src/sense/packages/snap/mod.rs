//! snapd's database: `state.json` says which revision of each snap is in use, and the store's assertions which digest
//! the image of each revision has.
//!
//! A snap is one image (`snaps/NAME_REVISION.snap`, squashfs) that is mounted as it is, and a few units of systemd that snapd
//! generates. The image is as packaged when its SHA3-384 is the one that the `snap-revision` assertion of this snap and
//! revision names; units are judged by what they say (`unit`). An image without an assertion, which somebody installed by
//! `--dangerous`, is in no store: it is told like any other file. Formats: snapd's documentation of assertions, and
//! `overlord/state` of its sources for `state.json`.
//!
//! **Limits.** The signatures of assertions are not checked: like dpkg's digests they lie in a directory that only root
//! may write to. snapd holds its lock for as long as it lives, so that it is taken to be at work while a change that it
//! recorded is not ready, but for no longer than [`WORK_MAX`] after its last word: one can wait for the next boot.

mod unit;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::crypto::{from_base64, sha256};
use picket_protocol::time::Timestamp;
use rustix::fs::statfs;
use serde::Deserialize;

use super::database::{Database, Holder};
use super::known::{Fact, Known, Paths, Recorded};
use super::place::{self, changed_at};
use super::question::{Expected, Question};
use crate::clock;
use crate::detect::packages::proof::{Manager, PackageId};

/// A change of snapd's that is not ready makes others wait for so long after its last word.
pub const WORK_MAX: Duration = Duration::from_secs(45);
/// Longest `state.json`.
const STATE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Longest assertion, and longest unit.
const TEXT_BYTES_MAX: u64 = 64 * 1024;
/// Entries of a directory that are looked at.
const ENTRIES_MAX: usize = 8_192;
/// Where images and units are, as the host names them.
const IMAGES: &str = "/var/lib/snapd/snaps";
const UNITS: &str = "/etc/systemd/system";
const STATE: &str = "state.json";
/// `SQUASHFS_MAGIC` of `linux/magic.h`: such a file system cannot be written to.
const SQUASHFS: u64 = 0x7371_7368;

/// A SHA3-384 digest.
pub type Sha3 = [u8; 48];

/// The database below a root.
#[derive(Debug)]
pub struct Snap {
    root: PathBuf,
    directory: PathBuf,
    state: RefCell<(Option<Stamp>, State)>,
    recorded: Vec<Recorded>,
}

/// Time of the last change, inode and size of `state.json`: snapd may replace it twice within one tick of the kernel's clock.
type Stamp = (Timestamp, u64, u64);

/// What is needed of `state.json`.
#[derive(Clone, Debug, Default)]
struct State {
    /// The snaps in use.
    snaps: BTreeMap<String, InUse>,
    /// A change is not ready.
    working: bool,
}

#[derive(Clone, Debug, Default)]
struct InUse {
    revision: String,
    /// All that are kept.
    revisions: Vec<String>,
    /// The store's number; none of a local one.
    id: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StateFile {
    data: Data,
    changes: BTreeMap<String, Change>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Data {
    snaps: BTreeMap<String, SnapState>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SnapState {
    sequence: Vec<Step>,
    active: bool,
    current: String,
}

/// Newer versions wrap what older ones wrote by itself.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Step {
    snap: Option<Box<Step>>,
    snap_id: Option<String>,
    revision: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Change {
    ready_time: Option<String>,
}

impl State {
    /// Of the file's text; nothing when it is not what snapd writes.
    fn parse(text: &[u8]) -> Self {
        let Ok(file) = serde_json::from_slice::<StateFile>(text) else { return Self::default() };
        let working = file.changes.values().any(|change| change.ready_time.is_none());
        let used = file.data.snaps.into_iter().filter(|(_, snap)| snap.active && !snap.current.is_empty());
        let snaps = used.map(|(name, snap)| {
            let unwrapped = |mut step: Step| step.snap.take().map_or(step, |wrapped| *wrapped);
            let steps: Vec<Step> = snap.sequence.into_iter().map(unwrapped).collect();
            let id = steps.last().and_then(|step| step.snap_id.clone()).filter(|id| !id.is_empty());
            let revisions = steps.into_iter().map(|step| step.revision).collect();
            (name, InUse { revision: snap.current, revisions, id })
        });
        Self { snaps: snaps.collect(), working }
    }
}

impl Snap {
    /// The database below `root`, where snapd is.
    pub fn find(root: &Path) -> Option<Self> {
        let directory = root.join("var/lib/snapd");
        let is_there = directory.join("snaps").is_dir();
        is_there.then(|| Self {
            root: root.to_path_buf(),
            directory,
            state: RefCell::default(),
            recorded: Vec::new(),
        })
    }

    /// What `state.json` says now; it is read again when it changed.
    fn state(&self) -> State {
        let path = self.directory.join(STATE);
        let stamp = changed_at(&path)
            .zip(path.symlink_metadata().ok())
            .map(|(at, metadata)| (at, metadata.ino(), metadata.size()));
        let mut kept = self.state.borrow_mut();
        if kept.0 != stamp || stamp.is_none() {
            *kept = (stamp, State::parse(&place::read(&path, STATE_BYTES_MAX)));
        }
        kept.1.clone()
    }

    fn package(name: &str) -> PackageId {
        PackageId { manager: Manager::Snap, name: name.to_owned(), architecture: String::new() }
    }

    /// The digest that the store's assertion names for a revision of a snap.
    fn asserted(&self, id: &str, revision: &str) -> Option<Sha3> {
        let above = self.directory.join("assertions/asserts-v0/snap-revision");
        entries(&above).find_map(|directory| {
            // Another format of the same assertion has a number at its end.
            let file = entries(&directory)
                .find(|file| file.file_name().is_some_and(|name| name.as_bytes().starts_with(b"active")))?;
            let text = place::read(&file, TEXT_BYTES_MAX);
            let headers = headers(&text);
            let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| *found == value);
            let is_it = is("type", "snap-revision") && is("snap-id", id) && is("snap-revision", revision);
            headers.get("snap-sha3-384").filter(|_| is_it).and_then(|digest| decoded(digest))
        })
    }

    /// What the object is to a snap, by its name.
    fn claim_of(&self, name: &[u8], state: &State) -> Option<(PackageId, Option<Expected>)> {
        let path = std::str::from_utf8(name).ok()?;
        let (above, file) = path.rsplit_once('/')?;
        match above {
            IMAGES => {
                let (snap, revision) = image(file)?;
                // What snapd keeps no more is no part of the snap.
                let kept = |used: &&InUse| used.revisions.iter().any(|kept| kept == revision);
                let used = state.snaps.get(snap).filter(kept)?;
                let digest = used.id.as_ref().and_then(|id| self.asserted(id, revision)).map(Expected::Sha3);
                Some((Self::package(snap), digest))
            }
            UNITS => {
                let text = place::read(&self.root.join(path.strip_prefix('/')?), TEXT_BYTES_MAX);
                let snap = unit::owner(file, &text).filter(|_| !text.is_empty())?;
                state.snaps.get(snap)?;
                Some((Self::package(snap), Some(Expected::Sha256(sha256(&[&text])))))
            }
            _ => None,
        }
    }

    /// Images and units of a snap, in all revisions that are there.
    fn names(&self, name: &str) -> Vec<Vec<u8>> {
        let below = |above: &str| self.root.join(above.trim_start_matches('/'));
        let own = |above: &'static str, is_own: &dyn Fn(&str) -> bool| -> Vec<Vec<u8>> {
            entries(&below(above))
                .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
                .filter(|file| is_own(file))
                .map(|file| format!("{above}/{file}").into_bytes())
                .collect()
        };
        let mut names = own(IMAGES, &|file| image(file).is_some_and(|(snap, _)| snap == name));
        let units = own(UNITS, &|file| unit::names(file, name));
        let wants = [
            "multi-user.target.wants",
            "snapd.mounts.target.wants",
            "sockets.target.wants",
            "timers.target.wants",
            "default.target.wants",
        ];
        for wants in wants {
            let links = units.iter().filter_map(|unit| {
                let file = std::str::from_utf8(unit).ok()?.rsplit_once('/')?.1;
                let link = format!("{UNITS}/{wants}/{file}");
                place::is_there(&below(&link)).then(|| link.into_bytes())
            });
            names.extend(links.collect::<Vec<_>>());
        }
        names.extend(units);
        names
    }
}

impl Database for Snap {
    fn manager(&self) -> Manager {
        Manager::Snap
    }

    fn watched(&self) -> Option<PathBuf> {
        Some(self.directory.clone())
    }

    fn is_own(&self, name: &[u8]) -> bool {
        name == STATE.as_bytes()
    }

    fn is_busy(&self) -> bool {
        let since = clock::now().since(self.changed());
        self.state().working && since < WORK_MAX
    }

    fn changed(&self) -> Timestamp {
        let at = |name: &str| changed_at(&self.directory.join(name)).unwrap_or_default();
        at(STATE).max(at("snaps"))
    }

    fn read(&mut self, known: &Known, _anew: bool) -> rusqlite::Result<()> {
        let mut before = known.all(Manager::Snap)?;
        before.remove(&(String::new(), String::new()));
        let mut recorded = Vec::new();
        for (name, used) in self.state().snaps {
            let file = self.directory.join("snaps").join(format!("{name}_{}.snap", used.revision));
            let at = changed_at(&file).unwrap_or_default();
            let now =
                Fact { version: used.revision, installed: true, incomplete: false, recorded: at.nanos() };
            let was = before.remove(&(name.clone(), String::new()));
            recorded.extend(Recorded::new(Self::package(&name), was, now));
        }
        recorded
            .extend(before.into_iter().map(|((name, _), fact)| Recorded::purged(Self::package(&name), fact)));
        self.recorded = recorded;
        Ok(())
    }

    fn recorded(&self) -> Vec<&Recorded> {
        self.recorded.iter().collect()
    }

    /// What lies in a mounted image. The image was judged when it came; what is mounted cannot be written to.
    fn holder(&self, path: &Path, _names: &[Vec<u8>]) -> Option<Holder> {
        let (snap, revision) = mounted_from(path.strip_prefix(&self.root).ok()?)?;
        let state = self.state();
        let used = state.snaps.get(snap)?;
        let is_kept = used.revisions.iter().any(|kept| kept == revision);
        let is_image = statfs(path).is_ok_and(|system| u64::try_from(system.f_type) == Ok(SQUASHFS));
        (is_kept && is_image).then(|| Holder { package: format!("{snap} {revision}"), as_packaged: None })
    }

    fn may_be_empty(&self) -> bool {
        true
    }

    fn paths(&self, package: &PackageId) -> Paths {
        let names = self.names(&package.name);
        Paths::of(package, names.iter().map(Vec::as_slice))
    }

    fn claim(&self, questions: &mut [Question<'_>]) {
        if questions.is_empty() {
            return;
        }
        let state = self.state();
        for question in questions.iter_mut().filter(|question| question.claim.is_none()) {
            let claim = question.names.iter().find_map(|name| self.claim_of(name, &state));
            if let Some((package, digest)) = claim {
                question.claim_as(&package, digest, None, false);
            }
        }
    }

    fn owned(&self, names: &HashSet<Vec<u8>>) -> HashMap<Vec<u8>, PackageId> {
        let state = self.state();
        let owner = |name: &Vec<u8>| {
            let (package, digest) = self.claim_of(name, &state)?;
            digest.map(|_| (name.clone(), package))
        };
        names.iter().filter_map(owner).collect()
    }
}

/// Name and revision of the snap within whose mounted image `below`, from the root on, lies.
fn mounted_from(below: &Path) -> Option<(&str, &str)> {
    let below = below.strip_prefix("var/lib/snapd").unwrap_or(below).strip_prefix("snap").ok()?;
    let mut parts = below.iter().map(std::ffi::OsStr::to_str);
    let (snap, revision) = (parts.next()??, parts.next()??);
    parts.next().is_some().then_some((snap, revision))
}

/// Name and revision of the snap whose image is called so.
fn image(file: &str) -> Option<(&str, &str)> {
    let (name, revision) = file.strip_suffix(".snap")?.rsplit_once('_')?;
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (!name.is_empty() && is_number(revision.strip_prefix('x').unwrap_or(revision)))
        .then_some((name, revision))
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().take(ENTRIES_MAX);
    entries.filter_map(Result::ok).map(|entry| entry.path())
}

/// The headers of an assertion that stand on one line each; the body and the signature follow an empty line.
fn headers(text: &[u8]) -> HashMap<&str, &str> {
    let Ok(text) = std::str::from_utf8(text) else { return HashMap::new() };
    let lines = text.lines().take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.split_once(": ")).collect()
}

/// A SHA3-384 digest in base64url without padding: its length needs none.
fn decoded(text: &str) -> Option<Sha3> {
    from_base64(&text.replace('-', "+").replace('_', "/"))?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_of_old_and_new_versions_is_read() {
        let text = br#"{"data":{"snaps":{
            "core22":{"type":"base","sequence":[{"name":"core22","snap-id":"amcUKQ","revision":"864"}],"active":true,"current":"864"},
            "lxd":{"sequence":[{"snap":{"name":"lxd","snap-id":"J60k4J","revision":"2"},"components":null}],"active":true,"current":"2"},
            "mine":{"sequence":[{"name":"mine","snap-id":"","revision":"x1"}],"active":true,"current":"x1"},
            "off":{"sequence":[{"name":"off","snap-id":"a","revision":"1"}],"current":"1"}}},
            "changes":{"7":{"kind":"refresh","ready-time":"2026-01-01T00:00:00Z"}},"tasks":{"9":{"status":0}}}"#;
        let state = State::parse(text);
        let used: Vec<_> = state
            .snaps
            .iter()
            .map(|(name, used)| (name.as_str(), used.revision.as_str(), used.id.as_deref()))
            .collect();
        assert_eq!(
            used,
            [("core22", "864", Some("amcUKQ")), ("lxd", "2", Some("J60k4J")), ("mine", "x1", None)]
        );
        assert!(!state.working);
        assert!(State::parse(br#"{"changes":{"7":{"kind":"refresh","ready-time":"t"},"8":{}}}"#).working);
    }

    #[test]
    fn a_program_is_of_the_snap_in_whose_image_it_lies() {
        let from = |path: &str| mounted_from(Path::new(path)).map(|(snap, of)| format!("{snap} {of}"));
        assert_eq!(from("snap/lxd/123/bin/lxd").as_deref(), Some("lxd 123"));
        assert_eq!(from("var/lib/snapd/snap/lxd/123/bin/lxd").as_deref(), Some("lxd 123"));
        for other in ["snap/bin/lxd", "snap/lxd/123", "usr/snap/lxd/1/x", "var/snap/lxd/1/x"] {
            assert_eq!(from(other), None, "{other}");
        }
        // Where no image is mounted, anybody may have put it.
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("var/lib/snapd/snaps")).unwrap();
        std::fs::create_dir_all(at("snap/lxd/2")).unwrap();
        std::fs::write(at("snap/lxd/2/lxd"), "x").unwrap();
        let state =
            r#"{"data":{"snaps":{"lxd":{"sequence":[{"revision":"2"}],"active":true,"current":"2"}}}}"#;
        std::fs::write(at("var/lib/snapd/state.json"), state).unwrap();
        let snap = Snap::find(root.path()).unwrap();
        assert!(snap.state().snaps.contains_key("lxd"));
        assert!(snap.holder(&at("snap/lxd/2/lxd"), &[]).is_none());
    }

    #[test]
    fn names_of_images() {
        assert_eq!(image("core22_864.snap"), Some(("core22", "864")));
        assert_eq!(image("two_one_x1.snap"), Some(("two_one", "x1")));
        for other in ["core22_864.snap.partial", "core22.snap", "_1.snap", "a_.snap", "a_x.snap", "a_1b.snap"]
        {
            assert_eq!(image(other), None, "{other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400), digest in proptest::prelude::any::<[u8; 16]>()) {
            let _ = (State::parse(&text), headers(&text));
            let whole: Sha3 = [digest, digest, digest].concat().try_into().unwrap();
            let encoded = picket_protocol::crypto::to_base64(&whole).replace('+', "-").replace('/', "_");
            proptest::prop_assert_eq!(decoded(&encoded), Some(whole));
        }
    }
}
