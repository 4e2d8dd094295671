//! What a change means, in words that a person understands at once.
//!
//! A change gives statements: each with the rule that it falls under, how much it matters, and one sentence. The
//! weightiest leads: its rule is the finding's, its sentence the title. What the text of a file says is read by the
//! parser of its [`Subject`]; without the text (it was never seen, or is too long) the place alone speaks.
//!
//! How much an edit matters is what it says, not where it stands: a remark in `sshd_config` or another umask in
//! `/etc/profile` is `low`, a deny rule that is gone or a program that is started from now on is more. What is added as
//! a whole file weighs as its place does, since something reads it from now on; so does an edit of what gives power by
//! whatever it says ([`grave`]).
//!
//! Parsers take any bytes that a file may hold: they never fail, look at no more than [`STATEMENTS_MAX`] things, and
//! quote nothing that [`super::redact`] would leave out.

mod accounts;
mod configuration;
mod jobs;
mod object;
mod pam;
mod settings;
mod ssh;
mod sudoers;
mod suspicious;
mod units;
pub(super) mod web;

pub(super) use object::WORLD_PLACES;

use std::path::Path;

use picket_protocol::finding::{Severity, printable};

use super::diff::{self, Diff, Lines};
use super::evidence::Aspect;
use super::subject::{self, Subject};
use super::{Fact, short};
use crate::sense::files::change::FileChange;
use crate::sense::files::object::{Content, Kind, ObjectState};

/// Statements of one change; a file that was rewritten wholly says no more.
pub const STATEMENTS_MAX: usize = 24;
/// Characters of a line from a file that are quoted in a sentence.
const QUOTE_CHARS_MAX: usize = 160;
/// Bytes of a diff in a finding.
const DIFF_BYTES_MAX: usize = 8 * 1024;

/// One thing that a change did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The rule.
    pub rule: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence.
    pub words: String,
    /// The ATT&CK technique.
    pub technique: &'static str,
}

impl Statement {
    fn new(rule: &'static str, severity: Severity, technique: &'static str, words: String) -> Self {
        Self { rule, severity, words, technique }
    }
}

/// All that a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    /// What it did; the weightiest first.
    pub statements: Vec<Statement>,
    /// What differs in the text.
    pub diff: Option<Diff>,
    /// Why there is no diff of a file whose text is kept.
    pub diff_note: Option<&'static str>,
    /// The text is known, and nothing in it that counts has changed.
    pub harmless: bool,
    /// The text before and after is known: what was edited is judged by what it says.
    pub weighed: bool,
    /// Whose key, password or group is concerned: for the finding's entities.
    pub users: Vec<String>,
}

/// A change as parsers see it.
struct Case<'a> {
    /// The path as the system knows it in which the file lies.
    path: &'a Path,
    subject: Subject,
    fact: Fact,
    change: &'a FileChange,
    before: Lines<'a>,
    after: Lines<'a>,
    /// The text before is known, or there was none.
    compared: bool,
    /// Lines of a file that was there before were changed, and both texts are known.
    edited: bool,
}

/// What the change means.
pub fn read(change: &FileChange, fact: Fact, changed: &[Aspect]) -> Meaning {
    let (root, path) = subject::inside(&change.path);
    let subject = Subject::of(&change.path);
    let text = |bytes: Option<&Vec<u8>>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let kept = change.text.as_ref();
    let before = kept.and_then(|kept| text(kept.before.as_ref()));
    let after = kept.and_then(|kept| text(kept.after.as_ref()));
    let fresh = matches!(fact, Fact::Created | Fact::Moved | Fact::TypeChanged);
    let case = Case {
        path: &path,
        subject,
        fact,
        change,
        before: Lines::new(subject, before.as_deref().unwrap_or_default()),
        after: Lines::new(subject, after.as_deref().unwrap_or_default()),
        compared: before.is_some() || fresh,
        edited: before.is_some() && after.is_some() && fact == Fact::Modified,
    };
    let mut meaning = Meaning::default();
    object::read(&case, changed, &mut meaning.statements);
    if after.is_some() && case.compared && changes_content(fact) {
        let found = meaning.statements.len();
        case.parse(&mut meaning);
        let silent = meaning.statements.len() == found;
        meaning.harmless = silent && (parsed(subject) || case.edited && case.only_remarks());
        meaning.weighed = case.edited;
        if before.is_some() || fact == Fact::Created {
            meaning.diff = Some(diff::unified(&case.before, &case.after, DIFF_BYTES_MAX));
        }
    } else if changes_content(fact) && is_file(change) && subject::keeps_text(&change.path) {
        meaning.diff_note = Some(why_no_diff(after.is_some()));
    }
    if meaning.statements.is_empty() && !meaning.harmless {
        meaning.statements.extend(case.by_place());
    }
    meaning.statements.truncate(STATEMENTS_MAX);
    meaning.statements.sort_by_key(|statement| std::cmp::Reverse(statement.severity));
    if let Some(root) = root {
        let place = short(&root);
        meaning.statements.iter_mut().for_each(|said| said.words = format!("In {place}: {}", said.words));
    }
    meaning
}

