//! `authorized_keys` and `sshd_config`: which keys open an account, and whom the ssh server lets in.

use std::collections::BTreeMap;
use std::path::Path;

use picket_protocol::crypto::from_base64;
use picket_protocol::finding::Severity;

use super::super::redact;
use super::super::short;
use super::{Case, STATEMENTS_MAX, Statement, counts, quote, suspicious};

/// What opens accounts and is no key of a list, or cannot be told apart.
const KEY_RULE: &str = "persistence.ssh-key";
const ADDED_RULE: &str = "account.key-added";
const REMOVED_RULE: &str = "account.key-removed";
const KEY_TECHNIQUE: &str = "T1098.004";

/// A line of `authorized_keys`.
#[derive(Debug, PartialEq, Eq)]
struct Key<'a> {
    options: &'a str,
    kind: &'a str,
    /// SHA-256 of the key, as ssh shows it.
    fingerprint: String,
    comment: &'a str,
}

/// Reads a list of keys.
pub fn keys(case: &Case<'_>, out: &mut Vec<Statement>, users: &mut Vec<String>) {
    let (before, after) = (all_keys(&case.before.raw), all_keys(&case.after.raw));
    let whose = owner(case.path).unwrap_or_else(|| {
        let uid = case.change.after.as_ref().map_or(0, |state| state.meta.uid);
        format!("user {uid}")
    });
    let list = if case.path.ends_with("authorized_keys2") { "authorized_keys2" } else { "authorized_keys" };
    let said = out.len();
    for key in &after {
        match before.iter().find(|old| old.fingerprint == key.fingerprint) {
            None => out.push(added_key(key, &whose, list)),
            Some(old) if old.options != key.options => out.push(other_options(key, &whose, list)),
            Some(_) => {}
        }
        if out.len() >= STATEMENTS_MAX {
            break;
        }
    }
    for key in before.iter().filter(|old| !after.iter().any(|key| key.fingerprint == old.fingerprint)) {
        if out.len() >= STATEMENTS_MAX {
            break;
        }
        let words = format!("A key {} was removed from {whose}'s {list}", shown_key(key));
        out.push(Statement::new(REMOVED_RULE, Severity::Low, KEY_TECHNIQUE, words));
    }
    if out.len() > said {
        users.push(whose);
    }
}

fn added_key(key: &Key<'_>, whose: &str, list: &str) -> Statement {
    let shown = shown_key(key);
    let mut words = if option(key.options, "cert-authority").is_some() {
        format!("Certificates signed by {shown} open the account of {whose} now ({list})")
    } else {
        format!("A key {shown} was added to {whose}'s {list}")
    };
    if let Some(command) = option(key.options, "command") {
        let why = suspicious::reason(command).map(|why| format!(", which {why}")).unwrap_or_default();
        words.push_str(&format!("; it runs {}{why}", quote(&redact::line(command))));
    } else if !key.options.is_empty() {
        words.push_str(&format!("; with {}", quote(&redact::line(key.options))));
    }
    Statement::new(ADDED_RULE, Severity::High, KEY_TECHNIQUE, words)
}

fn other_options(key: &Key<'_>, whose: &str, list: &str) -> Statement {
    let shown = shown_key(key);
    let options =
        if key.options.is_empty() { "none any more".to_owned() } else { quote(&redact::line(key.options)) };
    let words = format!("What the key {shown} in {whose}'s {list} may do was changed: {options}");
    Statement::new(KEY_RULE, Severity::Medium, KEY_TECHNIQUE, words)
}

fn shown_key(key: &Key<'_>) -> String {
    let comment = redact::line(key.comment);
    if comment.trim().is_empty() {
        key.fingerprint.clone()
    } else {
        format!("{} ({})", key.fingerprint, quote(&comment))
    }
}

/// Whose account a list opens, as far as its place tells.
fn owner(path: &Path) -> Option<String> {
    if path.starts_with("/root") {
        return Some("root".to_owned());
    }
    let mut parts = path.components().rev().skip(1);
    let above = parts.next()?.as_os_str();
    let home = if above == ".ssh" { parts.next()?.as_os_str() } else { path.file_name()? };
    Some(quote(&home.to_string_lossy()))
}

