//! `collector metrics`.

use std::path::Path;

use picket_protocol::metrics::{Family, to_text};

use super::output::Output;
use super::{CliError, client};
use crate::server::admin::Request;

pub fn metrics(directory: &Path, output: &Output) -> Result<(), CliError> {
    let answer = client::ask(directory, Request::Metrics)?;
    let families: Vec<Family> = serde_json::from_value(answer.clone())
        .map_err(|error| CliError::Failed(format!("the running collector is of another version: {error}")))?;
    output.show(&answer, |_| to_text(&families).trim_end().to_owned());
    Ok(())
}