impl Meaning {
    /// The weightiest sentence, and how many more there are.
    pub fn title(&self) -> String {
        let Some(lead) = self.statements.first() else { return String::new() };
        let more = self.statements.iter().filter(|said| said.words != lead.words).count();
        match more {
            0 => lead.words.clone(),
            1 => format!("{} (and one more change)", lead.words),
            more => format!("{} (and {more} more changes)", lead.words),
        }
    }
}

fn changes_content(fact: Fact) -> bool {
    matches!(fact, Fact::Created | Fact::Modified | Fact::Moved | Fact::TypeChanged)
}

fn is_file(change: &FileChange) -> bool {
    change.after.as_ref().is_some_and(|state| state.meta.kind == Kind::File)
}

fn why_no_diff(read: bool) -> &'static str {
    if read {
        "what it held before was not kept"
    } else {
        "it is no short text, or changed while it was read"
    }
}

/// Whether a parser reads such files so well that finding nothing means that nothing changed.
fn parsed(subject: Subject) -> bool {
    matches!(
        subject,
        Subject::Passwd
            | Subject::Shadow
            | Subject::Group
            | Subject::Gshadow
            | Subject::SubordinateIds
            | Subject::Sudoers
            | Subject::AuthorizedKeys
            | Subject::SshdConfig
            | Subject::SystemCrontab
            | Subject::UserCrontab
            | Subject::Preload
            | Subject::Hosts
            | Subject::Resolver
            | Subject::NameSwitch
            | Subject::Web
    )
}

/// Whether any edit of such a file may give power, whatever its lines seem to say.
fn grave(subject: Subject) -> bool {
    matches!(
        subject,
        Subject::Polkit
            | Subject::SshRc
            | Subject::SystemdGenerator
            | Subject::LoaderPath
            | Subject::Interpreter
            | Subject::PackageKey
            | Subject::Certificate
            | Subject::KnownHosts
            | Subject::MandatoryAccess
            | Subject::AtJob
    )
}

