//! The one finding of a run: under the rule that most of its objects fall under, with all of them in its evidence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use picket_protocol::finding::{Entity, Finding, Severity, printable};
use serde_json::{Value, json};

use super::Run;
use crate::detect::acts::telling::{gather, merge};
use crate::detect::packages::transaction::{note, short};

/// Parts of a run that keep all their evidence.
pub const WHOLE_MAX: usize = 8;
/// What the objects of one finding take in its evidence, at most: 500 with paths of an ordinary length, when each has a
/// digest from before and one from after. With what is told whole it leaves a quarter of a record to the one that leads.
pub const OBJECTS_BYTES_MAX: usize = 160 * 1024;
/// The same for what is told whole beside the one that leads.
const ALSO_BYTES_MAX: usize = 32 * 1024;
const _: () =
    assert!(OBJECTS_BYTES_MAX + ALSO_BYTES_MAX <= picket_protocol::record::RECORD_BYTES_MAX / 4 * 3);
/// Packages that are named in the evidence.
const PACKAGES_MAX: usize = 200;

/// Leaves of the evidence what an object's line in the list of the run says. `usual` is the rule that a line has which
/// names none.
pub fn shorten(finding: &mut Finding, usual: &str) {
    let hand = finding.evidence.get("hand").and_then(|hand| hand.get("part")).cloned();
    finding.evidence = json!({ "object": object(finding, usual), "usual": usual, "part": hand });
    finding.entities.truncate(1);
}

/// What a shortened finding takes in the list.
pub fn listed_bytes(finding: &Finding) -> usize {
    finding.evidence.get("object").map_or(0, |object| object.to_string().len() + 2)
}

fn object(finding: &Finding, usual: &str) -> Value {
    let evidence = &finding.evidence;
    let of = |state: &str, name: &str| evidence.get(state).and_then(|state| state.get(name)).cloned();
    let mut object = serde_json::Map::new();
    if let Some(Entity::File { path }) = finding.entities.first() {
        let path = if path.bytes.is_none() { json!(path.text) } else { json!(path) };
        object.insert("path".to_owned(), path);
    }
    if finding.rule != usual {
        object.insert("rule".to_owned(), finding.rule.clone().into());
    }
    if finding.severity > Severity::Info {
        object.insert("severity".to_owned(), json!(finding.severity));
    }
    for name in ["type", "size", "mode", "sha256", "target"] {
        let value = of("after", name).filter(|value| value != "file");
        object.extend(value.map(|value| (name.to_owned(), value)));
    }
    let before = of("before", "sha256").map(|before| ("before".to_owned(), before));
    let from = evidence.get("moved_from").map(|from| ("moved_from".to_owned(), from.clone()));
    object.extend(before.into_iter().chain(from));
    Value::Object(object)
}

/// Puts the parts of a run together, of which there are several.
pub fn one(run: &Run, mut told: Vec<(PathBuf, Finding)>) -> Option<Finding> {
    let worst = told.iter().map(|(_, finding)| finding.severity).max()?;
    let rule = most_frequent(told.iter().map(|(_, finding)| finding).filter(|one| one.severity == worst))?;
    let is_whole = |finding: &Finding| finding.evidence.get("object").is_none();
    let leads = |finding: &Finding| is_whole(finding) && finding.severity == worst;
    let lead = told
        .iter()
        .position(|(_, finding)| leads(finding) && finding.rule == rule)
        .or_else(|| told.iter().position(|(_, finding)| leads(finding)))
        .unwrap_or(0);
    let words = Words::of(run, &told);
    let (_, mut lead) = told.remove(lead);
    let (whole, listed): (Vec<&Finding>, Vec<&Finding>) =
        told.iter().map(|(_, finding)| finding).partition(|finding| is_whole(finding));
    gather(&mut lead, whole.into_iter(), ALSO_BYTES_MAX);
    let (mut objects, mut bytes) = (Vec::new(), 0);
    for finding in &listed {
        merge(&mut lead, finding);
        bytes += listed_bytes(finding);
        if bytes <= OBJECTS_BYTES_MAX {
            objects.extend(finding.evidence.get("object").cloned());
        }
    }
    let left_out = listed.len() - objects.len();
    if !objects.is_empty() {
        note(&mut lead, "objects", Value::Array(objects));
    }
    let usual = listed.first().and_then(|finding| finding.evidence.get("usual")).cloned();
    let mut about = words.evidence(run, left_out);
    if let Some(usual) = usual {
        note_in(&mut about, "rule_of_objects", usual);
    }
    note(&mut lead, "run", about);
    lead.rule = rule;
    lead.title = words.title(run);
    Some(lead)
}

