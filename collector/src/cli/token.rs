//! `collector token`.

use std::path::Path;

use super::args::Token;
use super::output::{Output, text_of};
use super::{CliError, client};
use crate::server::admin::Request;

pub fn run(directory: &Path, arguments: &Token, output: &Output) -> Result<(), CliError> {
    let request = Request::Token {
        tenant: arguments.tenant.clone(),
        seconds: arguments.expires.as_secs(),
        uses: arguments.uses,
    };
    let value = client::ask(directory, request)?;
    output.show(&value, |value| text_of(value, "join"));
    Ok(())
}
