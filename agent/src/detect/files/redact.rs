//! Takes secrets out of text before anybody is shown it, or any record holds it.
//!
//! **Promise.** Of what these rules know as a secret no byte gets out: password hashes; what follows a name such as
//! `password`, `token` or `secret`, up to the end of the line and over lines that continue it; credentials in URLs
//! and in arguments of well-known programs; private keys; and any long word that looks random. When in doubt the
//! rest of a line is left out: a reader may miss a harmless word, and never sees a secret one.
//!
//! **Limits.** A short secret that nothing names (a pass phrase alone on a line) cannot be known for one.

use std::borrow::Cow;

/// What stands in place of a secret.
pub const MARK: &str = "[redacted]";
/// In place of a password hash that locks the account.
const LOCKED: &str = "[locked]";

/// A random-looking word of at least so many characters is taken for a secret.
const RANDOM_CHARS_MIN: usize = 20;
/// The same where it mixes digits with letters of one case only: hexadecimal, base32.
const RANDOM_ONE_CASE_CHARS_MIN: usize = 32;

/// How the lines of a text are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// Any text.
    Plain,
    /// Colon-separated, with a password hash in the second field and nothing but numbers and names behind it.
    Hashes,
    /// Colon-separated, with a password in the second field only on systems from before shadow.
    Accounts,
    /// `passwd: files systemd`: names of databases, which are no secrets, and of where they are looked up.
    NameSwitch,
}

/// The lines of a text, as they may be shown.
pub fn lines(grammar: Grammar, raw: &[&str]) -> Vec<String> {
    let mut state = Redactor::default();
    raw.iter()
        .map(|line| match grammar {
            Grammar::Hashes => hashes(line),
            Grammar::Accounts => state.line(&accounts(line)),
            Grammar::NameSwitch if is_name_switch(line) => (*line).to_owned(),
            Grammar::NameSwitch => state.line(line),
            Grammar::Plain => state.line(line),
        })
        .collect()
}

/// A database and where it is looked up, of letters that services have in their names.
fn is_name_switch(line: &str) -> bool {
    let word = |text: &str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || "_[]=!".contains(c);
        text.len() < RANDOM_CHARS_MIN && text.chars().all(fine)
    };
    let Some((database, services)) = line.split_once(':') else { return false };
    let is_database = !database.is_empty() && database.chars().all(|c| c.is_ascii_lowercase());
    is_database && word(database) && services.split_whitespace().all(word)
}

/// One line that stands for itself.
pub fn line(text: &str) -> String {
    Redactor::default().line(text)
}

/// `name:hash:…`: only the name and fields that cannot hold a hash.
fn hashes(line: &str) -> String {
    let named = |text: &str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-.,".contains(c);
        text.len() <= 256 && text.trim_end_matches('$').chars().all(fine)
    };
    let mut fields = line.split(':');
    let name = fields.next().unwrap_or_default();
    let Some(hash) = fields.next() else {
        return if line.is_empty() { String::new() } else { MARK.to_owned() };
    };
    let hash = match hash {
        "" => "",
        hash if hash.starts_with(['!', '*']) => LOCKED,
        _ => MARK,
    };
    let mut out = format!("{}:{hash}", if named(name) && !is_random(name) { name } else { MARK });
    for field in fields {
        out.push(':');
        out.push_str(if named(field) && !field.contains('$') && !is_random(field) { field } else { MARK });
    }
    out
}

fn accounts(line: &str) -> Cow<'_, str> {
    let mut fields: Vec<&str> = line.splitn(3, ':').collect();
    match fields.get_mut(1) {
        Some(password) if !matches!(*password, "" | "x" | "*" | "!" | "!!") => {
            *password = MARK;
            Cow::Owned(fields.join(":"))
        }
        _ => Cow::Borrowed(line),
    }
}

/// What the lines before say about the next one.
#[derive(Debug, Default)]
enum Carried {
    #[default]
    Nothing,
    /// Within a private key.
    PrivateKey,
    /// Within a quoted value, until this character.
    Quote(char),
    /// The line before ended in a backslash within a value.
    Continued,
    /// A name without a value stood on a line with this indent: the next line, and what is indented deeper, is its
    /// value.
    Below(usize),
    /// The line before was part of such a value.
    Deeper(usize),
}

