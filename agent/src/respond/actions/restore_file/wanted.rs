//! What a finding tells of a file: what it was before, and what came after. Decides without looking at the disk.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use picket_protocol::crypto::{Hash, from_hex};
use picket_protocol::finding::{Entity, Finding, Text};
use rustix::fs::IFlags;
use serde_json::Value;

use super::super::vital;
use super::access::Access;
use crate::detect::files::subject::{self, Subject};
use crate::detect::files::{Aspect, FileEvidence, ObjectFacts};
use crate::respond::own_acts::Rights;
use crate::respond::receipt::safe;
use crate::sense::files::object::Kind;
use crate::sense::files::text::TEXT_BYTES_MAX;

/// Bytes of the digest that a finding has of a value that was too long to be kept.
const DIGEST_BYTES: usize = 16;
/// Where some distributions keep what PAM's stacks and nsswitch.conf are links to.
const AUTHSELECT: &str = "/etc/authselect";
/// What a host mounts as it boots: an older one may name a disk that is gone.
const MOUNTED: [&str; 2] = ["/etc/fstab", "/etc/crypttab"];

/// An extended attribute, as a finding tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It did not change, and is not known whole: it is as it is on the file that is there.
    Unchanged,
    /// It was this, or there was none.
    Was(Option<Vec<u8>>),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Which file.
    pub path: PathBuf,
    /// SHA-256 of what it held before.
    pub before: Hash,
    /// How many bytes that were.
    pub bytes: u64,
    /// SHA-256 of what came after; none when nothing did.
    pub after: Option<Hash>,
    /// Its mode and owner before.
    pub rights: Rights,
    /// Immutable and append-only before; none when that did not change.
    pub guards: Option<IFlags>,
    pub access_list: Told,
    pub capability: Told,
    pub label: Told,
    /// Who may do what with what came after; none when nothing did.
    pub came: Option<Access>,
    /// Of how many other objects the finding tells.
    pub others: usize,
}

impl Wanted {
    /// What the finding is about, when that can be put back.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn of(finding: &Finding) -> Result<Self, String> {
        let id = finding.id;
        if finding.drill {
            return Err(format!("finding {id} is an exercise: no file was changed"));
        }
        let about = || format!("finding {id} ({}) is not about one file", safe(&finding.rule));
        let Some(Entity::File { path }) = finding.entities.first() else { return Err(about()) };
        let path = PathBuf::from(OsString::from_vec(path.to_bytes()));
        let evidence: FileEvidence = serde_json::from_value(finding.evidence.clone()).map_err(|_| about())?;
        is_whole(&path)?;
        let shown = safe(&path.to_string_lossy());
        let (before, after) = states(&evidence, &shown)?;
        let was = digest(before).ok_or_else(|| {
            let why = before.content_note.as_deref().unwrap_or("it was not read");
            format!("what {shown} held before is not known: {}", safe(why))
        })?;
        let is = after.map(|after| {
            let why = || safe(after.content_note.as_deref().unwrap_or("it was not read"));
            digest(after).ok_or_else(|| format!("what came after in {shown} is not known: {}", why()))
        });
        let is = is.transpose()?;
        if is == Some(was) {
            return Err(format!(
                "the content of {shown} did not change; its rights are not what is put back"
            ));
        }
        let list = |name: &str| finding.evidence.get(name).and_then(Value::as_array).map_or(0, Vec::len);
        let changed = |aspect| after.is_none() || evidence.changed.contains(&aspect);
        Ok(Self {
            before: was,
            bytes: before.size,
            after: is,
            rights: rights(before)?,
            guards: changed(Aspect::Guards).then(|| guards(before)),
            access_list: told(
                changed(Aspect::AccessList),
                before.access_list.as_deref(),
                after.map(|after| after.access_list.as_deref()),
                &shown,
            )?,
            capability: told(
                changed(Aspect::Capabilities),
                before.capability.as_deref(),
                after.map(|after| after.capability.as_deref()),
                &shown,
            )?,
            label: label(changed(Aspect::Label), before),
            came: after.map(Access::told).transpose()?,
            others: list("also") + list("objects"),
            path,
        })
    }

    /// The path, to be shown.
    pub fn shown(&self) -> String {
        safe(&self.path.to_string_lossy())
    }

    /// Whether that file may be put back by command at all, by what it is for.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn may_go_back(&self, finding: &Finding) -> Result<(), String> {
        let shown = self.shown();
        if finding.evidence.get("agent_part").is_some() {
            return Err(format!("{shown} is one of the agent's own files"));
        }
        match Subject::of(&self.path) {
            Subject::Passwd | Subject::Shadow | Subject::Group | Subject::Gshadow | Subject::PasswordCopy => {
                return Err(format!(
                    "{shown} says who may log in, and as it was before it may let in whom its owner has shut out: freeze-account"
                ));
            }
            Subject::Boot => return Err(format!("{shown} is what the host boots by: mend it in place")),
            _ if MOUNTED.iter().any(|path| self.path == Path::new(path)) => {
                return Err(format!("{shown} is what the host boots by: mend it in place"));
            }
            _ => {}
        }
        let own = finding.evidence.get("own_act").is_some();
        match finding.explained_by.as_deref().filter(|_| !own && self.is_for_login()) {
            Some(cause) => Err(format!(
                "nobody could log in, or the host not boot, if {shown} did not fit it, and the change is explained by {}: mend it in place",
                safe(cause)
            )),
            None => Ok(()),
        }
    }

    fn is_for_login(&self) -> bool {
        let subject = Subject::of(&self.path);
        vital::is_named(&self.path)
            || matches!(subject, Subject::Pam | Subject::SshdConfig | Subject::NameSwitch)
            || self.path.starts_with(AUTHSELECT)
    }

    /// Why there is no before-image, when there is none.
    pub fn missing_image(&self) -> String {
        let shown = self.shown();
        if !subject::keeps_text(&self.path) {
            return format!(
                "no before-image was kept of {shown}: the file sensor keeps those of configuration, and not of pages, programs and keys"
            );
        }
        if usize::try_from(self.bytes).map_or(true, |bytes| bytes > TEXT_BYTES_MAX) {
            let bytes = self.bytes;
            return format!(
                "no before-image was kept of {shown}: it had {bytes} bytes, and up to {TEXT_BYTES_MAX} are kept"
            );
        }
        format!(
            "no before-image of {shown} is kept any more: it was evicted by newer ones, or was no text, or its key (images.key) is gone"
        )
    }
}

