//! `collector init`.

use std::path::Path;

use picket_protocol::crypto::hex;
use serde_json::{Value, json};

use super::CliError;
use super::args::Init;
use super::output::{Output, text_of};
use crate::owner::as_owner;
use crate::server::config::Config;
use crate::server::data_dir::DataDir;
use crate::server::shared::wall_clock;

pub fn run(directory: &Path, arguments: &Init, output: &Output) -> Result<(), CliError> {
    let path = std::path::absolute(directory).map_err(CliError::failed)?;
    let directory = DataDir::new(&path);
    let value = as_owner(&path, || -> Result<Value, CliError> {
        directory.init(&Config::render(&arguments.address, &arguments.names), wall_clock())?;
        Ok(json!({
            "data_dir": path, "address": arguments.address,
            "ca_sha256": hex(&directory.authority()?.digest()),
            "witness": directory.witness()?.verifier().to_string(),
        }))
    })
    .map_err(CliError::failed)??;
    output.show(&value, |value| {
        let path = path.display();
        format!(
            "A collector for {} is in {path}.\n  CA (SHA-256)  {}\n  witness key   {}\n\nNext:\n  \
             collector run --data-dir {path}\n  \
             collector operator add NAME --role admin --soc-config soc.toml --data-dir {path}\n  \
             collector token --tenant TENANT --data-dir {path}",
            text_of(value, "address"),
            text_of(value, "ca_sha256"),
            text_of(value, "witness"),
        )
    });
    Ok(())
}
