//! What the agent itself did to its host by command, for its own sensors: what they see of it is told with the command that
//! explains it, and never as somebody else's doing.
//!
//! **Promise.** An act explains what the agent did and nothing beside it: of a file the step from the content that it found to the
//! content (and the rights, where it gives any) that it left, once; of a neighbour the very hardware address that is pinned; of iptables a chain with as many rules of
//! each kind as were put; of a setting the step between two values, once. Whatever is mixed with somebody else's change stays
//! unexplained. An act is noted before it is done. Nothing of this is durable: what a crash falls between is told as any other change.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use picket_protocol::action::Mac;
use picket_protocol::finding::{Finding, Severity};
use serde_json::json;
use uuid::Uuid;

/// Acts of a kind that wait to be seen; the oldest go first, unexplained. Sensors look within seconds.
const ACTS_MAX: usize = 256;

/// SHA-256 of a file's content; none when there is no file.
pub type Digest = Option<[u8; 32]>;

/// Which commands did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// The commands, oldest first.
    pub commands: Vec<Uuid>,
    /// The action of the newest.
    pub action: &'static str,
    /// Rights that it leaves a file with; none where it leaves them as they were.
    pub leaves: Option<Rights>,
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl By {
    fn one(command: Uuid, action: &'static str) -> Self {
        Self { commands: vec![command], action, leaves: None }
    }

    /// Explains a finding: it stays in the ledger, at `info`.
    pub fn explain(&self, finding: &mut Finding) {
        let without = std::mem::replace(&mut finding.severity, Severity::Info);
        finding.explained_by = Some(self.to_string());
        finding.attack.clear();
        if let Some(evidence) = finding.evidence.as_object_mut() {
            let own =
                json!({ "commands": self.commands, "action": self.action, "severity_without": without });
            evidence.insert("own_act".to_owned(), own);
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.commands.len() == 1 { "command" } else { "commands" };
        let commands: Vec<String> = self.commands.iter().map(Uuid::to_string).collect();
        write!(f, "{word} {} ({})", commands.join(", "), self.action)
    }
}

/// A step that was made once, from one state to another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step<P, S> {
    place: P,
    before: S,
    after: S,
    by: By,
}

/// What was noted of a file, so that it can be withdrawn: with what it took the place of.
#[derive(Debug)]
pub struct Noted {
    place: PathBuf,
    /// None when nothing is left to be explained.
    own: Option<Step<PathBuf, Digest>>,
    earlier: Option<Step<PathBuf, Digest>>,
}

/// A neighbour that is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Name of the interface.
    pub interface: String,
    /// Whose address.
    pub address: IpAddr,
    /// Where it is pinned.
    pub mac: Mac,
    /// By whom.
    pub by: By,
}

/// What a chain of iptables holds, counted as the defences sensor counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainCounts {
    /// Rules.
    pub rules: u32,
    /// Of them, those that drop or reject.
    pub blocks: u32,
    /// Those that accept.
    pub accepts: u32,
}

/// Chains by table, as the sensor calls it (`ip filter`), and name.
pub type Chains = BTreeMap<(String, String), ChainCounts>;

/// Looks at a path soon.
type Look = Arc<dyn Fn(&Path) + Send + Sync>;

#[derive(Default)]
struct State {
    files: VecDeque<Step<PathBuf, Digest>>,
    settings: VecDeque<Step<&'static str, String>>,
    pins: BTreeMap<Uuid, Pinned>,
    chains: Chains,
    look: Option<Look>,
}

/// See the module; cheap to clone.
#[derive(Clone, Default)]
pub struct OwnActs(Arc<Mutex<State>>);

impl fmt::Debug for OwnActs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnActs")
    }
}

impl OwnActs {
    /// From now on `look` is called for each file that was changed: the sensor does not hear what the agent does.
    pub fn on_file(&self, look: impl Fn(&Path) + Send + Sync + 'static) {
        self.with(|state| state.look = Some(Arc::new(look)));
    }

    /// A file is about to go from one content to another, or to come, or to go.
    pub fn file(
        &self,
        command: Uuid,
        action: &'static str,
        path: &Path,
        before: Digest,
        after: Digest,
    ) -> Noted {
        self.file_by(By::one(command, action), path, before, after)
    }

    /// The same, of a file that gets these rights with its content.
    pub fn file_with_rights(
        &self,
        command: Uuid,
        action: &'static str,
        path: &Path,
        before: Digest,
        after: Digest,
        rights: Rights,
    ) -> Noted {
        let by = By { leaves: Some(rights), ..By::one(command, action) };
        self.file_by(by, path, before, after)
    }

    fn file_by(&self, by: By, path: &Path, before: Digest, after: Digest) -> Noted {
        let step = Step { place: path.to_owned(), before, after, by };
        self.with(|state| {
            let earlier = note(&mut state.files, step);
            let own = state.files.back().filter(|step| step.place == path).cloned();
            Noted { place: path.to_owned(), own, earlier }
        })
    }

