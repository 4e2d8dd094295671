//! Files below web roots: a script where only uploads are expected, a script that does what it is told from outside,
//! a page that was replaced.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use picket_protocol::finding::Severity;

use super::super::{Fact, short};
use super::{Case, Statement};

const RULE: &str = "persistence.web-script";
const TECHNIQUE: &str = "T1505.003";

/// Names of what a web server runs.
const SCRIPTS: &[&str] = &[
    "php", "php3", "php4", "php5", "php7", "php8", "phtml", "phar", "pht", "inc", "jsp", "jspx", "jsw",
    "asp", "aspx", "ashx", "asmx", "cfm", "cgi", "pl", "py", "rb", "lua", "war",
];
/// Directories into which visitors' files go.
const UPLOADS: &[&str] = &[
    "uploads",
    "upload",
    "files",
    "media",
    "images",
    "img",
    "avatars",
    "attachments",
    "cache",
    "tmp",
    "temp",
];
/// What makes a server run what it is told.
const EXECUTE: &[&str] = &[
    "eval(",
    "assert(",
    "system(",
    "exec(",
    "shell_exec(",
    "passthru(",
    "popen(",
    "proc_open(",
    "pcntl_exec(",
    "create_function(",
    "call_user_func",
    "preg_replace(\"/.*/e",
    "runtime.getruntime().exec",
    "processbuilder",
    "wscript.shell",
    "process.start",
    "os.system",
    "subprocess.",
    "`$_",
];
/// What comes from whoever asks.
const INPUT: &[&str] = &[
    "$_get",
    "$_post",
    "$_request",
    "$_cookie",
    "$_server['http_",
    "$_server[\"http_",
    "$_files",
    "php://input",
    "getallheaders",
    "request.getparameter",
    "request.form",
    "request.querystring",
    "request.item",
    "request(",
    "request.args",
    "cgi.fieldstorage",
    "param(",
];
/// How such code is hidden.
const HIDDEN: &[&str] =
    &["base64_decode(", "gzinflate(", "str_rot13(", "gzuncompress(", "convert_uudecode(", "hex2bin(", "chr("];
/// What hangs a script on other files: each page runs it.
const CONFIGURES: &[&str] =
    &["auto_prepend_file", "auto_append_file", "sethandler", "addhandler", "addtype application/x-httpd"];

/// Bytes behind a call in which its arguments are looked for.
const REACH_BYTES: usize = 160;

/// Whether the file is one that a web server runs, or that tells it what to run.
pub fn is_script(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if name == ".htaccess" || name == ".user.ini" {
        return true;
    }
    // `x.php.jpg` is run by servers that look at every ending.
    name.split('.').skip(1).any(|ending| SCRIPTS.contains(&ending))
}

/// Reads a script.
pub(super) fn read(case: &Case<'_>, out: &mut Vec<Statement>) {
    let path = short(&case.change.path);
    let text = case.after.raw.join("\n").to_ascii_lowercase();
    let fresh = matches!(case.fact, Fact::Created | Fact::Moved | Fact::TypeChanged);
    if !is_script(case.path) {
        return;
    }
    let verb = if fresh { "was added" } else { "was changed" };
    if let Some(why) = traits(&text) {
        let words = format!("A web script that {why} {verb}: {path}");
        out.push(Statement::new(RULE, Severity::High, TECHNIQUE, words));
    } else if is_configuration(case.path) {
        let hooks = CONFIGURES.iter().any(|word| text.contains(word));
        let severity = if hooks { Severity::High } else { Severity::Low };
        let words = if hooks {
            format!("{path} makes the web server run other files as scripts")
        } else {
            format!("A web server's setting {verb}: {path}")
        };
        out.push(Statement::new(RULE, severity, TECHNIQUE, words));
    } else if fresh && is_for_uploads(case.path) {
        let words = format!("A script was put where only uploads are expected: {path}");
        out.push(Statement::new(RULE, Severity::High, TECHNIQUE, words));
    } else {
        out.push(Statement::new(RULE, Severity::Low, TECHNIQUE, format!("A web script {verb}: {path}")));
    }
}

fn is_configuration(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name == ".htaccess" || name == ".user.ini"
}

fn is_for_uploads(path: &Path) -> bool {
    let matches = |part: &std::ffi::OsStr| {
        let part = part.as_bytes().to_ascii_lowercase();
        UPLOADS.iter().any(|upload| part == upload.as_bytes())
    };
    path.parent().is_some_and(|above| above.components().any(|part| matches(part.as_os_str())))
}

/// What a web shell does, as the middle of a sentence. `text` is in lower case.
fn traits(text: &str) -> Option<&'static str> {
    let any = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    // Input and execution within the same reach: large programs hold both far apart.
    let near = EXECUTE.iter().any(|needle| {
        text.match_indices(needle).take(200).any(|(at, _)| {
            let end = text.floor_char_boundary(at + REACH_BYTES);
            let reach = text.get(at..end).unwrap_or_default();
            INPUT.iter().any(|input| reach.contains(input))
        })
    });
    if near {
        return Some("runs what it is sent");
    }
    let eval =
        |hidden: &str| ["eval(", "assert("].iter().any(|call| text.contains(&format!("{call}{hidden}")));
    if HIDDEN.iter().any(|hidden| eval(hidden)) {
        return Some("runs what it has hidden in itself");
    }
    // A script of few lines that does nothing but this.
    if text.len() < 2_048 && any(EXECUTE) && any(INPUT) {
        return Some("runs what it is sent");
    }
    None
}
