//! Traits of attacks, and what they weigh together.

use std::sync::LazyLock;

/// Enough.
const SCORE_ENOUGH: u32 = 3;

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// SQL, commands, scripts or templates in a place for data.
    Injection,
    /// A file outside of what is served.
    Traversal,
}

/// What a request is after, and by what it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What is tried.
    pub attack: Attack,
    /// The traits, by name.
    pub traits: Vec<&'static str>,
    /// What they weigh.
    pub score: u32,
    /// Layers of percent signs.
    pub layers: u32,
}

/// Traits by a fixed text: text, name, weight.
type Texts = &'static [(&'static str, &'static str, u32)];

/// Which bytes a text has, as bits; those beyond ASCII are one. A request that lacks a byte of a trait does not have the
/// trait, and most requests lack one of each.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Bytes(u128);

impl Bytes {
    const fn of(bytes: &[u8]) -> Self {
        let mut set = 0;
        let mut rest = bytes;
        while let [byte, behind @ ..] = rest {
            // The zero byte stands for those beyond ASCII: no trait has either.
            set |= 1 << (if *byte < 128 { *byte } else { 0 });
            rest = behind;
        }
        Self(set)
    }

    fn has(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }
}

/// A list of traits, with the bytes of each.
struct Traits {
    texts: Texts,
    bytes: LazyLock<Vec<Bytes>>,
}

macro_rules! traits {
    ($name:ident, $texts:ident) => {
        static $name: Traits = Traits {
            texts: $texts,
            bytes: LazyLock::new(|| $texts.iter().map(|(text, ..)| Bytes::of(text.as_bytes())).collect()),
        };
    };
}

traits!(SQL_TRAITS, SQL);
traits!(SQL_BESIDE_TRAITS, SQL_BESIDE);
traits!(CODE_TRAITS, CODE);
traits!(COMMAND_BESIDE_TRAITS, COMMAND_BESIDE);
traits!(SECRET_TRAITS, SECRETS);
traits!(WRAPPER_TRAITS, WRAPPERS);

/// A request, and which bytes it has.
struct Request<'a> {
    text: &'a str,
    bytes: Bytes,
}

impl<'a> Request<'a> {
    fn contains(&self, text: &str) -> bool {
        self.bytes.has(Bytes::of(text.as_bytes())) && self.text.contains(text)
    }

