//! passwd, shadow, group and their kin: who came, who went, who may do more than before.

use std::collections::BTreeMap;

use picket_protocol::finding::Severity;
use picket_protocol::time::Timestamp;

use super::super::subject::Subject;
use super::{Case, STATEMENTS_MAX, Statement, quote};

/// Groups whose members are root, or as good as root.
const MIGHTY: &[&str] = &[
    "root",
    "sudo",
    "wheel",
    "admin",
    "adm",
    "docker",
    "lxd",
    "libvirt",
    "kvm",
    "disk",
    "shadow",
    "kmem",
    "incus-admin",
    "podman",
    "systemd-journal",
    "netdev",
];
/// Of these, the ones that let read rather than rule.
const READERS: &[&str] = &["adm", "systemd-journal", "netdev", "kvm"];

/// A line of passwd.
#[derive(Debug, PartialEq, Eq)]
struct Account<'a> {
    name: &'a str,
    password: &'a str,
    uid: Option<u32>,
    gid: Option<u32>,
    description: &'a str,
    home: &'a str,
    shell: &'a str,
}

fn account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let password = fields.next()?;
    let uid = fields.next().unwrap_or_default().trim().parse().ok();
    let gid = fields.next().unwrap_or_default().trim().parse().ok();
    let description = fields.next().unwrap_or_default();
    let home = fields.next().unwrap_or_default();
    Some(Account { name, password, uid, gid, description, home, shell: fields.next().unwrap_or_default() })
}

/// The first line of each name, as the C library takes it.
fn by_name<'a, T>(
    lines: &[&'a str],
    parse: impl Fn(&'a str) -> Option<(&'a str, T)>,
) -> BTreeMap<&'a str, T> {
    let mut found = BTreeMap::new();
    for (name, value) in lines.iter().filter_map(|line| parse(line)) {
        found.entry(name).or_insert(value);
    }
    found
}

fn say(
    out: &mut Vec<Statement>,
    rule: &'static str,
    severity: Severity,
    technique: &'static str,
    words: String,
) {
    if out.len() < STATEMENTS_MAX {
        out.push(Statement::new(rule, severity, technique, words));
    }
}

fn note(users: &mut Vec<String>, name: &str) {
    if users.len() < STATEMENTS_MAX && !users.iter().any(|user| user == name) {
        users.push(name.chars().take(64).collect());
    }
}

/// Reads `/etc/passwd`.
pub fn passwd(case: &Case<'_>, out: &mut Vec<Statement>, users: &mut Vec<String>) {
    let parse = |line| account(line).map(|account: Account<'_>| (account.name, account));
    let (before, after) = (by_name(&case.before.raw, parse), by_name(&case.after.raw, parse));
    let renamed = renamed(&before, &after);
    for (name, new) in &after {
        let old_name = renamed.iter().find(|(_, new)| new == name).map(|(old, _)| *old);
        match before.get(old_name.unwrap_or(name)) {
            None => created(new, out),
            Some(old) if old_name.is_some() => {
                let words = format!("Account {} was renamed: it is {} now", quote(old.name), quote(name));
                say(out, "account.changed", Severity::Medium, "T1098", words);
                if (old.uid, old.shell, old.home) != (new.uid, new.shell, new.home) {
                    altered(old, new, out);
                }
            }
            Some(old) if old != new => altered(old, new, out),
            Some(_) => continue,
        }
        note(users, name);
    }
    let gone = |name: &&&str| !after.contains_key(**name) && !renamed.iter().any(|(old, _)| old == *name);
    for name in before.keys().filter(gone) {
        say(out, "account.removed", Severity::Low, "T1531", format!("Account {} was removed", quote(name)));
        note(users, name);
    }
    doubles(case, out);
}

/// Names that went, and those that came for them: the same number, which nobody else has before or after.
fn renamed<'a>(
    before: &BTreeMap<&'a str, Account<'a>>,
    after: &BTreeMap<&'a str, Account<'a>>,
) -> Vec<(&'a str, &'a str)> {
    let with = |accounts: &BTreeMap<&'a str, Account<'a>>, uid| {
        let mut names = accounts.values().filter(|account| account.uid == uid).map(|account| account.name);
        names.next().filter(|_| names.next().is_none())
    };
    let fresh =
        after.values().filter(|new| !before.contains_key(new.name) && new.uid.is_some()).take(STATEMENTS_MAX);
    fresh
        .filter_map(|new| {
            let old = with(before, new.uid).filter(|old| !after.contains_key(old))?;
            with(after, new.uid).map(|new| (old, new))
        })
        .collect()
}

