//! What actions on the host name: paths, accounts, units, processes, content, and where a file comes back from.

use super::bounds;

/// Most paths that a scan may name.
pub const PATHS_MAX: usize = 64;
/// Longest path, in bytes: Linux takes no longer one.
pub const PATH_BYTES_MAX: usize = 4_095;
/// Longest name of a unit, in bytes: systemd's own.
pub const UNIT_BYTES_MAX: usize = 255;
/// Longest name of an account, in bytes: shadow's own.
pub const USER_BYTES_MAX: usize = 32;
/// Highest number of a process: Linux's own bound on 64 bits.
pub const PID_MAX: u32 = 4_194_304;

/// What a file comes back from: a member `command` or a member `finding`, one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "Named")]
pub enum RestoreFrom {
    /// The vault of the command that took it away, or of the act of a playbook's step that did.
    Command(uuid::Uuid),
    /// The before-image that the file sensor kept, of the change or removal that this finding of the host tells of.
    Finding(uuid::Uuid),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    command: Option<uuid::Uuid>,
    finding: Option<uuid::Uuid>,
}

impl TryFrom<Named> for RestoreFrom {
    type Error = &'static str;

    fn try_from(named: Named) -> Result<Self, Self::Error> {
        match (named.command, named.finding) {
            (Some(command), None) => Ok(Self::Command(command)),
            (None, Some(finding)) => Ok(Self::Finding(finding)),
            (Some(_), Some(_)) => {
                Err("restore-file names both a command and a finding: it takes one of the two")
            }
            (None, None) => {
                Err("restore-file names neither a command nor a finding: it takes one of the two")
            }
        }
    }
}

impl RestoreFrom {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Command(id) => {
                bounds(matches!(id.get_version_num(), 7 | 8), "command is not the id of one")
            }
            Self::Finding(id) => bounds(id.get_version_num() == 7, "finding is not the id of one"),
        }
    }
}

pub(super) fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= PATH_BYTES_MAX && !path.contains('\0')
}

/// A path that has one form only, of a thing below the root.
pub(super) fn is_whole_path(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    is_path(path) && path.strip_prefix('/').is_some_and(|parts| parts.split('/').all(plain))
}

/// No more than what one field of `/etc/shadow` can hold; not an entry of NIS (`+`, `-`).
pub(super) fn is_user(user: &str) -> bool {
    let fits = |character: char| character.is_ascii_graphic() && !":,/".contains(character);
    (1..=USER_BYTES_MAX).contains(&user.len()) && user.chars().all(fits) && !user.starts_with(['+', '-'])
}

pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// As `systemd.unit(5)` writes names, of the kinds that have processes.
pub(super) fn is_unit(unit: &str) -> bool {
    let kind = [".service", ".scope", ".slice"].iter().find_map(|kind| unit.strip_suffix(kind));
    let fits = |character: char| character.is_ascii_alphanumeric() || ":_.\\@-".contains(character);
    unit.len() <= UNIT_BYTES_MAX && kind.is_some_and(|name| !name.is_empty() && name.chars().all(fits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_path_and_a_user_one_field() {
        for path in ["/etc/cron.d/x", "/tmp/a b", "/x", "/tmp/..x/ü\n"] {
            assert!(is_whole_path(path), "{path}");
        }
        for path in ["", "/", "etc/x", "/etc/", "//etc", "/etc/../x", "/./x", "/x\0", "/a//b"] {
            assert!(!is_whole_path(path), "{path}");
        }
        for user in ["alice", "host$", "a.b-c_d", "_x"] {
            assert!(is_user(user), "{user}");
        }
        for user in ["", "+", "-x", "+@crew", "a:b", "a b", "a\n", "a/b", &"x".repeat(33)] {
            assert!(!is_user(user), "{user}");
        }
        assert!(is_sha256(&"0a".repeat(32)) && !is_sha256(&"0A".repeat(32)) && !is_sha256("0a"));
    }

    #[test]
    fn names_are_those_of_systemd() {
        for unit in ["nginx.service", "user@1000.service", "system-\\x2d.slice", "session-3.scope"] {
            assert!(is_unit(unit), "{unit}");
        }
        for unit in ["nginx", ".service", "a/../b.service", "x y.service", "nginx.socket", "../x.slice"] {
            assert!(!is_unit(unit), "{unit}");
        }
    }
}