    /// It was done: somebody look.
    pub fn look(&self, path: &Path) {
        let look = self.with(|state| state.look.clone());
        if let Some(look) = look {
            look(path);
        }
    }

    /// It was not done: what was noted before it explains what it did, unless a sensor has used that up meanwhile.
    pub fn withdraw_file(&self, noted: Noted) {
        let Noted { place, own, earlier } = noted;
        self.with(|state| {
            let found = state.files.iter().position(|step| step.place == place);
            let is_own = found.and_then(|at| state.files.get(at)) == own.as_ref();
            if !is_own {
                return;
            }
            found.and_then(|at| state.files.remove(at));
            state.files.extend(earlier);
        });
    }

    /// What explains that the file at `path` went from one content to another. Asked at every change of a file: what was noted of the
    /// path is used up, whether it explains this one or not. Of what came or goes, `unknown` content counts as any.
    pub fn take_file(&self, path: &Path, before: Seen, after: Seen) -> Option<By> {
        self.with(|state| {
            let at = state.files.iter().position(|step| step.place == path)?;
            let step = state.files.remove(at)?;
            // What is gone was held against its digest by who took it.
            let left = step.after.is_none() || before == Seen::of(step.before);
            (left && after == Seen::of(step.after)).then_some(step.by)
        })
    }

    /// A setting of the kernel is about to be changed.
    pub fn setting(
        &self,
        command: Uuid,
        action: &'static str,
        name: &'static str,
        before: &str,
        after: &str,
    ) {
        let by = By::one(command, action);
        let step = Step { place: name, before: before.to_owned(), after: after.to_owned(), by };
        self.with(|state| {
            let _replaced = note(&mut state.settings, step);
        });
    }

    /// What explains that a setting went from one value to another, once.
    pub fn take_setting(&self, name: &str, before: &str, after: &str) -> Option<By> {
        self.with(|state| {
            let at = state.settings.iter().position(|step| step.place == name)?;
            let step = state.settings.remove(at)?;
            (step.before == before && step.after == after).then_some(step.by)
        })
    }

    /// A neighbour is about to be pinned.
    pub fn pin(&self, command: Uuid, action: &'static str, interface: &str, address: IpAddr, mac: Mac) {
        let by = By::one(command, action);
        let pinned = Pinned { interface: interface.to_owned(), address, mac, by };
        self.with(|state| state.pins.insert(command, pinned));
    }

    /// It is not pinned any more.
    pub fn unpin(&self, command: Uuid) {
        self.with(|state| state.pins.remove(&command));
    }

    /// All pins.
    pub fn pins(&self) -> Vec<Pinned> {
        self.with(|state| state.pins.values().cloned().collect())
    }

    /// Chains of iptables are about to be put, in place of those of the same names.
    pub fn put_chains(&self, chains: Chains) {
        self.with(|state| state.chains.extend(chains));
    }

