//! PAM's stacks, and the settings of its modules: who is let in, and what is run on the way.
//!
//! A line that came is held against the one of the same type and module that went: another option of `pam_limits.so` is
//! an ordinary edit, a `required` that became `sufficient` is not.

use picket_protocol::finding::Severity;

use super::super::short;
use super::{Case, STATEMENTS_MAX, Statement, quote, suspicious};

const RULE: &str = "persistence.pam";
const TECHNIQUE: &str = "T1556.003";

/// Modules that let anybody in when that suffices.
const WEAK: &[&str] = &["pam_permit", "pam_exec", "pam_succeed_if", "pam_rootok", "pam_script"];
/// Modules that run a program.
const RUNNERS: &[&str] = &["pam_exec", "pam_script", "pam_python"];
/// Modules that distributions bring.
const KNOWN: &[&str] = &[
    "access",
    "cap",
    "cracklib",
    "debug",
    "deny",
    "echo",
    "env",
    "faildelay",
    "faillock",
    "filter",
    "fprintd",
    "ftp",
    "gnome_keyring",
    "google_authenticator",
    "group",
    "issue",
    "keyinit",
    "krb5",
    "lastlog",
    "lastlog2",
    "ldap",
    "limits",
    "listfile",
    "localuser",
    "loginuid",
    "mail",
    "mkhomedir",
    "motd",
    "namespace",
    "nologin",
    "permit",
    "pkcs11",
    "pwhistory",
    "pwquality",
    "rootok",
    "securetty",
    "selinux",
    "sepermit",
    "setquota",
    "shells",
    "sss",
    "stress",
    "succeed_if",
    "systemd",
    "systemd_home",
    "tally2",
    "time",
    "timestamp",
    "tty_audit",
    "u2f",
    "umask",
    "unix",
    "userdb",
    "usertype",
    "warn",
    "wheel",
    "winbind",
    "xauth",
    "yubico",
];

/// A line of a stack.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    /// `auth`, `account`, `password`, `session`; empty for an `@include`.
    kind: &'a str,
    control: &'a str,
    module: &'a str,
    arguments: &'a str,
}

impl Entry<'_> {
    /// The module without its place and ending.
    fn name(&self) -> &str {
        let file = self.module.rsplit('/').next().unwrap_or_default();
        file.strip_suffix(".so").unwrap_or(file)
    }

    fn is_known(&self) -> bool {
        let bare = self.name().strip_prefix("pam_").unwrap_or_default();
        // Modules have their own directory: a path leads elsewhere.
        !self.module.starts_with('/') && KNOWN.contains(&bare)
    }

    /// Whether whoever fails here is kept out.
    fn keeps_out(&self) -> bool {
        let by_name = ["required", "requisite", "include", "substack"].contains(&self.control);
        by_name
            || self.control.starts_with('[') && ["=die", "=bad"].iter().any(|way| self.control.contains(way))
    }
}

/// Reads what came and went.
pub fn read(case: &Case<'_>, out: &mut Vec<Statement>) {
    if case.path.starts_with("/etc/security") {
        settings(case, out);
        return;
    }
    let (added, removed) = (case.added(), case.removed());
    let service = case.path.ends_with("pam.conf");
    let (came, went) = (entries(&added, service), entries(&removed, service));
    let same = |one: &Entry<'_>, other: &Entry<'_>| (one.kind, one.name()) == (other.kind, other.name());
    let stack = case.path.file_name().map(|name| quote(&name.to_string_lossy())).unwrap_or_default();
    for (entry, shown) in &came {
        let former = went.iter().map(|(former, _)| former).find(|former| same(former, entry));
        let (severity, words) = judge(entry, former, &stack, &quote(shown));
        out.push(Statement::new(RULE, severity, TECHNIQUE, words));
        if out.len() >= STATEMENTS_MAX {
            return;
        }
    }
    for (entry, shown) in went.iter().filter(|(entry, _)| !came.iter().any(|(other, _)| same(entry, other))) {
        let guards = entry.keeps_out() && ["auth", "account"].contains(&entry.kind);
        let severity = if guards { Severity::High } else { Severity::Medium };
        let words = format!("A line of PAM is gone: {} ({})", quote(shown), short(&case.change.path));
        out.push(Statement::new(RULE, severity, TECHNIQUE, words));
        if out.len() >= STATEMENTS_MAX {
            return;
        }
    }
}

