//! `collector backup` and `collector restore`.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;

use picket_protocol::backup::{Manifest, Name};
use serde_json::{Value, json};

use super::CliError;
use super::args::{Backup, Restore};
use super::output::{Output, text_of};
use crate::backup::{self, Target};
use crate::owner::as_owner;
use crate::server::data_dir::DataDir;

pub fn back_up(directory: &Path, arguments: &Backup, output: &Output) -> Result<(), CliError> {
    let to_output = arguments.target == Path::new("-");
    if to_output && io::stdout().is_terminal() {
        return Err(CliError::Usage("a backup is not for a terminal: give a file, or a pipe".to_owned()));
    }
    let target = if to_output { Target::Output } else { Target::Path(arguments.target.clone()) };
    let taken = backup::back_up(&DataDir::new(directory), &target, arguments.with_evidence)?;
    let mut value = describe(&taken.manifest);
    if let Some(members) = value.as_object_mut() {
        members.insert("file".to_owned(), json!(taken.path));
        members.insert("size".to_owned(), json!(taken.bytes));
    }
    let text = |value: &Value| {
        let place =
            taken.path.as_ref().map_or("standard output".to_owned(), |path| path.display().to_string());
        format!(
            "A backup of {} hosts with {} records is in {place} ({} bytes){}\n\
             Whoever has it can be this collector: keep it as you keep its keys.",
            text_of(value, "hosts"),
            text_of(value, "records"),
            taken.bytes,
            evidence_of(value)
        )
    };
    if to_output {
        output.note(&value, text)
    } else {
        output.show(&value, text)
    }
    Ok(())
}

pub fn restore(directory: &Path, arguments: &Restore, output: &Output) -> Result<(), CliError> {
    let path = std::path::absolute(directory).map_err(CliError::failed)?;
    let source: Box<dyn Read + Send> = if arguments.source == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let usage = |error: io::Error| CliError::Usage(format!("{}: {error}", arguments.source.display()));
        Box::new(File::open(&arguments.source).map_err(usage)?)
    };
    let restored = as_owner(&path, || backup::restore(source, &path)).map_err(CliError::failed)??;
    let mut value = describe(&restored.manifest);
    if let Some(members) = value.as_object_mut() {
        members.insert("data_dir".to_owned(), json!(path));
        members.insert("uid".to_owned(), json!(restored.owner.0));
        members.insert("gid".to_owned(), json!(restored.owner.1));
    }
    output.show(&value, |value| {
        format!(
            "The collector of {} is in {}: {} hosts with {} records{}\nIts files belong to user {}, group {}.\n\n\
             Agents send what it lacks when they connect. What was decided since then it does not know: revoke hosts and remove\n\
             operators again, install newer trust roots again, enrol newer hosts again. Join strings that were given out are void.",
            text_of(value, "taken"),
            path.display(),
            text_of(value, "hosts"),
            text_of(value, "records"),
            evidence_of(value),
            restored.owner.0,
            restored.owner.1
        )
    });
    Ok(())
}

fn describe(manifest: &Manifest) -> Value {
    let bundles = manifest.files.iter().filter(|entry| matches!(entry.name, Name::Evidence(..))).count();
    json!({
        "taken": manifest.taken, "collector": manifest.collector, "ca_sha256": manifest.ca_sha256,
        "hosts": manifest.hosts, "records": manifest.records, "bytes": manifest.bytes(), "evidence": bundles,
    })
}

fn evidence_of(value: &Value) -> String {
    match value.get("evidence").and_then(Value::as_u64) {
        None | Some(0) => ", without evidence.".to_owned(),
        Some(bundles) => format!(", and {bundles} bundles of evidence."),
    }
}