    /// All chains that were put in this run. Those that are gone from the kernel do no harm here: names are never used again.
    pub fn chains(&self) -> Chains {
        self.with(|state| state.chains.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a sensor knows of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// There is no file.
    Nothing,
    /// A file with this content.
    Digest([u8; 32]),
    /// Something of which the content is not known.
    Unknown,
}

impl Seen {
    fn of(digest: Digest) -> Self {
        digest.map_or(Self::Nothing, Self::Digest)
    }
}

/// Notes a step, and gives that of the place which it replaces. One that goes on from where the last one of the place ended is one step
/// with it, of both commands.
fn note<P: PartialEq + Clone, S: PartialEq + Clone>(
    steps: &mut VecDeque<Step<P, S>>,
    mut step: Step<P, S>,
) -> Option<Step<P, S>> {
    let replaced = steps.iter().position(|other| other.place == step.place).and_then(|at| steps.remove(at));
    if let Some(earlier) = replaced.clone().filter(|earlier| earlier.after == step.before) {
        step.before = earlier.before;
        let newer: Vec<Uuid> =
            step.by.commands.into_iter().filter(|id| !earlier.by.commands.contains(id)).collect();
        step.by.commands = earlier.by.commands.into_iter().chain(newer).collect();
        step.by.leaves = step.by.leaves.or(earlier.by.leaves);
    }
    if step.before != step.after {
        steps.push_back(step);
    }
    while steps.len() > ACTS_MAX {
        steps.pop_front();
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 32] = [1; 32];
    const B: [u8; 32] = [2; 32];
    const C: [u8; 32] = [3; 32];

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn a_file_is_explained_by_the_very_step_and_once() {
        let (acts, path) = (OwnActs::default(), Path::new("/etc/shadow"));
        let digest = Seen::Digest;
        acts.file(id(1), "freeze-account", path, Some(A), Some(B));
        assert_eq!(acts.take_file(Path::new("/etc/passwd"), digest(A), digest(B)), None);
        let by = acts.take_file(path, digest(A), digest(B)).expect("its own doing");
        assert_eq!(by.to_string(), format!("command {} (freeze-account)", id(1)));
        assert_eq!(acts.take_file(path, digest(A), digest(B)), None, "once");
        // Somebody else's change came with it, before or after.
        for (before, after) in [(C, B), (A, C)] {
            acts.file(id(1), "freeze-account", path, Some(A), Some(B));
            assert_eq!(acts.take_file(path, digest(before), digest(after)), None);
            assert_eq!(acts.take_file(path, digest(A), digest(B)), None, "and it is used up");
        }
        acts.file(id(1), "freeze-account", path, Some(A), Some(B));
        assert_eq!(acts.take_file(path, digest(A), Seen::Unknown), None);
    }

    #[test]
    fn steps_that_follow_each_other_are_one_and_a_way_and_back_is_none() {
        let (acts, path) = (OwnActs::default(), Path::new("/etc/shadow"));
        acts.file(id(1), "freeze-account", path, Some(A), Some(B));
        acts.file(id(2), "freeze-account", path, Some(B), Some(C));
        let by = acts.take_file(path, Seen::Digest(A), Seen::Digest(C)).expect("both");
        assert_eq!(by.commands, [id(1), id(2)]);
        acts.file(id(1), "freeze-account", path, Some(A), Some(B));
        acts.file(id(1), "freeze-account", path, Some(B), Some(A));
        assert_eq!(acts.take_file(path, Seen::Digest(A), Seen::Digest(B)), None);
        // Somebody else wrote in between.
        acts.file(id(1), "freeze-account", path, Some(A), Some(B));
        acts.file(id(2), "freeze-account", path, Some(C), Some(A));
        assert_eq!(acts.take_file(path, Seen::Digest(A), Seen::Digest(B)), None);
    }

    #[test]
    fn what_goes_and_comes_back_is_explained() {
        let (acts, path) = (OwnActs::default(), Path::new("/tmp/evil"));
        acts.file(id(1), "quarantine-file", path, Some(A), None);
        assert!(acts.take_file(path, Seen::Unknown, Seen::Nothing).is_some(), "a large one too");
        acts.file(id(1), "quarantine-file", path, None, Some(A));
        assert_eq!(acts.take_file(path, Seen::Nothing, Seen::Digest(B)), None);
        acts.file(id(1), "quarantine-file", path, None, Some(A));
        assert!(acts.take_file(path, Seen::Nothing, Seen::Digest(A)).is_some());
        let noted = acts.file(id(1), "quarantine-file", path, Some(A), None);
        acts.withdraw_file(noted);
        assert_eq!(acts.take_file(path, Seen::Digest(A), Seen::Nothing), None);
    }

    #[test]
    fn what_was_not_done_leaves_what_was_done_before_it_explained() {
        let (acts, path) = (OwnActs::default(), Path::new("/etc/issue"));
        // It goes on from there, goes back, or has nothing to do with it.
        for (before, after) in [(B, C), (B, A), (C, A)] {
            acts.file(id(1), "restore-file", path, Some(A), Some(B));
            let noted = acts.file(id(2), "restore-file", path, Some(before), Some(after));
            acts.withdraw_file(noted);
            let by = acts.take_file(path, Seen::Digest(A), Seen::Digest(B)).expect("the first");
            assert_eq!(by.commands, [id(1)]);
        }
        // A sensor looked meanwhile: it is used up.
        acts.file(id(1), "restore-file", path, Some(A), Some(B));
        let noted = acts.file(id(2), "restore-file", path, Some(B), Some(C));
        assert_eq!(acts.take_file(path, Seen::Digest(A), Seen::Digest(B)), None);
        acts.withdraw_file(noted);
        assert_eq!(acts.take_file(path, Seen::Digest(A), Seen::Digest(B)), None);
    }

    #[test]
    fn the_rights_that_a_file_is_left_with_stay_with_what_follows() {
        let (acts, path) = (OwnActs::default(), Path::new("/etc/issue"));
        let rights = Rights { mode: 0o644, uid: 0, gid: 0 };
        acts.file_with_rights(id(1), "restore-file", path, Some(A), Some(B), rights);
        acts.file(id(2), "quarantine-file", path, Some(B), Some(C));
        let by = acts.take_file(path, Seen::Digest(A), Seen::Digest(C)).expect("both");
        assert_eq!((by.commands.len(), by.leaves), (2, Some(rights)));
    }

    #[test]
    fn what_waits_is_bounded() {
        let acts = OwnActs::default();
        for number in 0..2 * ACTS_MAX {
            acts.file(id(1), "quarantine-file", Path::new(&format!("/{number}")), Some(A), None);
        }
        assert_eq!(acts.with(|state| state.files.len()), ACTS_MAX);
    }
}