#[derive(Debug, Default)]
struct Redactor {
    carried: Carried,
}

impl Redactor {
    fn line(&mut self, text: &str) -> String {
        match std::mem::take(&mut self.carried) {
            Carried::PrivateKey => {
                if !text.contains("-----END") {
                    self.carried = Carried::PrivateKey;
                }
                return MARK.to_owned();
            }
            Carried::Quote(quote) => {
                if !text.contains(quote) {
                    self.carried = Carried::Quote(quote);
                }
                return MARK.to_owned();
            }
            Carried::Continued => {
                if text.ends_with('\\') {
                    self.carried = Carried::Continued;
                }
                return MARK.to_owned();
            }
            held @ (Carried::Below(_) | Carried::Deeper(_)) if text.trim().is_empty() => {
                self.carried = held;
                return text.to_owned();
            }
            Carried::Below(above) => {
                self.carried = Carried::Deeper(above);
                return MARK.to_owned();
            }
            Carried::Deeper(above)
                if indent(text) > above || text.trim_start().starts_with(['-', '"', '\'']) =>
            {
                self.carried = Carried::Deeper(above);
                return MARK.to_owned();
            }
            Carried::Deeper(_) | Carried::Nothing => {}
        }
        self.fresh_line(text)
    }

    fn fresh_line(&mut self, text: &str) -> String {
        if let Some(at) =
            text.find("-----BEGIN").filter(|_| text.to_ascii_uppercase().contains("PRIVATE KEY"))
        {
            if !text.get(at..).is_some_and(|rest| rest.contains("-----END")) {
                self.carried = Carried::PrivateKey;
            }
            return MARK.to_owned();
        }
        if pipes_a_password(text) {
            return MARK.to_owned();
        }
        let Some(named) = find_named(text) else { return words(text) };
        let value = text.get(named..).unwrap_or_default();
        let shown = words(text.get(..named).unwrap_or_default());
        let bare = value.trim();
        self.carried = match bare.chars().next() {
            None | Some('|' | '>' | '{' | '[' | '(') if bare.len() <= 2 => Carried::Below(indent(text)),
            Some(quote @ ('"' | '\'' | '`')) if !bare.chars().skip(1).any(|c| c == quote) => {
                Carried::Quote(quote)
            }
            _ if bare.ends_with('\\') => Carried::Continued,
            _ => Carried::Nothing,
        };
        if bare.is_empty() { shown + value } else { shown + MARK }
    }
}

fn indent(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// `echo root:secret | chpasswd`: what stands before is the secret.
fn pipes_a_password(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    lower.contains("chpasswd")
        || lower.find(['|', '<']).is_some_and(|at| {
            lower.get(at..).is_some_and(|rest| rest.contains("passw") || rest.contains("--stdin"))
        })
}

/// Where the value begins that a name on this line says is a secret.
fn find_named(text: &str) -> Option<usize> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let mut from = 0;
    while let Some(start) = text.get(from..)?.find(is_name).map(|at| from + at) {
        let rest = text.get(start..)?;
        let end = start + rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let name = text.get(start..end)?;
        if let Some(value) = value_of(text, start, name, end) {
            return Some(value);
        }
        from = end;
    }
    None
}