fn judge(entry: &Entry<'_>, former: Option<&Entry<'_>>, stack: &str, shown: &str) -> (Severity, String) {
    let name = entry.name();
    let lets_in = WEAK.contains(&name) && entry.control == "sufficient";
    let without = |entry: &Entry<'_>| entry.arguments.split_whitespace().any(|word| word == "nullok");
    if lets_in {
        (Severity::High, format!("PAM lets whoever passes this line in without more ({stack}): {shown}"))
    } else if RUNNERS.contains(&name) && former.is_none_or(|former| former.arguments != entry.arguments) {
        (Severity::High, format!("PAM now runs a program on the way ({stack}): {shown}"))
    } else if former.is_some_and(|former| former.keeps_out() && !entry.keeps_out()) {
        (Severity::High, format!("Whoever fails this line of PAM is no longer kept out ({stack}): {shown}"))
    } else if without(entry) && !former.is_some_and(without) {
        (Severity::Medium, format!("PAM lets accounts without a password in ({stack}): {shown}"))
    } else if former.is_some_and(|former| former.module == entry.module && former.control == entry.control) {
        (Severity::Low, format!("A line of PAM's stack {stack} has other options: {shown}"))
    } else if entry.kind.is_empty() || entry.is_known() {
        (Severity::Medium, format!("PAM's stack {stack} has a new line: {shown}"))
    } else {
        (Severity::High, format!("PAM's stack {stack} has a new line with a module of its own: {shown}"))
    }
}

/// `[service] type control module arguments`, by line; what cannot be read stands for itself.
fn entries<'a>(lines: &[(&'a str, &'a str)], with_service: bool) -> Vec<(Entry<'a>, &'a str)> {
    lines.iter().map(|(raw, shown)| (entry(raw, with_service), *shown)).collect()
}

fn entry(raw: &str, with_service: bool) -> Entry<'_> {
    let raw = raw.trim();
    if raw.starts_with('@') {
        return Entry { kind: "", control: "", module: raw, arguments: "" };
    }
    let rest = if with_service { word(raw).1 } else { raw };
    let (kind, rest) = word(rest);
    let (control, rest) = match rest.strip_prefix('[').and_then(|inner| inner.find(']')) {
        Some(end) => {
            (rest.get(..end + 2).unwrap_or(rest), rest.get(end + 2..).unwrap_or_default().trim_start())
        }
        None => word(rest),
    };
    let (module, arguments) = word(rest);
    Entry { kind: kind.trim_start_matches('-'), control, module, arguments }
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start())
}

/// `limits.conf`, `access.conf` and their kin.
fn settings(case: &Case<'_>, out: &mut Vec<Statement>) {
    let path = short(&case.change.path);
    // Who may log in, whose groups and whose capabilities they get.
    let opens = ["access", "group", "capability"].iter().any(|name| {
        let file = case.path.file_name().unwrap_or_default().to_string_lossy();
        file.strip_prefix(name).is_some_and(|rest| rest == ".conf")
    });
    let lines = case.added().into_iter().map(|line| (line, true));
    for ((raw, shown), came) in lines.chain(case.removed().into_iter().map(|line| (line, false))) {
        if out.len() >= STATEMENTS_MAX {
            return;
        }
        // In access.conf `-` keeps somebody out.
        let loosens = opens && raw.trim_start().starts_with('-') != came;
        let shown = quote(shown);
        let why = suspicious::grave_reason(raw).filter(|_| came);
        let (severity, words) = match (why, came) {
            (Some(why), _) => (Severity::High, format!("{path} now {why}: {shown}")),
            (None, true) => {
                let severity = if loosens { Severity::Medium } else { Severity::Low };
                (severity, format!("A setting of PAM's modules was made: {shown} ({path})"))
            }
            (None, false) if loosens => {
                (Severity::Medium, format!("A setting of PAM's modules is gone: {shown} ({path})"))
            }
            (None, false) => continue,
        };
        out.push(Statement::new(RULE, severity, TECHNIQUE, words));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_into_its_parts() {
        let parts = |line, service| {
            let entry = entry(line, service);
            [entry.kind, entry.control, entry.module, entry.arguments].map(str::to_owned)
        };
        assert_eq!(
            parts("auth required pam_unix.so try first", false),
            ["auth", "required", "pam_unix.so", "try first"]
        );
        assert_eq!(
            parts("-auth\t[success=1 default=ignore]  pam_x.so", false),
            ["auth", "[success=1 default=ignore]", "pam_x.so", ""]
        );
        assert_eq!(parts("sshd auth required pam_unix.so", true), ["auth", "required", "pam_unix.so", ""]);
        assert_eq!(parts("@include common-auth", false), ["", "", "@include common-auth", ""]);
        assert_eq!(parts("auth [", false), ["auth", "[", "", ""]);
        assert_eq!(parts("", false), ["", "", "", ""]);
    }
}
