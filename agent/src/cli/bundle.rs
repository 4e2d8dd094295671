//! `agent bundle`: an archive for whoever is asked for help.

use std::path::PathBuf;

use picket_protocol::finding::printable;
use serde_json::json;

use super::{Exit, Global, output};
use crate::doctor::bundle::{Bundle, Wanted};

/// Put what a supporter asks for into one archive (tar.zst), redacted
///
/// In it: what `agent doctor`, `agent status` and `agent metrics` say, mechanisms, versions, configuration and policy, the ledger's head,
/// sizes of files, and the end of the log. Keys, join strings and credentials of a proxy are never in it. It is made with mode
/// 0600 and sent nowhere: look at it before you do (tar --zstd -tvf FILE).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sudo agent bundle\n  sudo agent bundle --output /root/picket.tar.zst --with-findings\n  sudo agent bundle --log /var/log/picket.log   (where no journal holds the agent's log)"
)]
pub(super) struct Arguments {
    /// Where to [default: picket-bundle-HOST-SECONDS.tar.zst here]; must not exist
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A log of the agent's that is not in the journal
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// With the newest findings and what is in force: they name people, addresses and files
    #[arg(long)]
    with_findings: bool,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    if !rustix::process::geteuid().is_root() {
        output::error("only root may look at the agent's files (try sudo)");
        return Exit::Usage;
    }
    let wanted = Wanted {
        config: global.config.as_deref(),
        log: arguments.log.as_deref(),
        findings: arguments.with_findings,
    };
    let bundle = Bundle::collect(&wanted);
    let path = arguments.output.unwrap_or_else(|| bundle.default_path());
    let bytes = match bundle.write(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            output::error(&format!("{}: {error}", path.display()));
            return Exit::Failing;
        }
    };
    if global.json {
        output::json(&json!({ "file": path, "bytes": bytes, "bundle": bundle }));
    } else {
        output::line(bundle.contents().lines().map(printable).collect::<Vec<_>>().join("\n").trim_end());
        output::line(&format!(
            "\nwritten to {} ({})",
            printable(&path.display().to_string()),
            output::bytes(bytes)
        ));
    }
    Exit::Fine
}