fn value_of(text: &str, start: usize, name: &str, end: usize) -> Option<usize> {
    let strength = strength(name)?;
    let behind = text.get(end..)?;
    let after_quote = behind.trim_start_matches(['"', '\'', ']', ')', '}']);
    let separated = after_quote.trim_start();
    let signs = separated.trim_start_matches(['=', ':', '>', ',', '?', '+']);
    let explicit = signs.len() < separated.len();
    let spaced = separated.len() < after_quote.len() || separated.is_empty();
    let path = start > 0 && text.get(..start).is_some_and(|before| before.ends_with('/'));
    if !explicit && (strength == Strength::Weak || !spaced || path) {
        // A name within a longer expression, such as a program's path.
        return None;
    }
    if !explicit && separated.is_empty() {
        return None;
    }
    if is_harmless(text, name, signs.trim()) {
        return None;
    }
    let value = end + (behind.len() - signs.len());
    Some(value + (signs.len() - signs.trim_start().len()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strength {
    /// Whatever separates it from what follows.
    Strong,
    /// Only with `=`, `:` or the like behind it.
    Weak,
}

/// Parts of names that say that a secret follows.
const STRONG: &[&str] = &[
    "passw",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "sharedkey",
    "signingkey",
    "encryptionkey",
    "authkey",
    "masterkey",
    "credential",
    "authorization",
    "bearer",
    "community",
    "requirepass",
    "masterauth",
    "userpass",
    "dbpass",
    "psk",
];

/// Names that are harmless whatever follows: settings about passwords.
const HARMLESS: &[&str] = &[
    "passwordauthentication",
    "permitemptypasswords",
    "passwdtries",
    "passwdtimeout",
    "passprompt",
    "nopasswd",
    "passmaxdays",
    "passmindays",
    "passwarnage",
    "passminlen",
    "passwdtimestamptimeout",
    "securetty",
];

fn strength(name: &str) -> Option<Strength> {
    let plain: String =
        name.chars().filter(|c| !"_-.".contains(*c)).map(|c| c.to_ascii_lowercase()).collect();
    if HARMLESS.contains(&plain.as_str()) || plain.ends_with("so") && plain.starts_with("pam") {
        return None;
    }
    if STRONG.iter().any(|stem| plain.contains(stem)) {
        return Some(Strength::Strong);
    }
    let weak = plain.ends_with("pwd")
        || plain.ends_with("pass") && plain != "bypass"
        || plain.ends_with("cookie")
        || matches!(plain.as_str(), "key" | "pin" | "skey" | "ikey" | "auth" | "salt" | "seed");
    weak.then_some(Strength::Weak)
}

/// Whether what follows the name is known not to be a secret.
fn is_harmless(line: &str, name: &str, value: &str) -> bool {
    let alone = value.trim_end_matches([';', ',', '"', '\'']).trim();
    let switch =
        ["yes", "no", "true", "false", "on", "off", "none", "null", "prohibit-password", "without-password"];
    if switch.contains(&alone.to_ascii_lowercase().as_str()) {
        return true;
    }
    let first = line.split_whitespace().next().unwrap_or_default();
    let control = value.split_whitespace().next().unwrap_or_default();
    let pam = ["required", "requisite", "sufficient", "optional", "include", "substack"];
    if matches!(first, "password" | "-password") && name.trim_start_matches('-') == "password" {
        return pam.contains(&control) || control.starts_with("[success") || control.starts_with("[default");
    }
    let services = ["files", "systemd", "compat", "sss", "ldap", "nis", "db", "winbind", "[notfound=return]"];
    first == "passwd:"
        && !value.is_empty()
        && value.split_whitespace().all(|word| services.contains(&word.to_ascii_lowercase().as_str()))
}

/// Text in which nothing is named a secret: credentials in URLs, arguments of programs, words that look random.
fn words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut previous = "";
    let (mut hide_next, mut client, mut transfer) = (false, false, false);
    let mut rest = text;
    while !rest.is_empty() {
        let gap = rest.len() - rest.trim_start().len();
        let (space, after) = rest.split_at(gap);
        let length = after.find(char::is_whitespace).unwrap_or(after.len());
        let (word, next) = after.split_at(length);
        out.push_str(space);
        let program = word
            .rsplit(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c)))
            .next()
            .unwrap_or_default();
        client |= matches!(
            program,
            "mysql"
                | "mysqldump"
                | "mysqladmin"
                | "mariadb"
                | "mariadb-dump"
                | "mariadb-admin"
                | "sshpass"
                | "smbclient"
        );
        transfer |= matches!(program, "curl" | "wget" | "smbclient" | "http" | "ldapsearch");
        if std::mem::take(&mut hide_next) {
            out.push_str(MARK);
        } else if client && (word == "-p" || word == "-P") || transfer && hides_next(word) {
            out.push_str(word);
            hide_next = true;
        } else if let Some(flag) = attached(word, client, transfer) {
            out.push_str(flag);
            out.push_str(MARK);
        } else {
            out.push_str(&one_word(word, previous));
        }
        previous = word;
        rest = next;
    }
    out
}

fn hides_next(word: &str) -> bool {
    matches!(
        word,
        "-u" | "-U" | "--user" | "--proxy-user" | "-w" | "--auth" | "-b" | "--cookie" | "-E" | "--cert"
    )
}