fn created(new: &Account<'_>, out: &mut Vec<Statement>) {
    let name = quote(new.name);
    match new.uid {
        Some(0) if new.name != "root" => {
            let words = format!("Account {name} was created with uid 0: it is root under another name");
            say(out, "account.uid0", Severity::Critical, "T1136.001", words);
        }
        Some(uid) => {
            let words = format!("Account {name} was created with uid {uid}");
            say(out, "account.created", Severity::Low, "T1136.001", words);
        }
        None if new.name.starts_with(['+', '-']) => {
            let words = format!("Accounts are now taken from the network as well ({name} in passwd)");
            say(out, "account.created", Severity::High, "T1136.002", words);
        }
        None => {
            let words = format!("Account {name} was created without a proper uid");
            say(out, "account.created", Severity::Medium, "T1136.001", words);
        }
    }
    password_field(new, out);
    if new.gid == Some(0) && new.uid != Some(0) {
        let words = format!("Account {name} has the group root");
        say(out, "account.changed", Severity::High, "T1098.007", words);
    }
}

/// Something other than `x` in passwd itself.
fn password_field(new: &Account<'_>, out: &mut Vec<Statement>) {
    let name = quote(new.name);
    if new.password.is_empty() {
        let words = format!("Account {name} has no password: anybody may log in as {name}");
        say(out, "account.changed", Severity::High, "T1098", words);
    } else if new.password.len() > 4 {
        let words = format!("The password of {name} stands in passwd, which everybody may read");
        say(out, "account.changed", Severity::High, "T1098", words);
    }
}

fn may_log_in(shell: &str) -> bool {
    let program = shell.rsplit('/').next().unwrap_or_default();
    !matches!(program, "nologin" | "false" | "true" | "sync" | "halt" | "shutdown")
}

fn altered(old: &Account<'_>, new: &Account<'_>, out: &mut Vec<Statement>) {
    let (name, said) = (quote(new.name), out.len());
    if old.uid != new.uid {
        let uid = |uid: Option<u32>| uid.map_or_else(|| "none".to_owned(), |uid| uid.to_string());
        let words = format!("The uid of {name} is {} now (it was {})", uid(new.uid), uid(old.uid));
        if new.uid == Some(0) {
            let words = format!("Account {name} is root now: its uid was changed from {} to 0", uid(old.uid));
            say(out, "account.uid0", Severity::Critical, "T1098", words);
        } else {
            say(out, "account.changed", Severity::Medium, "T1098", words);
        }
    }
    if old.gid != new.gid {
        let severity = if new.gid == Some(0) { Severity::High } else { Severity::Low };
        let gid = new.gid.map_or_else(|| "none".to_owned(), |gid| gid.to_string());
        say(out, "account.changed", severity, "T1098.007", format!("The group of {name} is {gid} now"));
    }
    if old.shell != new.shell {
        let (was, is) = (quote(old.shell), quote(new.shell));
        if may_log_in(new.shell) && !may_log_in(old.shell) {
            let words = format!("Account {name} may log in now: its shell is {is} and was {was}");
            say(out, "account.changed", Severity::Medium, "T1098", words);
        } else if !may_log_in(new.shell) && may_log_in(old.shell) {
            let words = format!("Account {name} may no longer log in: its shell is {is}");
            say(out, "account.locked", Severity::Low, "T1531", words);
        } else {
            say(out, "account.changed", Severity::Low, "T1098", format!("The shell of {name} is {is} now"));
        }
    }
    if old.home != new.home {
        let words = format!("The home of {name} is {} now", quote(new.home));
        say(out, "account.changed", Severity::Low, "T1098", words);
    }
    if old.password != new.password {
        password_field(new, out);
    }
    if out.len() == said {
        say(
            out,
            "account.changed",
            Severity::Info,
            "T1098",
            format!("The description of {name} was changed"),
        );
    }
}