/// Of rules that are equally frequent the first by name: it must not depend on the order.
fn most_frequent<'a>(findings: impl Iterator<Item = &'a Finding>) -> Option<String> {
    let mut counts = BTreeMap::<&str, usize>::new();
    findings.for_each(|finding| *counts.entry(finding.rule.as_str()).or_default() += 1);
    let most = counts.into_iter().rev().max_by_key(|(_, count)| *count)?;
    Some(most.0.to_owned())
}

/// What is said of all parts together.
struct Words {
    below: PathBuf,
    count: usize,
    facts: BTreeMap<&'static str, usize>,
    packages: BTreeMap<String, Option<String>>,
}

impl Words {
    fn of(run: &Run, told: &[(PathBuf, Finding)]) -> Self {
        let mut words = Self {
            below: told
                .first()
                .and_then(|(path, _)| path.parent())
                .map(Path::to_path_buf)
                .unwrap_or_default(),
            count: told.len(),
            facts: BTreeMap::new(),
            packages: BTreeMap::new(),
        };
        for (path, finding) in told {
            while !path.starts_with(&words.below) && words.below.pop() {}
            *words.facts.entry(verb(&finding.rule)).or_default() += 1;
            if let Some(package) = package(run, path) {
                let hand = finding.evidence.get("hand").and_then(|hand| hand.get("part"));
                let part = hand.or(finding.evidence.get("part")).and_then(Value::as_str);
                let version = part.and_then(|part| part.strip_prefix(package.as_str())?.strip_prefix(' '));
                let known = words.packages.entry(package).or_default();
                *known = version.map(str::to_owned).or(known.take());
            }
        }
        words
    }

    fn title(&self, run: &Run) -> String {
        let mut facts = self.facts.iter();
        let verb = match (facts.next(), facts.next()) {
            (Some((verb, _)), None) => verb,
            _ => "changed",
        };
        let title = format!(
            "{} {verb} {} objects below {}",
            run.tool,
            self.count,
            short(&self.below.to_string_lossy())
        );
        let Some((name, version)) = self.packages.first_key_value() else { return title };
        let name = named(name, version.as_ref());
        match self.packages.len() {
            1 => format!("{title}: {}", printable(&name)),
            count => format!("{title}: {} and {} more", printable(&name), count - 1),
        }
    }

    fn evidence(&self, run: &Run, left_out: usize) -> Value {
        let packages: Vec<String> = self
            .packages
            .iter()
            .take(PACKAGES_MAX)
            .map(|(name, version)| named(name, version.as_ref()))
            .collect();
        let mut evidence = json!({
            "tool": run.tool,
            "pid": run.pid,
            "below": self.below.to_string_lossy(),
            "count": self.count,
            "facts": self.facts,
            "left_out": left_out,
        });
        if !packages.is_empty() {
            note_in(&mut evidence, "packages", json!(packages));
            note_in(&mut evidence, "proof", proof(&run.tool).into());
        }
        evidence
    }
}

fn note_in(evidence: &mut Value, name: &str, value: Value) {
    if let Some(members) = evidence.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

fn named(name: &str, version: Option<&String>) -> String {
    version.map_or_else(|| name.to_owned(), |version| format!("{name} {version}"))
}

fn verb(rule: &str) -> &'static str {
    match rule {
        "file.created" | "persistence.web-script" => "created",
        "file.modified" => "modified",
        "file.deleted" => "deleted",
        "file.moved" => "moved",
        "file.attributes" => "changed attributes of",
        _ => "changed",
    }
}

/// What the digests of such a tool's packages prove of single files.
fn proof(tool: &str) -> &'static str {
    match tool {
        "npm" => {
            "npm keeps a digest of each package's archive and none of single files: whose hand it was is known, \
                  not that the files are as published"
        }
        _ => {
            "the tool keeps no digest that was compared: whose hand it was is known, not that the files are as published"
        }
    }
}

/// The package that the object belongs to, by its place.
fn package(run: &Run, path: &Path) -> Option<String> {
    match run.tool.as_str() {
        "npm" => super::npm::package_of(path).map(|(_, name)| name),
        "snapd" => {
            let image = path.strip_prefix("/var/lib/snapd/snaps").ok()?.to_str()?;
            let (name, revision) = image.strip_suffix(".snap")?.rsplit_once('_')?;
            Some(format!("{name} revision {revision}"))
        }
        "flatpak" => {
            let below = path.strip_prefix("/var/lib/flatpak").ok()?;
            let mut parts = below.iter();
            let kind = parts.next()?;
            let name = parts.next()?.to_string_lossy().into_owned();
            (kind == "app" || kind == "runtime").then_some(name)
        }
        _ => None,
    }
}
