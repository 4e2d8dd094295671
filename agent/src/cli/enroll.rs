//! `agent enroll 'picket1.…'`: makes this host an agent of the collector that printed the join string, or gets a new
//! certificate for one that is; with `--if-needed` it does either only where it has to, for scripts that run again and again.

use std::io::Read as _;
use std::path::Path;

use picket_protocol::join::Join;
use zeroize::Zeroizing;

use super::output::{self, Style, Tone};
use super::{Exit, Global, client};
use crate::clock;
use crate::config::Config;
use crate::core::copied;
use crate::enrolment::Enrolment;
use crate::layout::Layout;
use crate::uplink::joining::{self, JoiningError, Prospect, Request};
use crate::uplink::pending::{self, Pending};
use crate::uplink::renewing::{self, Standing};

/// Longest text that is read from standard input for a join string, in bytes.
const INPUT_BYTES_MAX: u64 = 4_096;

/// Make this host an agent of the collector that printed the join string, or renew its certificate.
///
/// A host that is enrolled with this collector and whose certificate has ended, since it was away for long, gets a new
/// one: id, keys and ledger go on. A running agent takes up either by itself.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agent enroll 'picket1.AAECAw…'\n  agent enroll - < join.txt     (keeps the join string out of the process list)\n  \
                  agent enroll --retry - < join.txt\n  agent enroll --renew 'picket1.AAECAw…'\n  \
                  agent enroll --if-needed --retry - < join.txt     (in scripts; may be run again)\n\n\
                  With --json, `changed` says whether anything was, and `other_collector` that --if-needed left a host alone whose\n\
                  collector is another one than the join string's. \
                  With --retry the exit code is 1 when the collector was not reached and the join string waits: the running agent goes on trying."
)]
pub struct Arguments {
    /// The join string, as `collector token` printed it; - reads it from standard input
    pub join: String,
    /// Give up the present identity: its state is moved aside, not deleted
    #[arg(long)]
    pub force: bool,
    /// Get a new certificate for the present identity, also before the last one has ended
    #[arg(long, conflicts_with = "force")]
    pub renew: bool,
    /// For scripts: change nothing on a host that is enrolled with a certificate that the agent renews in time; renew one that has ended or
    /// is about to; enrol a host that is not
    #[arg(long, conflicts_with_all = ["force", "renew"])]
    pub if_needed: bool,
    /// Keep the join string while the collector cannot be reached: the running agent goes on trying until it is enrolled, or refused
    #[arg(long, conflicts_with_all = ["force", "renew"])]
    pub retry: bool,
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
    let layout = client::layout(&config);
    if let Err(error) = copied::settle(&layout) {
        output::error(&error.to_string());
        return Exit::Failing;
    }
    match enroll(&layout, &config, &join, &arguments) {
        Ok((done, enrolment)) => {
            tell(global, &layout, done, &enrolment);
            Exit::Fine
        }
        Err(error) => fail(global, &layout, &join, &error),
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Enrolled,
    Renewed,
    Nothing,
    /// The same, though the join string is of another collector.
    NotOfCollector,
}

fn enroll(
    layout: &Layout,
    config: &Config,
    join: &Join,
    arguments: &Arguments,
) -> Result<(Done, Enrolment), JoiningError> {
    let standing = renewing::standing(layout, clock::now());
    if arguments.if_needed && standing == Some(Standing::Good) {
        let enrolment = Enrolment::load(&layout.enrolment())?;
        if renewing::is_of_collector(layout, join) == Some(false) {
            output::error(&format!(
                "the join string is of another collector ({}) than this host is enrolled with ({}): it is not used",
                join.address, enrolment.address
            ));
            return Ok((Done::NotOfCollector, enrolment));
        }
        return Ok((Done::Nothing, enrolment));
    }
    if renews(arguments, standing) {
        return Ok((Done::Renewed, renew(layout, config, join, arguments)?));
    }
    wait(layout, join, arguments)?;
    Ok((Done::Enrolled, joining::enrol(&request(layout, config, join, arguments))?))
}

/// Whether this is about the certificate of an enrolled host.
fn renews(arguments: &Arguments, standing: Option<Standing>) -> bool {
    let due = match standing {
        Some(Standing::Ended) => true,
        Some(Standing::Late) => arguments.if_needed,
        Some(Standing::Good) | None => false,
    };
    arguments.renew || (!arguments.force && due)
}

/// Keeps the join string before it is tried, so that nothing that happens meanwhile loses it. One that waited gives way to another.
fn wait(layout: &Layout, join: &Join, arguments: &Arguments) -> Result<(), JoiningError> {
    let failed = |source| JoiningError::File { path: layout.join_pending(), source };
    if layout.enrolment().exists() {
        return Ok(());
    }
    pending::supersede(layout, join).map_err(failed)?;
    if arguments.retry {
        joining::prepare(layout)?;
        let pending = Pending::new(join.clone(), arguments.hostname.clone(), clock::now());
        pending.keep(layout).map_err(failed)?;
    }
    Ok(())
}

/// Says why the host is not enrolled or renewed now, and what becomes of the join string.
fn fail(global: &Global, layout: &Layout, join: &Join, error: &JoiningError) -> Exit {
    output::error(&error.to_string());
    let waits = Pending::load(layout).ok().flatten().filter(|pending| pending.join == *join);
    let Some(pending) = waits else {
        if matches!(error.prospect(), Prospect::Later(_)) && !layout.enrolment().exists() {
            output::error("to have the running agent try again by itself: agent enroll --retry 'picket1.…'");
        }
        return Exit::Failing;
    };
    let kept = match error.prospect() {
        Prospect::Never => pending::refuse(layout, &join.address, &error.to_string(), clock::now()),
        Prospect::Later(_) | Prospect::Here => pending.tried(clock::now(), &error.to_string()).keep(layout),
    };
    if let Err(error) = kept {
        output::error(&format!("{}: {error}", layout.join_pending().display()));
    }
    if pending::stamp(layout).is_none() {
        return Exit::Failing;
    }
    if global.json {
        output::json(
            &serde_json::json!({ "waits": true, "address": join.address, "reason": error.to_string() }),
        );
    } else {
        output::line("the join string waits: the running agent tries again by itself (agent status)");
    }
    Exit::Degraded
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

fn renew(
    layout: &Layout,
    config: &Config,
    join: &Join,
    arguments: &Arguments,
) -> Result<Enrolment, JoiningError> {
    let hostname = arguments.hostname.as_deref().map(|name| joining::hostname(Some(name)));
    renewing::renew(&request(layout, config, join, arguments), hostname)
}

fn request<'a>(layout: &'a Layout, config: &'a Config, join: &'a Join, arguments: &Arguments) -> Request<'a> {
    Request {
        layout,
        uplink: &config.uplink,
        join,
        hostname: joining::hostname(arguments.hostname.as_deref()),
        force: arguments.force,
        program: Path::new("/proc/self/exe"),
        wanted: None,
    }
}