impl Case<'_> {
    fn parse(&self, meaning: &mut Meaning) {
        let out = &mut meaning.statements;
        match self.subject {
            Subject::Passwd => accounts::passwd(self, out, &mut meaning.users),
            Subject::Shadow => accounts::shadow(self, out, &mut meaning.users),
            Subject::Group | Subject::Gshadow => accounts::group(self, out, &mut meaning.users),
            Subject::SubordinateIds => accounts::subordinate(self, out, &mut meaning.users),
            Subject::Sudoers => sudoers::read(self, out),
            Subject::AuthorizedKeys => ssh::keys(self, out, &mut meaning.users),
            Subject::SshdConfig => ssh::server(self, out),
            Subject::SystemCrontab | Subject::UserCrontab => jobs::crontab(self, out),
            Subject::SystemdUnit => units::read(self, out),
            Subject::Web => web::read(self, out),
            Subject::Pam => pam::read(self, out),
            Subject::Configuration | Subject::Boot => configuration::read(self, out),
            _ => settings::read(self, out),
        }
    }

    /// Whether nothing but remarks and blank lines came or went.
    fn only_remarks(&self) -> bool {
        self.added().is_empty() && self.removed().is_empty()
    }

    /// Lines that came, as they are and as they may be shown; blank ones and comments left out.
    fn added(&self) -> Vec<(&str, &str)> {
        let edits = diff::edits(&self.before, &self.after);
        let lines = edits.iter().filter_map(|edit| match edit {
            diff::Edit::Added(at) => Some((*self.after.raw.get(*at)?, self.after.show(*at))),
            diff::Edit::Removed(_) => None,
        });
        lines.filter(|(raw, _)| counts(raw)).collect()
    }

    /// Lines that went.
    fn removed(&self) -> Vec<(&str, &str)> {
        let edits = diff::edits(&self.before, &self.after);
        let lines = edits.iter().filter_map(|edit| match edit {
            diff::Edit::Removed(at) => Some((*self.before.raw.get(*at)?, self.before.show(*at))),
            diff::Edit::Added(_) => None,
        });
        lines.filter(|(raw, _)| counts(raw)).collect()
    }

    /// What the place alone says of a change whose text is not known or has no parser.
    fn by_place(&self) -> Option<Statement> {
        let kind = self.change.after.as_ref().or(self.change.before.as_ref())?.meta.kind;
        let place = place(self.subject)?;
        let path = short(&self.change.path);
        if self.subject == Subject::SystemdUnit
            && let Some(said) = self.unit_link()
        {
            return Some(said);
        }
        let link = subject::init_link(self.path);
        if let Some((false, _)) = link {
            // It keeps the service from being started.
            return None;
        }
        let gone = self.change.after.is_none();
        if gone {
            let defends = place.rule.starts_with("defence.");
            let words = format!("{} is gone: {path}", capital(place.noun));
            return (defends && self.fact == Fact::Deleted)
                .then(|| Statement::new(place.rule, place.severity, place.technique, words));
        }
        if kind == Kind::Directory || !changes_content(self.fact) {
            return None;
        }
        if let Some((_, service)) = link.filter(|_| kind == Kind::Symlink) {
            let words = format!("The init script of {} is run at boot from now on: {path}", quote(service));
            return Some(Statement::new(place.rule, place.severity, place.technique, words));
        }
        let severity = if self.edited && !grave(self.subject) {
            place.severity.min(Severity::Low)
        } else {
            place.severity
        };
        let words = match self.fact {
            Fact::Created | Fact::Moved => {
                let from = self.change.moved_from.as_deref();
                let from = from.map(|from| format!(", moved there from {}", short(from))).unwrap_or_default();
                format!("{} was added: {path}{from}", capital(place.noun))
            }
            _ => format!("{} was changed: {path}", capital(place.noun)),
        };
        Some(Statement::new(place.rule, severity, place.technique, words))
    }
}

impl Case<'_> {
    /// A symbolic link among the units of systemd that came or went.
    fn unit_link(&self) -> Option<Statement> {
        let link = |state: &ObjectState| match &state.content {
            Content::Target(target) => Some(target.clone()),
            _ => None,
        };
        match (&self.change.before, &self.change.after) {
            (_, Some(after)) => units::link(self, Some(&link(after)?)),
            (Some(before), None) if self.fact == Fact::Deleted => {
                link(before)?;
                units::link(self, None)
            }
            _ => None,
        }
    }
}

/// Whether a line says anything: more than a remark. What begins like one and is obeyed counts, too.
fn counts(line: &str) -> bool {
    const OBEYED: &[&str] = &["#!", "#include", "#clear"];
    let line = line.trim();
    let remark = line.starts_with(['#', ';']) && !OBEYED.iter().any(|start| line.starts_with(start));
    !line.is_empty() && !remark
}