    fn split(&self, separator: &'a str) -> impl Iterator<Item = &'a str> {
        let there = self.bytes.has(Bytes::of(separator.as_bytes()));
        there.then(|| self.text.split(separator).skip(1)).into_iter().flatten()
    }
}

const SQL: Texts = &[
    ("union select", "union select", 2),
    ("union all select", "union select", 2),
    ("union distinct select", "union select", 2),
    ("information_schema", "information_schema", 3),
    ("waitfor delay", "waitfor delay", 3),
    ("xp_cmdshell", "xp_cmdshell", 3),
    ("pg_sleep(", "pg_sleep", 3),
    ("benchmark(", "benchmark", 2),
    ("extractvalue(", "extractvalue", 3),
    ("updatexml(", "updatexml", 3),
    ("load_file(", "load_file", 3),
    ("into outfile", "into outfile", 3),
    ("into dumpfile", "into dumpfile", 3),
    ("dbms_pipe", "dbms_pipe", 3),
    ("sqlite_master", "sqlite_master", 3),
    ("@@version", "@@version", 2),
    ("sleep(", "sleep", 2),
    ("concat(", "concat", 1),
    ("null,null", "list of nulls", 2),
    ("null, null", "list of nulls", 2),
    ("; drop table", "drop table", 3),
    (";drop table", "drop table", 3),
    ("; insert into", "insert into", 2),
    ("; select", "stacked select", 2),
    ("(select", "sub-select", 2),
    ("order by 1", "order by number", 1),
    ("having 1=", "having", 2),
    ("'--", "quote and comment", 3),
    ("' --", "quote and comment", 3),
    ("'#", "quote and comment", 2),
    ("' or ", "quote and or", 2),
    ("' and ", "quote and and", 1),
    ("\" or ", "quote and or", 2),
    ("'||", "quote and concatenation", 2),
    ("') or", "quote and or", 2),
];
/// These count beside another only.
const SQL_BESIDE: Texts =
    &[("--", "comment", 1), (" from ", "from", 1), ("'", "quote", 1), ("null", "null", 1)];

const CODE: Texts = &[
    ("${jndi:", "jndi look-up", 3),
    ("${${", "nested look-up", 2),
    ("() {", "shell function", 3),
    ("<?php", "php code", 3),
    ("base64_decode(", "base64_decode", 2),
    ("eval(", "eval", 2),
    ("system(", "system call", 2),
    ("passthru(", "passthru", 3),
    ("shell_exec(", "shell_exec", 3),
    ("phpinfo(", "phpinfo", 3),
    ("runtime.getruntime", "java runtime", 3),
    ("java.lang.", "java class", 2),
    ("processbuilder", "java process", 2),
    ("__class__", "python class", 2),
    ("__import__", "python import", 3),
    ("{{7*7}}", "template arithmetic", 3),
    ("${7*7}", "template arithmetic", 3),
    ("#{7*7}", "template arithmetic", 3),
    ("invokefunction", "invokefunction", 3),
    ("call_user_func", "call_user_func", 3),
    ("allow_url_include", "allow_url_include", 3),
    ("auto_prepend_file", "auto_prepend_file", 3),
    ("/bin/sh", "shell", 2),
    ("/bin/bash", "shell", 2),
    ("/dev/tcp/", "shell connection", 3),
    ("cmd.exe", "shell", 2),
    ("powershell", "shell", 2),
    ("<script", "script tag", 2),
    ("javascript:", "script link", 1),
    ("onerror=", "event handler", 1),
    ("onload=", "event handler", 1),
    ("alert(", "alert", 1),
    ("document.cookie", "cookie", 2),
    ("<svg", "svg tag", 1),
    ("<img", "img tag", 1),
    ("<iframe", "iframe tag", 1),
    ("<!entity", "xml entity", 3),
];

/// Programs that are called through an injected shell.
const COMMANDS: [&str; 20] = [
    "id",
    "cat ",
    "wget ",
    "curl ",
    "nc ",
    "bash",
    "sh ",
    "uname",
    "whoami",
    "ping ",
    "sleep ",
    "nslookup ",
    "ls",
    "chmod ",
    "rm ",
    "echo ",
    "cd ",
    "python",
    "perl ",
    "busybox",
];
const SEPARATORS: [&str; 6] = [";", "|", "&&", "$(", "`", "%0a"];
/// What an injected command works with.
const COMMAND_BESIDE: Texts = &[
    ("/etc/passwd", "passwd", 2),
    ("http://", "download", 1),
    ("https://", "download", 1),
    ("/tmp/", "temporary directory", 1),
    ("-c ", "command option", 1),
    ("chmod ", "chmod", 1),
];

/// Files that are nobody's business.
const SECRETS: Texts = &[
    ("etc/passwd", "passwd", 2),
    ("etc/shadow", "shadow", 2),
    ("etc/hosts", "hosts", 1),
    ("proc/self", "proc", 2),
    ("win.ini", "win.ini", 2),
    ("boot.ini", "boot.ini", 2),
    (".ssh/", "ssh keys", 2),
    ("id_rsa", "ssh keys", 2),
    ("web-inf", "web-inf", 2),
    ("wp-config", "wp-config", 1),
    (".env", "environment", 1),
    ("bin/sh", "shell", 2),
    ("windows/system32", "system32", 2),
    ("windows\\system32", "system32", 2),
];
const WRAPPERS: Texts = &[
    ("php://filter", "php wrapper", 3),
    ("php://input", "php wrapper", 3),
    ("expect://", "expect wrapper", 3),
    ("phar://", "phar wrapper", 3),
    ("=file://", "file link", 3),
    ("data://text", "data wrapper", 3),
    ("=/etc/passwd", "passwd as a value", 3),
    ("=/etc/shadow", "shadow as a value", 3),
    ("=/proc/self", "proc as a value", 3),
];

/// What weighs most.
pub fn judge(request: &str, layers: u32) -> Option<Judgement> {
    let request = Request { text: request, bytes: Bytes::of(request.as_bytes()) };
    let traversal = traversal(&request, layers);
    let injection =
        [sql(&request), code(&request)].into_iter().max_by_key(|found| found.score).unwrap_or_default();
    let (attack, found) = if traversal.score >= injection.score {
        (Attack::Traversal, traversal)
    } else {
        (Attack::Injection, injection)
    };
    (found.score >= SCORE_ENOUGH).then_some(Judgement {
        attack,
        traits: found.traits,
        score: found.score,
        layers,
    })
}

#[derive(Default)]
struct Found {
    traits: Vec<&'static str>,
    score: u32,
}

impl Found {
    /// Each trait counts once.
    fn add(&mut self, name: &'static str, weight: u32) {
        if !self.traits.contains(&name) {
            self.traits.push(name);
            self.score += weight;
        }
    }

