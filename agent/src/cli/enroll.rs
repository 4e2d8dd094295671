//! `agent enroll 'picket1.…'`: makes this host an agent of the collector that printed the join string.

use std::io::Read as _;
use std::path::Path;

use picket_protocol::join::Join;
use zeroize::Zeroizing;

use super::output::{self, Style, Tone};
use super::{Exit, Global};
use crate::config::Config;
use crate::enrolment::Enrolment;
use crate::layout::Layout;
use crate::uplink::joining::{self, JoiningError, Request};

/// Longest text that is read from standard input for a join string, in bytes.
const INPUT_BYTES_MAX: u64 = 4_096;
/// Longest host name that is sent, in bytes.
const HOSTNAME_BYTES_MAX: usize = 255;

/// Make this host an agent of the collector that printed the join string.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agent enroll 'picket1.AAECAw…'\n  agent enroll - < join.txt     (keeps the join string out of the process list)"
)]
pub struct Arguments {
    /// The join string, as `collector token` printed it; - reads it from standard input
    pub join: String,
    /// Give up the present identity: its state is moved aside, not deleted
    #[arg(long)]
    pub force: bool,
    /// The host's name as the vendor will see it, instead of the system's
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
}

/// Runs the command.
pub fn run(global: &Global, arguments: Arguments) -> Exit {
    let config = match global.load() {
        Ok(loaded) => loaded.config,
        Err(exit) => return exit,
    };
    let join = match read_join(&arguments.join) {
        Ok(join) => join,
        Err(why) => {
            output::error(&why);
            return Exit::Usage;
        }
    };
    match enrol(&config, &join, &arguments) {
        Ok(enrolment) => {
            tell(global, &enrolment);
            Exit::Fine
        }
        Err(error) => {
            output::error(&error.to_string());
            Exit::Failing
        }
    }
}

fn read_join(argument: &str) -> Result<Join, String> {
    let text = if argument == "-" {
        let mut text = Zeroizing::new(String::new());
        let read = std::io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|error| format!("cannot read the join string: {error}"))?;
        text
    } else {
        Zeroizing::new(argument.to_owned())
    };
    Join::parse(&text).map_err(|error| error.to_string())
}

fn enrol(config: &Config, join: &Join, arguments: &Arguments) -> Result<Enrolment, JoiningError> {
    let system = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut hostname = arguments.hostname.clone().unwrap_or_else(system);
    while hostname.len() > HOSTNAME_BYTES_MAX {
        hostname.pop();
    }
    joining::enrol(&Request {
        layout: &Layout::new(&config.state_dir, &config.run_dir),
        uplink: &config.uplink,
        join,
        hostname,
        force: arguments.force,
        program: Path::new("/proc/self/exe"),
    })
}

/// Says what this host is now, and what comes next. A closed stdout changes nothing of it.
fn tell(global: &Global, enrolment: &Enrolment) {
    if global.json {
        output::json(&serde_json::json!({
            "agent": enrolment.agent,
            "tenant": enrolment.tenant,
            "address": enrolment.address,
            "hostname": enrolment.hostname,
            "enrolled": enrolment.enrolled,
        }));
        return;
    }
    let style = Style::of_stdout();
    output::line(&style.paint(Tone::Good, "This host is enrolled."));
    output::line(&format!("  agent      {}", enrolment.agent));
    output::line(&format!("  tenant     {}", enrolment.tenant));
    output::line(&format!("  collector  {}", enrolment.address));
    output::line(
        "Next: look at it with `agent status`. The agent takes this up by itself while it runs; start it with `systemctl start picket-agent`, or `agent run`",
    );
}