fn all_keys<'a>(lines: &[&'a str]) -> Vec<Key<'a>> {
    lines.iter().filter(|line| counts(line)).filter_map(|line| key(line.trim())).collect()
}

/// A key, wherever its type stands: options come first, and may hold spaces in quotes.
fn key(line: &str) -> Option<Key<'_>> {
    let types = |word: &str| {
        ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "webauthn-"]
            .iter()
            .any(|start| word.starts_with(start))
    };
    let mut from = 0;
    let (mut quoted, mut escaped) = (false, false);
    let mut starts = vec![0];
    for (at, c) in line.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\t' if !quoted => starts.push(at + 1),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        if starts.len() > 64 {
            break;
        }
    }
    let kind_at = starts.into_iter().find(|at| line.get(*at..).is_some_and(types))?;
    from += kind_at;
    let options = line.get(..from)?.trim();
    let mut words = line.get(from..)?.splitn(3, [' ', '\t']);
    let kind = words.next()?;
    let blob = words.next().unwrap_or_default();
    let comment = words.next().unwrap_or_default().trim();
    Some(Key { options, kind, fingerprint: fingerprint(blob), comment })
}

/// As `ssh-keygen -l` writes it; of what is no base64 the text itself counts.
fn fingerprint(blob: &str) -> String {
    let bytes = from_base64(blob).unwrap_or_else(|| blob.as_bytes().to_vec());
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let encoded = picket_protocol::crypto::to_base64(digest.as_ref());
    format!("SHA256:{}", encoded.trim_end_matches('='))
}

/// The value of an option; empty for one that has none.
fn option<'a>(options: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = options;
    loop {
        let hit = rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        let behind = rest.get(name.len()..).unwrap_or_default();
        if hit && (behind.is_empty() || behind.starts_with([',', '='])) {
            let value = behind.strip_prefix('=').unwrap_or_default();
            return Some(match value.strip_prefix('"') {
                Some(value) => value
                    .rfind("\",")
                    .or_else(|| value.rfind('"'))
                    .and_then(|end| value.get(..end))
                    .unwrap_or(value),
                None => value.split(',').next().unwrap_or_default(),
            });
        }
        rest = skip_option(rest)?;
    }
}

fn skip_option(options: &str) -> Option<&str> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in options.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            ',' if !quoted => return options.get(at + 1..),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

/// Reads the ssh server's configuration.
pub fn server(case: &Case<'_>, out: &mut Vec<Statement>) {
    let (before, after) = (settings(&case.before.raw), settings(&case.after.raw));
    let path = short(&case.change.path);
    let keys: std::collections::BTreeSet<&(String, String)> = before.keys().chain(after.keys()).collect();
    for at in keys {
        let (old, new) = (before.get(at), after.get(at));
        if old == new || out.len() >= STATEMENTS_MAX {
            continue;
        }
        let (scope, keyword) = at;
        let (rule, severity, technique, words) = directive(keyword, old, new);
        let words = match scope.as_str() {
            "" => words,
            scope => format!("{words}, for those who match \"{}\"", quote(scope)),
        };
        let words = words.replace("{path}", &path);
        out.push(Statement::new(rule, severity, technique, words));
    }
}

type Settings = BTreeMap<(String, String), Vec<String>>;

/// Values by scope (`Match` block) and keyword in lower case. Of most keywords the first value counts; all are kept,
/// in order.
fn settings(lines: &[&str]) -> Settings {
    let mut found = Settings::new();
    let mut scope = String::new();
    for line in lines.iter().map(|line| line.trim()).filter(|line| counts(line)) {
        let end = line.find([' ', '\t', '=']).unwrap_or(line.len());
        let (keyword, value) = line.split_at(end);
        let keyword = keyword.to_ascii_lowercase();
        let value = value.trim_start_matches([' ', '\t', '=']).trim().trim_matches('"').to_owned();
        if keyword == "match" {
            scope = if value.eq_ignore_ascii_case("all") { String::new() } else { value };
        } else {
            found.entry((scope.clone(), keyword)).or_default().push(value);
        }
    }
    found
}