    fn look(&mut self, request: &Request<'_>, traits: &Traits) {
        for ((text, name, weight), bytes) in traits.texts.iter().zip(traits.bytes.iter()) {
            if request.bytes.has(*bytes) && request.text.contains(text) {
                self.add(name, *weight);
            }
        }
    }
}

fn sql(request: &Request<'_>) -> Found {
    let mut found = Found::default();
    found.look(request, &SQL_TRAITS);
    if is_tautology(request) {
        found.add("tautology", 3);
    }
    if !found.traits.is_empty() {
        found.look(request, &SQL_BESIDE_TRAITS);
    }
    found
}

/// `or 1=1`, `and 'a'='a`: the same on both sides, behind a word that joins conditions.
fn is_tautology(request: &Request<'_>) -> bool {
    for joint in [" or ", " and ", "'or ", "'or'", "||", " or(", " or'"] {
        let mut rest = if request.contains(joint) { request.text } else { continue };
        while let Some(at) = rest.find(joint) {
            rest = rest.get(at + joint.len()..).unwrap_or_default();
            let Some((left, right)) = rest.split_once('=') else { break };
            let bare = |text: &str| text.trim_matches(['\'', '"', ' ', '(', ')']).to_owned();
            let left = bare(left);
            let right: String =
                bare(right).chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if !left.is_empty() && left.len() <= 32 && left == right {
                return true;
            }
        }
    }
    false
}

fn code(request: &Request<'_>) -> Found {
    let mut found = Found::default();
    found.look(request, &CODE_TRAITS);
    let commands = SEPARATORS.iter().any(|separator| {
        request.split(separator).any(|behind| {
            let behind = behind.trim_start();
            COMMANDS.iter().any(|command| {
                behind.strip_prefix(command).is_some_and(|rest| {
                    command.ends_with(' ')
                        || rest.is_empty()
                        || rest.starts_with([' ', ';', '|', ')', '`', '&', '<', '>'])
                })
            })
        })
    });
    if commands {
        found.add("command behind a separator", 2);
        found.look(request, &COMMAND_BESIDE_TRAITS);
        if ["$(", "`", "; "].into_iter().any(|syntax| request.contains(syntax)) {
            found.add("shell syntax", 1);
        }
    }
    found
}

fn traversal(request: &Request<'_>, layers: u32) -> Found {
    let mut found = Found::default();
    found.look(request, &WRAPPER_TRAITS);
    let text = request.text;
    let steps = if request.contains("..") {
        text.matches("../").count() + text.matches("..\\").count() + text.matches("..;/").count()
    } else {
        0
    };
    match steps {
        0 => return found,
        1 | 2 => found.add("a step up", 1),
        _ => found.add("many steps up", 2),
    }
    if layers > 1 {
        found.add("encoded twice", 2);
    }
    found.look(request, &SECRET_TRAITS);
    if request.text.contains('\0') {
        found.add("zero byte", 2);
    }
    found
}
