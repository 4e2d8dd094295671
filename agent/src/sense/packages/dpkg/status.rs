//! dpkg's `status` file and the journal of changes to it (`updates/`): one stanza a package.

use crate::sense::packages::md5::{self, Md5};

/// What dpkg says of a package's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its files are in place.
    Installed,
    /// They may be.
    Incomplete,
    /// They are not; configuration may be.
    Absent,
}

/// One package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stanza {
    /// Its name.
    pub name: String,
    /// Its architecture.
    pub architecture: String,
    /// Its version.
    pub version: String,
    /// See [`State`].
    pub state: State,
    /// Configuration files by absolute path, with the digest of the version that the package brought.
    pub conffiles: Vec<(Vec<u8>, Md5)>,
}

/// All stanzas of a file. What is not understood is passed over: this reads a file that root alone writes, and a
/// package that is left out explains nothing.
pub fn parse(text: &[u8]) -> Vec<Stanza> {
    let mut stanzas = Vec::new();
    let mut open = Open::default();
    for line in text.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            stanzas.extend(std::mem::take(&mut open).close());
        } else {
            open.take(line);
        }
    }
    stanzas.extend(open.close());
    stanzas
}

#[derive(Default)]
struct Open {
    name: String,
    architecture: String,
    version: String,
    state: Option<State>,
    conffiles: Vec<(Vec<u8>, Md5)>,
    in_conffiles: bool,
}

impl Open {
    fn take(&mut self, line: &[u8]) {
        if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            if self.in_conffiles {
                self.conffiles.extend(conffile(line));
            }
            return;
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(field), Some(value)) = (parts.next(), parts.next()) else { return };
        self.in_conffiles = field == b"Conffiles";
        let value = || String::from_utf8_lossy(value.trim_ascii()).into_owned();
        match field {
            b"Package" => self.name = value(),
            b"Architecture" => self.architecture = value(),
            b"Version" => self.version = value(),
            b"Status" => self.state = state(&value()),
            _ => {}
        }
    }

    fn close(self) -> Option<Stanza> {
        let Self { name, architecture, version, state, conffiles, .. } = self;
        if name.is_empty() {
            return None;
        }
        Some(Stanza { name, architecture, version, state: state?, conffiles })
    }
}

fn state(status: &str) -> Option<State> {
    Some(match status.split(' ').nth(2)? {
        "installed" | "triggers-awaited" | "triggers-pending" => State::Installed,
        "not-installed" | "config-files" => State::Absent,
        _ => State::Incomplete,
    })
}

/// ` /etc/a file 0123… obsolete`: the path may hold spaces, the digest is the last word of 32 digits.
fn conffile(line: &[u8]) -> Option<(Vec<u8>, Md5)> {
    let mut rest = line.trim_ascii();
    loop {
        let at = rest.iter().rposition(|byte| *byte == b' ')?;
        let (before, word) = rest.split_at(at);
        if let Some(digest) = md5::parse(word.trim_ascii()) {
            return Some((before.to_vec(), digest));
        }
        rest = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_read_as_dpkg_writes_them() {
        let text = b"Package: adduser\nStatus: install ok installed\nArchitecture: all\nVersion: 3.134\nConffiles:\n \
            /etc/adduser.conf 0123456789abcdef0123456789abcdef\n /etc/old one 0123456789abcdef0123456789abcdef obsolete\n \
            /etc/new newconffile\nDescription: text\n /etc/not 0123456789abcdef0123456789abcdef\n\n\
            Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
            Package: half\nStatus: install reinstreq half-installed\nVersion: 2\n\nStatus: install ok installed\n\nnonsense";
        let stanzas = parse(text);
        let states: Vec<(&str, State)> =
            stanzas.iter().map(|stanza| (stanza.name.as_str(), stanza.state)).collect();
        assert_eq!(
            states,
            [("adduser", State::Installed), ("gone", State::Absent), ("half", State::Incomplete)]
        );
        let paths: Vec<&[u8]> = stanzas[0].conffiles.iter().map(|(path, _)| path.as_slice()).collect();
        assert_eq!(paths, [b"/etc/adduser.conf".as_slice(), b"/etc/old one"]);
        assert_eq!(stanzas[0].architecture, "all");
    }

    #[test]
    fn hostile_text_is_passed_over() {
        for text in [&b"\0\0\n:\n: :\nPackage"[..], b"Package: \xff\n", b"\n\n\n", b"Status: a b"] {
            assert!(parse(text).iter().all(|stanza| !stanza.name.is_empty()));
        }
    }
}