/// What holds now, and whether it may let more in than before. A line that is gone leaves sshd its own default.
fn effective(keyword: &str, old: Option<&Vec<String>>, new: Option<&Vec<String>>) -> (String, bool) {
    let default = match keyword {
        "permitrootlogin" => "prohibit-password",
        "passwordauthentication" | "kbdinteractiveauthentication" => "yes",
        "usepam" => "no",
        _ => "",
    };
    let first = |values: Option<&Vec<String>>| {
        values
            .and_then(|values| values.first())
            .map_or(default.to_owned(), |value| value.to_ascii_lowercase())
    };
    let (was, value) = (first(old), first(new));
    let loosens = match keyword {
        _ if default.is_empty() => true,
        "usepam" => was == "yes",
        _ => new.is_some() || was == "no" || was == "forced-commands-only",
    };
    (value, loosens)
}

fn directive(
    keyword: &str,
    old: Option<&Vec<String>>,
    new: Option<&Vec<String>>,
) -> (&'static str, Severity, &'static str, String) {
    let loosened = |severity, words: &str| ("defence.service", severity, "T1556", words.to_owned());
    let (value, loosens) = effective(keyword, old, new);
    let shown = quote(&redact::line(&new.map(|values| values.join(", ")).unwrap_or_default()));
    match (keyword, value.as_str()) {
        _ if new.is_none() && !loosens => default_again(keyword, old),
        ("permitrootlogin", "yes") => loosened(Severity::High, "sshd now permits root logins by password"),
        ("permitrootlogin", "prohibit-password" | "without-password") => {
            loosened(Severity::Medium, "sshd now permits root logins by key")
        }
        ("permitemptypasswords", "yes") => {
            loosened(Severity::High, "sshd now lets accounts without a password in")
        }
        (
            "passwordauthentication" | "kbdinteractiveauthentication" | "challengeresponseauthentication",
            "yes",
        ) => loosened(Severity::Medium, "sshd now permits logins by password"),
        ("permituserenvironment", "yes") => loosened(
            Severity::High,
            "sshd now lets users set their environment, and so load libraries of their own",
        ),
        ("hostbasedauthentication", "yes") => {
            loosened(Severity::High, "sshd now trusts what other hosts say of their users")
        }
        ("strictmodes", "no") => {
            loosened(Severity::High, "sshd no longer minds who may write to the lists of keys")
        }
        ("usepam", "no") => loosened(Severity::Medium, "sshd no longer asks PAM"),
        ("loglevel", "quiet" | "fatal") => (
            "defence.logging",
            Severity::High,
            "T1562.006",
            "sshd no longer writes down who logs in".to_owned(),
        ),
        ("authorizedkeysfile", _) if new.is_some() => {
            (KEY_RULE, Severity::High, KEY_TECHNIQUE, format!("sshd now takes keys from {shown}"))
        }
        ("authorizedkeyscommand" | "authorizedprincipalscommand" | "trustedusercakeys", _)
            if new.is_some() =>
        {
            (KEY_RULE, Severity::High, KEY_TECHNIQUE, format!("sshd now takes keys by {keyword} {shown}"))
        }
        ("forcecommand" | "subsystem", _) if new.is_some() => (
            "persistence.shell",
            Severity::Medium,
            "T1546.004",
            format!("sshd now runs by {keyword}: {shown}"),
        ),
        ("allowusers" | "allowgroups" | "denyusers" | "denygroups", _) => {
            let now = if new.is_some() { shown } else { "anybody".to_owned() };
            (
                "file.modified",
                Severity::Medium,
                "T1556",
                format!("Whom sshd lets in was changed: {keyword} is {now}"),
            )
        }
        _ if new.is_none() => default_again(keyword, old),
        _ => (
            "file.modified",
            Severity::Low,
            "T1556",
            format!("sshd: {} is {shown} now, in {{path}}", quote(keyword)),
        ),
    }
}

fn default_again(keyword: &str, old: Option<&Vec<String>>) -> (&'static str, Severity, &'static str, String) {
    let was = quote(&redact::line(&old.map(|values| values.join(", ")).unwrap_or_default()));
    let words = format!("sshd has its own default for {} again (it was {was}) in {{path}}", quote(keyword));
    ("file.modified", Severity::Low, "T1556", words)
}