/// A name or the uid 0 on a second line, which tools do not show.
fn doubles(case: &Case<'_>, out: &mut Vec<Statement>) {
    let twice = |lines: &[&str]| {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        lines
            .iter()
            .filter_map(|line| account(line))
            .for_each(|a| *seen.entry(a.name.to_owned()).or_default() += 1);
        seen.retain(|_, count| *count > 1);
        seen
    };
    let before = twice(&case.before.raw);
    for name in twice(&case.after.raw).keys().filter(|name| !before.contains_key(*name)) {
        let words = format!(
            "Account {} stands twice in passwd: which one counts is the program's choice",
            quote(name)
        );
        say(out, "account.changed", Severity::High, "T1098", words);
    }
}

/// How a password of shadow opens the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Password {
    Open,
    Locked,
    Set,
}

fn password(field: &str) -> Password {
    match field {
        "" => Password::Open,
        field if field.starts_with(['!', '*']) => Password::Locked,
        _ => Password::Set,
    }
}

/// Name, password and the rest.
fn shadow_line(line: &str) -> Option<(&str, (&str, &str))> {
    let (name, rest) = line.split_once(':')?;
    (!name.is_empty()).then_some((name, rest.split_once(':').unwrap_or((rest, ""))))
}

/// Name, third field, and the names in the fourth.
fn group_line(line: &str) -> Option<(&str, (&str, Vec<&str>))> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let id = fields.nth(1).unwrap_or_default();
    let members = fields.next().unwrap_or_default();
    Some((name, (id, members.split(',').map(str::trim).filter(|member| !member.is_empty()).collect())))
}