/// Says what this host is now, and what comes next. A closed stdout changes nothing of it.
fn tell(global: &Global, layout: &Layout, done: Done, enrolment: &Enrolment) {
    let expires = renewing::expiry(&layout.tls_certificate());
    if global.json {
        output::json(&serde_json::json!({
            "agent": enrolment.agent,
            "tenant": enrolment.tenant,
            "address": enrolment.address,
            "hostname": enrolment.hostname,
            "enrolled": enrolment.enrolled,
            "changed": matches!(done, Done::Enrolled | Done::Renewed),
            "other_collector": done == Done::NotOfCollector,
            "renewed": done == Done::Renewed,
            "certificate_expires": expires,
        }));
        return;
    }
    let (title, next) = match done {
        Done::Enrolled => (
            "This host is enrolled.",
            "Next: look at it with `agent status`. The agent takes this up by itself while it runs; start it with `systemctl start picket-agent`, or `agent run`",
        ),
        Done::Renewed => (
            "The certificate of this host is renewed; id and ledger go on.",
            "A running agent takes it up by itself within seconds: look at it with `agent status`",
        ),
        Done::Nothing | Done::NotOfCollector => (
            "This host is enrolled already; nothing was changed.",
            "The agent renews the certificate by itself: look at it with `agent status`",
        ),
    };
    let style = Style::of_stdout();
    output::line(&style.paint(Tone::Good, title));
    output::line(&format!("  agent      {}", enrolment.agent));
    output::line(&format!("  tenant     {}", enrolment.tenant));
    output::line(&format!("  collector  {}", enrolment.address));
    if let Some(expires) = expires {
        output::line(&format!("  valid      until {}", output::day(expires)));
    }
    output::line(next);
}