/// Both states, of a regular file before and of one, or none, after.
fn states<'a>(
    evidence: &'a FileEvidence,
    shown: &str,
) -> Result<(&'a ObjectFacts, Option<&'a ObjectFacts>), String> {
    let Some(before) = &evidence.before else {
        return Err(format!("there was no {shown} before: quarantine-file takes away what came"));
    };
    if evidence.after.is_some() && evidence.fact == "file.moved" {
        return Err(format!("{shown} was moved there: what was known of it before is of another place"));
    }
    if before.kind != Kind::File {
        return Err(format!("{shown} was a {} before, and no regular file", before.kind.noun()));
    }
    if let Some(after) = evidence.after.as_ref().filter(|after| after.kind != Kind::File) {
        return Err(format!(
            "a {} came after in place of {shown}: only a regular file is replaced",
            after.kind.noun()
        ));
    }
    Ok((before, evidence.after.as_ref()))
}

fn digest(facts: &ObjectFacts) -> Option<Hash> {
    from_hex(facts.sha256.as_deref()?)?.try_into().ok()
}

pub(super) fn rights(facts: &ObjectFacts) -> Result<Rights, String> {
    let mode = u32::from_str_radix(&facts.mode, 8).ok().filter(|mode| *mode <= 0o7777);
    let mode = mode.ok_or_else(|| format!("the finding's mode {} is none", safe(&facts.mode)))?;
    Ok(Rights { mode, uid: facts.uid, gid: facts.gid })
}

pub(super) fn guards(facts: &ObjectFacts) -> IFlags {
    let has = |name: &str, flag| {
        if facts.guards.iter().any(|guard| guard == name) { flag } else { IFlags::empty() }
    };
    has("immutable", IFlags::IMMUTABLE) | has("append-only", IFlags::APPEND)
}

/// What an attribute was, and is by `after`, where anything came.
fn told(changed: bool, was: Option<&str>, after: Option<Option<&str>>, shown: &str) -> Result<Told, String> {
    // Nobody could read it before.
    if !changed && after != Some(was) {
        return Ok(Told::Unchanged);
    }
    let Some(was) = was else { return Ok(Told::Was(None)) };
    let value = from_hex(was).filter(|value| value.len() != DIGEST_BYTES);
    if value.is_none() && !changed {
        return Ok(Told::Unchanged);
    }
    let value = value.ok_or_else(|| {
        format!("the access list of {shown} before was too long to be kept, and without it the file would be open to others: mend it in place")
    })?;
    Ok(Told::Was(Some(value)))
}

/// A label that was too long to be kept is not known.
fn label(changed: bool, before: &ObjectFacts) -> Told {
    if !changed {
        return Told::Unchanged;
    }
    let was = before.label.as_ref().map(Text::to_bytes);
    Told::Was(was.filter(|label| !label.is_empty() && label.iter().all(u8::is_ascii_graphic)))
}

/// A path that has one form only.
fn is_whole(path: &Path) -> Result<(), String> {
    let mut parts = path.components();
    let absolute = parts.next() == Some(Component::RootDir);
    let plain = parts.clone().count() > 0 && parts.all(|part| matches!(part, Component::Normal(_)));
    if absolute && plain {
        Ok(())
    } else {
        Err(format!("{} is no path of a file", safe(&path.to_string_lossy())))
    }
}
