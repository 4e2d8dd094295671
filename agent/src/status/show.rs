//! One finding in full, with the diff of the text that it is about, as far as the before-images reach.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use picket_protocol::crypto::{Hash, from_hex};
use picket_protocol::finding::{Entity, Finding};
use picket_protocol::record::Record;
use serde_json::Value;

use crate::detect::files::diff::{Diff, Lines, unified};
use crate::detect::files::subject::{self, Subject};
use crate::detect::files::{FileEvidence, ObjectFacts};
use crate::layout::Layout;
use crate::ledger::{KeptRecord, Reader};
use crate::sense::files::images::Images;

/// Characters of a finding's id that must be given at least.
pub const ID_CHARS_MIN: usize = 4;
/// Bytes of a diff that is asked for: the longest texts, both replaced.
const DIFF_BYTES_MAX: usize = 256 * 1024;

/// What `agent show` is told.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Shown {
    /// The sealed record.
    pub record: Value,
    /// What differs in the text, where that was asked for and is known. Secrets are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<Diff>,
    /// Why there is no diff, or not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_note: Option<String>,
}

/// Finds the finding that `id` names: its whole id, or the beginning or end of it.
///
/// # Errors
/// A sentence for a person: no such finding, several, or nothing can be read.
pub fn show(layout: &Layout, id: &str, diff: bool) -> Result<Shown, String> {
    let id = id.trim().to_ascii_lowercase();
    if id.len() < ID_CHARS_MIN || !id.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
        return Err(format!("not the id of a finding: give {ID_CHARS_MIN} or more of its characters"));
    }
    let reader = Reader::open(&layout.database()).map_err(|error| error.to_string())?;
    let found = reader.findings_named(&id, 2).map_err(|error| error.to_string())?;
    let record = match found.as_slice() {
        [] => return Err(format!("no finding has the id {id}, or its bytes are no longer kept")),
        [record] => record,
        _ => return Err(format!("several findings have {id} in their id: give more of it")),
    };
    let finding = finding_of(record).ok_or("the record is damaged")?;
    let record = serde_json::from_slice(&record.bytes).map_err(|error| error.to_string())?;
    let (diff, diff_note) = if diff { difference(layout, &finding) } else { (None, None) };
    Ok(Shown { record, diff, diff_note })
}

fn finding_of(record: &KeptRecord) -> Option<Finding> {
    Record::parse(&record.bytes).ok()?.body::<Finding>().ok()
}

/// The diff from the before-images, whole; where they are gone the one that was sealed with the finding.
fn difference(layout: &Layout, finding: &Finding) -> (Option<Diff>, Option<String>) {
    let note = |text: &str| (None, Some(text.to_owned()));
    let Ok(evidence) = serde_json::from_value::<FileEvidence>(finding.evidence.clone()) else {
        return note("this finding is not about one file");
    };
    let Some(Entity::File { path }) = finding.entities.first() else { return note("it names no file") };
    let bytes = path.to_bytes();
    let path = Path::new(OsStr::from_bytes(&bytes));
    if !subject::keeps_text(path) {
        return note("the text of such a file is not kept");
    }
    if let Ok(images) = Images::open_existing(&layout.database()) {
        let before = image(&images, evidence.before.as_ref()).filter(|_| evidence.fact != "file.moved");
        let after = image(&images, evidence.after.as_ref());
        let fresh = evidence.before.is_none() || evidence.fact == "file.moved";
        let before = if fresh { Some(String::new()) } else { before };
        let after = if evidence.after.is_none() { Some(String::new()) } else { after };
        if let (Some(before), Some(after)) = (before, after) {
            let subject = Subject::of(path);
            let (before, after) = (Lines::new(subject, &before), Lines::new(subject, &after));
            return (Some(unified(&before, &after, DIFF_BYTES_MAX)), None);
        }
    }
    let why = evidence.diff_note.unwrap_or_else(|| "what it held is no longer kept".to_owned());
    let cut = evidence.diff.as_ref().is_none_or(|diff| diff.cut);
    (evidence.diff, cut.then_some(why))
}

fn image(images: &Images, facts: Option<&ObjectFacts>) -> Option<String> {
    let hash: Hash = from_hex(facts?.sha256.as_deref()?)?.try_into().ok()?;
    Some(String::from_utf8_lossy(&images.get(&hash)?).into_owned())
}