fn quote(text: &str) -> String {
    let text = text.trim();
    let mut out: String = text.chars().take(QUOTE_CHARS_MAX).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    printable(&out.replace('\t', " ")).into_owned()
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// What a change of such a file is, when nothing more is known of it.
struct Place {
    rule: &'static str,
    severity: Severity,
    technique: &'static str,
    noun: &'static str,
}

fn place(subject: Subject) -> Option<Place> {
    use Severity::{High, Low, Medium};
    let (rule, severity, technique, noun) = match subject {
        Subject::Passwd => ("account.changed", High, "T1098", "the list of accounts"),
        Subject::Shadow => ("account.changed", High, "T1098", "the list of passwords"),
        Subject::Group => ("account.changed", High, "T1098.007", "the list of groups"),
        Subject::Gshadow => ("account.changed", Medium, "T1098.007", "the list of group passwords"),
        Subject::SubordinateIds => ("account.changed", Low, "T1098", "the list of subordinate ids"),
        Subject::Sudoers => ("privilege.sudoers", High, "T1548.003", "a file of rules for sudo"),
        Subject::Polkit => ("privilege.sudoers", High, "T1548", "a rule of polkit"),
        Subject::Pam => ("persistence.pam", High, "T1556.003", "a part of PAM"),
        Subject::AuthorizedKeys => {
            ("persistence.ssh-key", High, "T1098.004", "a list of keys that open an account")
        }
        Subject::SshRc => ("persistence.shell", High, "T1546.004", "what ssh runs at each login"),
        Subject::SshdConfig => ("file.modified", High, "T1556", "the ssh server's configuration"),
        Subject::SshHostKey => ("trust.ssh-host-key", High, "T1556", "a host key of the ssh server"),
        Subject::KnownHosts => ("trust.ssh-host-key", Medium, "T1557", "the list of hosts that ssh trusts"),
        Subject::SystemCrontab | Subject::UserCrontab => {
            ("persistence.cron", Medium, "T1053.003", "a crontab")
        }
        Subject::CronScript => ("persistence.cron", Medium, "T1053.003", "a script that cron runs"),
        Subject::AtJob => ("persistence.at", Medium, "T1053.002", "a job of at"),
        Subject::SystemdUnit => ("persistence.systemd", Medium, "T1543.002", "a unit of systemd"),
        Subject::SystemdGenerator => {
            ("persistence.systemd", High, "T1543.002", "a generator, which systemd runs as root at boot,")
        }
        Subject::Init => ("persistence.init", Medium, "T1037.004", "an init script"),
        Subject::ShellStartup => ("persistence.shell", Medium, "T1546.004", "what shells run at their start"),
        Subject::Preload => {
            ("persistence.preload", High, "T1574.006", "the list of libraries in every program")
        }
        Subject::LoaderPath => ("persistence.preload", High, "T1574.006", "where libraries are looked for"),
        Subject::ModuleList => ("persistence.module", Medium, "T1547.006", "a setting of kernel modules"),
        Subject::Module => ("persistence.module", Medium, "T1547.006", "a kernel module"),
        Subject::Udev => ("persistence.udev", Medium, "T1546.017", "a rule or helper of udev"),
        Subject::Motd => ("persistence.motd", Medium, "T1037", "a script that runs at each login"),
        Subject::Autostart => {
            ("persistence.autostart", Medium, "T1547.013", "a program that a desktop starts")
        }
        Subject::GitHook => ("persistence.git-hook", Medium, "T1546", "a hook that git runs"),
        Subject::Interpreter => {
            ("persistence.interpreter", Medium, "T1546.018", "code that an interpreter loads by itself")
        }
        Subject::Hosts => ("trust.hosts", Medium, "T1565.001", "the list of host names"),
        Subject::Resolver => ("trust.resolver", Medium, "T1565.001", "the choice of name servers"),
        Subject::NameSwitch => ("trust.resolver", Medium, "T1556", "where names and accounts are looked up"),
        Subject::PackageSource => ("trust.package-source", Medium, "T1195.002", "a source of packages"),
        Subject::PackageKey => ("trust.package-key", Medium, "T1553", "a key that vouches for packages"),
        Subject::Certificate => {
            ("trust.certificate", Medium, "T1553.004", "a certificate that programs trust")
        }
        Subject::KernelSetting => ("defence.kernel-setting", Low, "T1562", "a file of kernel settings"),
        Subject::AuditRules => ("defence.audit", Medium, "T1562.012", "a file of audit rules"),
        Subject::LogSettings => ("defence.logging", Low, "T1562.006", "a setting of what is logged"),
        Subject::FirewallRules => ("defence.firewall", Medium, "T1562.004", "a file of firewall rules"),
        Subject::MandatoryAccess => {
            ("defence.mac", Medium, "T1562.001", "a rule of mandatory access control")
        }
        Subject::PasswordCopy => return None,
        Subject::ContainerSocket | Subject::Boot | Subject::Web | Subject::Configuration | Subject::Other => {
            return None;
        }
    };
    Some(Place { rule, severity, technique, noun })
}

#[cfg(test)]
mod tests;
