//! The message of the day: advice in force, shown at each login.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use picket_protocol::finding::printable;

use super::store::Advice;

/// Most lines of one message; the rest is in `agent status`.
const LINES_MAX: usize = 20;
/// Longest line, in characters.
const LINE_CHARS_MAX: usize = 200;

/// The text of the file.
pub fn render(advice: &[Advice]) -> String {
    let mut text = String::new();
    for advice in advice {
        let signers = advice.signers.join(", ");
        // Writing to a String cannot fail.
        let _written = writeln!(text, "Picket: advice signed by {}", line(&signers)).is_ok();
        for part in advice.message.lines().take(LINES_MAX) {
            let _written = writeln!(text, "  {}", line(part)).is_ok();
        }
        let _written = writeln!(text, "  (acknowledge it: sudo agent ack {})", advice.id).is_ok();
    }
    text
}

/// Shows the advice at logins, or nothing when there is none.
///
/// # Errors
/// What the file system says; or that the directory could be changed by others.
pub fn show(path: &Path, advice: &[Advice]) -> io::Result<()> {
    if advice.is_empty() {
        return match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    if !directory.exists() {
        std::fs::create_dir_all(directory)?;
        // Those who log in read it, whatever the umask says.
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    }
    let metadata = std::fs::symlink_metadata(directory)?;
    let own = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != own || metadata.mode() & 0o022 != 0 {
        let problem = format!("{} is not a directory that only root can change", directory.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
    }
    crate::layout::write_durably(path, render(advice).as_bytes(), 0o644)
}

fn line(text: &str) -> String {
    printable(&text.chars().take(LINE_CHARS_MAX).collect::<String>()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use picket_protocol::time::Timestamp;

    use super::super::lease::Lease;
    use super::*;

    fn advice(message: &str) -> Advice {
        Advice {
            id: uuid::Uuid::from_u128(1),
            message: message.to_owned(),
            ticket: String::new(),
            signers: vec!["ada".to_owned()],
            envelope_sha256: String::new(),
            received: Timestamp::default(),
            lease: Lease::start("boot", Duration::ZERO, Duration::from_secs(1)),
        }
    }

    #[test]
    fn nothing_from_outside_reaches_a_terminal_as_it_is() {
        let text = render(&[advice("rotate\x1b[2J your keys\r\n\u{202e}now")]);
        assert!(text.contains("rotate\\u{1b}[2J your keys"), "{text}");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n') && !text.contains('\u{202e}'), "{text:?}");
    }

    #[test]
    fn it_is_bounded() {
        let text = render(&[advice(&"x\n".repeat(5_000)), advice(&"y".repeat(5_000))]);
        assert!(text.lines().count() <= 2 * (LINES_MAX + 2) && text.len() < 8_000, "{}", text.len());
    }

    #[test]
    fn it_comes_and_goes_and_shuns_foreign_directories() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("motd.d/picket");
        show(&path, &[]).expect("nothing to remove");
        show(&path, &[advice("hello")]).expect("shown");
        assert!(std::fs::read_to_string(&path).expect("file").contains("hello"));
        show(&path, &[]).expect("removed");
        assert!(!path.exists());
        let parent = path.parent().expect("parent");
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o777)).expect("mode");
        assert!(show(&path, &[advice("hello")]).is_err());
        assert!(!path.exists());
    }
}