/// `-psecret`, `--user=name:secret`.
fn attached(word: &str, client: bool, transfer: bool) -> Option<&'static str> {
    if client && word.len() > 2 && word.starts_with("-p") {
        return Some("-p");
    }
    let flags = ["--user=", "--proxy-user=", "--auth=", "--cookie=", "-u", "-U"];
    flags.into_iter().find(|flag| transfer && word.len() > flag.len() && word.starts_with(flag))
}

fn one_word<'a>(word: &'a str, previous: &str) -> Cow<'a, str> {
    if let Some(at) = word.find("://") {
        let (scheme, rest) = word.split_at(at + 3);
        if let Some(end) = rest.rfind('@') {
            let (user, host) = rest.split_at(end);
            if user.contains(':') || !user.contains('/') {
                return Cow::Owned(format!("{scheme}{MARK}{}", random_out(host, previous)));
            }
        }
    }
    random_out(word, previous)
}

/// The word without what looks random in it. A public key behind its type is what it seems.
fn random_out<'a>(word: &'a str, previous: &str) -> Cow<'a, str> {
    let is_key_type = |text: &str| {
        let name = text.rsplit([' ', ',', '"']).next().unwrap_or_default();
        name.starts_with("ssh-") || name.starts_with("ecdsa-sha2-") || name.starts_with("sk-")
    };
    if word.starts_with("AAAA") && is_key_type(previous) {
        return Cow::Borrowed(word);
    }
    if is_hash(word) {
        return Cow::Owned(MARK.to_owned());
    }
    let part = |c: char| c.is_ascii_alphanumeric() || "+/_-".contains(c);
    let mut out = String::new();
    let mut rest = word;
    let mut hidden = false;
    while let Some(start) = rest.find(part) {
        let (before, run) = rest.split_at(start);
        let length = run.find(|c| !part(c)).unwrap_or(run.len());
        let (run, next) = run.split_at(length);
        out.push_str(before);
        // A path is judged name by name.
        let is_path = run.starts_with('/') || before.ends_with(['~', '.']) && run.starts_with('/');
        let random = if is_path { run.split('/').any(is_random) } else { is_random(run) };
        out.push_str(if random || is_known_token(run) { MARK } else { run });
        hidden |= random || is_known_token(run);
        rest = next;
    }
    out.push_str(rest);
    if hidden { Cow::Owned(out) } else { Cow::Borrowed(word) }
}

/// `$6$…`, `{SSHA}…`: a password hash anywhere in the word.
fn is_hash(word: &str) -> bool {
    let mut fields = word.split('$').skip(1);
    let crypt = fields.next().is_some_and(|id| {
        (1..=16).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    }) && fields.any(|salt| salt.len() >= 4);
    crypt || word.contains("{SSHA") || word.contains("{CRYPT}") || word.contains("{SHA")
}

/// Tokens that say of themselves what they are.
fn is_known_token(run: &str) -> bool {
    let starts = [
        "AKIA",
        "ASIA",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "xoxa-",
        "xoxb-",
        "xoxp-",
        "xoxs-",
        "sk-",
        "sk_live_",
        "rk_live_",
        "eyJ",
        "hvs",
        "npm_",
        "pypi-",
        "AIza",
        "dop_v1_",
        "SG",
    ];
    run.len() >= 16 && starts.iter().any(|start| run.starts_with(start))
}

fn is_random(run: &str) -> bool {
    let count = |test: fn(&char) -> bool| run.chars().filter(test).count();
    let (digits, upper, lower) =
        (count(char::is_ascii_digit), count(char::is_ascii_uppercase), count(char::is_ascii_lowercase));
    let letters = upper + lower;
    let mixed = digits >= 2 && upper >= 2 && lower >= 2 && run.len() >= RANDOM_CHARS_MIN;
    let one_case = digits >= 4 && letters >= 4 && run.len() >= RANDOM_ONE_CASE_CHARS_MIN;
    // A UUID names a disk, and is no secret.
    let uuid = run.len() == 36 && run.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    // Base64 of nothing but letters.
    let base64 = upper >= 6 && lower >= 6 && run.len() >= 32 && !run.contains(['-', '_']);
    (mixed || one_case || base64) && !uuid
}

#[cfg(test)]
mod tests;