/// Reads `/etc/shadow`. Nothing of a hash is ever said.
pub fn shadow(case: &Case<'_>, out: &mut Vec<Statement>, users: &mut Vec<String>) {
    let (before, after) = (by_name(&case.before.raw, shadow_line), by_name(&case.after.raw, shadow_line));
    for (name, (new, aging)) in &after {
        let said = out.len();
        match before.get(name) {
            None => new_password(name, password(new), out),
            Some((old, old_aging)) => changed_password(name, (old, new), (old_aging, aging), out),
        }
        if out.len() > said {
            note(users, name);
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        let words = format!("The password entry of {} was removed", quote(name));
        say(out, "account.removed", Severity::Info, "T1531", words);
        note(users, name);
    }
}

fn new_password(name: &str, is: Password, out: &mut Vec<Statement>) {
    let name = quote(name);
    let (severity, words) = match is {
        Password::Open => {
            (Severity::High, format!("Account {name} has no password: anybody may log in as {name}"))
        }
        Password::Locked => (Severity::Info, format!("Account {name} has an entry without a password")),
        Password::Set => (Severity::Low, format!("Account {name} has a password")),
    };
    say(out, "account.changed", severity, "T1098", words);
}

fn changed_password(
    name: &str,
    (old, new): (&str, &str),
    (old_aging, aging): (&str, &str),
    out: &mut Vec<Statement>,
) {
    let mighty = name == "root";
    let shown = quote(name);
    match (password(old), password(new)) {
        (Password::Open, Password::Open) | (Password::Locked, Password::Locked) if old == new => {}
        (Password::Set, Password::Set) if old == new => {}
        (_, Password::Open) => {
            let words = format!("Account {shown} has no password any more: anybody may log in as {shown}");
            return say(out, "account.changed", Severity::High, "T1098", words);
        }
        (Password::Locked, Password::Locked) => {
            let words = format!("The password entry of {shown} was changed; it stays locked");
            return say(out, "account.changed", Severity::Info, "T1098", words);
        }
        (_, Password::Locked) => {
            return say(
                out,
                "account.locked",
                Severity::Low,
                "T1531",
                format!("The password of {shown} was locked"),
            );
        }
        (Password::Locked, Password::Set) if old.trim_start_matches('!') == new => {
            let severity = if mighty { Severity::High } else { Severity::Low };
            let words = format!("The password of {shown} was unlocked: it is the one of before");
            return say(out, "account.locked", severity, "T1098", words);
        }
        (Password::Locked, Password::Set) => {
            let severity = if mighty { Severity::High } else { Severity::Low };
            let words = format!("Account {shown} may log in by password now");
            return say(out, "account.changed", severity, "T1098", words);
        }
        (_, Password::Set) => {
            let severity = if mighty { Severity::Medium } else { Severity::Low };
            return say(
                out,
                "account.changed",
                severity,
                "T1098",
                format!("The password of {shown} was changed"),
            );
        }
    }
    // When the account as a whole ends is the sixth field behind the password; the first is when that was changed.
    let field = |aging: &str, at| aging.split(':').nth(at).unwrap_or_default().trim().to_owned();
    let (end, changed) = (field(aging, 5), field(aging, 0).parse::<i64>().unwrap_or(0));
    if end != field(old_aging, 5) {
        let (rule, words) = match end.parse::<i64>() {
            Ok(day) if day <= changed => (
                "account.locked",
                format!("Account {shown} has expired: nobody may log in as {shown} any more"),
            ),
            Ok(day) => ("account.changed", format!("Account {shown} expires on {} now", date(day))),
            Err(_) => ("account.changed", format!("Account {shown} does not expire any more")),
        };
        say(out, rule, Severity::Low, if rule == "account.locked" { "T1531" } else { "T1098" }, words);
    } else if old_aging != aging {
        let words = format!("When the password of {shown} expires was changed");
        say(out, "account.changed", Severity::Info, "T1098", words);
    }
}

/// A day since the epoch, as people write it.
fn date(day: i64) -> String {
    let time = Timestamp::from_seconds(day.saturating_mul(86_400)).to_string();
    time.get(..10).unwrap_or_default().to_owned()
}

/// Reads `/etc/group` and `/etc/gshadow`.
pub fn group(case: &Case<'_>, out: &mut Vec<Statement>, users: &mut Vec<String>) {
    let shadow = case.subject == Subject::Gshadow;
    let (before, after) = (by_name(&case.before.raw, group_line), by_name(&case.after.raw, group_line));
    for (name, (id, members)) in &after {
        let old = before.get(name);
        if old.is_none() {
            let words = if shadow {
                format!("Group {} has an entry in gshadow", quote(name))
            } else {
                format!("Group {} was created with gid {}", quote(name), quote(id))
            };
            let severity = if !shadow && id.trim() == "0" { Severity::High } else { Severity::Info };
            say(out, "account.changed", severity, "T1136.001", words);
        } else if let Some((old_id, _)) = old.filter(|(old_id, _)| old_id != id) {
            // The third field of gshadow lists who administers the group.
            let words = if shadow {
                format!("Group {} is administered by {} now", quote(name), quote(id))
            } else {
                format!("The gid of group {} is {} now (it was {})", quote(name), quote(id), quote(old_id))
            };
            say(out, "account.changed", Severity::Medium, "T1098.007", words);
        }
        let old_members = old.map(|(_, members)| members.as_slice()).unwrap_or_default();
        for member in members.iter().filter(|member| !old_members.contains(member)) {
            joined(member, name, out);
            note(users, member);
        }
        for member in old_members.iter().filter(|member| !members.contains(member)) {
            let words = format!("{} was taken out of group {}", quote(member), quote(name));
            say(out, "account.changed", Severity::Low, "T1098.007", words);
            note(users, member);
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        say(out, "account.changed", Severity::Info, "T1531", format!("Group {} was removed", quote(name)));
    }
}

fn joined(member: &str, group: &str, out: &mut Vec<Statement>) {
    let (member, shown) = (quote(member), quote(group));
    let (severity, words) = if READERS.contains(&group) {
        (Severity::Medium, format!("{member} was added to group {shown}"))
    } else if MIGHTY.contains(&group) {
        (Severity::High, format!("{member} was added to group {shown}, whose members are as good as root"))
    } else {
        (Severity::Low, format!("{member} was added to group {shown}"))
    };
    say(out, "account.changed", severity, "T1098.007", words);
}

/// Reads `/etc/subuid` and `/etc/subgid`.
pub fn subordinate(case: &Case<'_>, out: &mut Vec<Statement>, users: &mut Vec<String>) {
    for (came, lines) in [(true, case.added()), (false, case.removed())] {
        for (raw, _) in lines {
            let name = raw.split(':').next().unwrap_or_default();
            let verb = if came { "has" } else { "no longer has" };
            let words = format!("{} {verb} a range of subordinate ids", quote(name));
            say(out, "account.changed", Severity::Info, "T1098", words);
            note(users, name);
        }
    }
}
