//! `collector rotate-certificate`.

use std::path::Path;

use serde_json::Value;

use super::output::{Output, text_of};
use super::{CliError, client};
use crate::server::admin::Request;

pub fn rotate(directory: &Path, output: &Output) -> Result<(), CliError> {
    let shown = client::ask(directory, Request::RotateCertificate)?;
    output.show(&shown, |shown| {
        let names = shown.get("names").and_then(Value::as_array).into_iter().flatten();
        let names: Vec<&str> = names.filter_map(Value::as_str).collect();
        format!(
            "The server has a new key and a new certificate.\n  names    {}\n  until    {}\n  SHA-256  {}",
            names.join(", "),
            text_of(shown, "expires"),
            text_of(shown, "sha256")
        )
    });
    Ok(())
}
