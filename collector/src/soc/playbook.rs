//! `soc playbook`: lists and shows templates of playbooks, and writes the command that one of them makes.
//!
//! Those that are shipped are compiled in (`collector/playbooks/*.toml`); `--file` takes others of the same form. What is signed is the
//! command alone, with its steps written out; agents know no templates.

use super::args::{PlaybookAction, PlaybookSource, RunArguments};
use super::error::SocError;
use super::screen::{Cell, Column};
use super::{Session, draft, isolate, read_file};

mod template;

use template::Template;

/// The templates that are shipped, by name.
const SHIPPED: [(&str, &str); 5] = [
    ("contain-ransomware", include_str!("../../playbooks/contain-ransomware.toml")),
    ("contain-stolen-account", include_str!("../../playbooks/contain-stolen-account.toml")),
    ("contain-defacement", include_str!("../../playbooks/contain-defacement.toml")),
    ("contain-flood", include_str!("../../playbooks/contain-flood.toml")),
    ("contain-outbound-attack", include_str!("../../playbooks/contain-outbound-attack.toml")),
];

const COLUMNS: [Column; 3] = [
    Column { head: "NAME", width_max: 40 },
    Column { head: "STEPS", width_max: 5 },
    Column { head: "WHAT", width_max: 400 },
];

/// `soc playbook …`.
pub(super) async fn playbook(session: &mut Session, action: PlaybookAction) -> Result<u8, SocError> {
    match action {
        PlaybookAction::List => list(session),
        PlaybookAction::Show(source) => show(session, &source),
        PlaybookAction::Run(arguments) => run(session, *arguments).await,
    }
}

fn list(session: &mut Session) -> Result<u8, SocError> {
    let templates = SHIPPED.iter().map(|(_, text)| Template::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if session.json {
        templates.iter().try_for_each(|template| session.screen.json_line(&template.to_json()))?;
        return Ok(0);
    }
    let row = |template: &Template| {
        let steps = template.steps().len().to_string();
        vec![Cell::new(template.name()), Cell::new(steps), Cell::new(template.summary())]
    };
    session.screen.table(&COLUMNS, &templates.iter().map(row).collect::<Vec<_>>())?;
    Ok(0)
}

fn show(session: &mut Session, source: &PlaybookSource) -> Result<u8, SocError> {
    let text = text_of(source)?;
    let template = Template::parse(&text)?;
    if session.json {
        session.screen.json(&template.to_json())?;
    } else {
        template.print(&mut session.screen)?;
    }
    Ok(0)
}

async fn run(session: &mut Session, arguments: RunArguments) -> Result<u8, SocError> {
    let template = Template::parse(&text_of(&arguments.source)?)?;
    let lease = draft::lease(&arguments.lease)?;
    let action = draft::dry(template.fill(&arguments.set, lease)?, arguments.dry_run)?;
    let none = std::time::Duration::ZERO;
    let command = draft::compose(session, action, none, &arguments.host, &arguments.text).await?;
    let name = if arguments.dry_run { "plan" } else { template.name() };
    isolate::write(session, &command, name, arguments.trust.as_deref(), arguments.output).await
}

fn text_of(source: &PlaybookSource) -> Result<String, SocError> {
    if let Some(path) = &source.file {
        let wrong = |_| SocError::Usage(format!("{}: not UTF-8 text", path.display()));
        return String::from_utf8(read_file(path)?).map_err(wrong);
    }
    let name = source.name.as_deref().unwrap_or_default();
    let found = SHIPPED.iter().find(|(shipped, _)| *shipped == name);
    found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| {
        let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
        SocError::Usage(format!("no playbook {name:?} is shipped; there are {}", names.join(", ")))
    })
}
