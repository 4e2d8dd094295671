//! The note of where the state is and was, for those that cannot ask the agent any more: the scripts of the package once its program is gone, and
//! what must end something although `agent.toml` cannot be read.
//!
//! ```text
//! /var/lib/picket/state-dir   0644   the path of a state directory a line, the present one last
//! ```
//!
//! Two write it: the core at each start, since `agent.toml` may have been changed since the package was installed, and `packaging/state-dir`. Where the
//! state never was anywhere but in the usual place there is none.

use std::fs::Permissions;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::{Config, DEFAULT_PATH, Loaded};
use crate::layout::{Layout, RUN_DEFAULT, SMALL_FILE_BYTES_MAX, read_file, write_durably};

/// Most places that are looked at, the last ones: whoever noted more moved the state more often than is plausible.
const PLACES_MAX: usize = 32;

/// The note.
#[derive(Clone, Debug)]
pub struct Noted {
    /// Where the state is when nothing says otherwise; the note is in there.
    usual: PathBuf,
}

impl Noted {
    /// The host's own.
    pub fn here() -> Self {
        Self { usual: Config::default().state_dir }
    }

    /// The host's own, for what goes by the host's own configuration; none for what goes by another file.
    pub fn of(loaded: &Loaded) -> Option<Self> {
        let is_own = loaded.source.as_deref().is_none_or(|source| source == Path::new(DEFAULT_PATH));
        is_own.then(Self::here)
    }

    /// Notes that the state is in `state`.
    ///
    /// # Errors
    /// What the file system says; a path that cannot be told from others in a file of lines.
    pub fn write(&self, state: &Path) -> io::Result<()> {
        let file = self.file();
        let text = match read_file(&file, SMALL_FILE_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && state == self.usual => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => String::from_utf8_lossy(&read?).into_owned(),
        };
        let path = state.to_str().filter(|_| is_of_one_line(state)).ok_or(io::ErrorKind::InvalidInput)?;
        if text.lines().next_back() == Some(path) {
            return Ok(());
        }
        let lines = text.lines().filter(|line| *line != path).chain([path]);
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        if !self.usual.exists() {
            std::fs::create_dir(&self.usual)?;
            // Whatever the umask took away.
            std::fs::set_permissions(&self.usual, Permissions::from_mode(0o711))?;
        }
        write_durably(&file, text.as_bytes(), 0o644)
    }

    /// Where the state was last: the last place that was noted and holds one, or the last one.
    pub fn last(&self) -> Option<PathBuf> {
        self.last_with_state().or_else(|| self.places().pop())
    }

    /// The last place that was noted and holds a state.
    pub fn last_with_state(&self) -> Option<PathBuf> {
        self.places().into_iter().rfind(|place| holds_state(place))
    }

    /// All places that hold a state, the usual one among them, but `present`.
    pub fn others(&self, present: &Path) -> Vec<PathBuf> {
        let mut places = self.places();
        places.retain(|place| *place != self.usual);
        places.push(self.usual.clone());
        places.retain(|place| place != present && holds_state(place));
        places
    }

    fn file(&self) -> PathBuf {
        self.usual.join("state-dir")
    }

    fn places(&self) -> Vec<PathBuf> {
        let text = read_file(&self.file(), SMALL_FILE_BYTES_MAX).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut places: Vec<_> = text.lines().map(PathBuf::from).filter(|path| path.is_absolute()).collect();
        places.split_off(places.len().saturating_sub(PLACES_MAX))
    }
}

fn holds_state(place: &Path) -> bool {
    Layout::new(place, Path::new(RUN_DEFAULT)).database().exists()
}

/// Whether a path can be read back from a line.
pub fn is_of_one_line(path: &Path) -> bool {
    path.to_str().is_some() && !path.as_os_str().as_bytes().iter().any(u8::is_ascii_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(place: &Path) {
        std::fs::create_dir_all(place.join("core")).expect("core directory");
        std::fs::write(place.join("core/agent.db"), "").expect("database");
    }

    #[test]
    fn nothing_is_noted_of_the_usual_place_alone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let noted = Noted { usual: directory.path().join("usual") };
        noted.write(&noted.usual).expect("nothing to note");
        assert!(!noted.usual.exists());
        assert_eq!((noted.last(), noted.others(&noted.usual)), (None, Vec::new()));
    }

    #[test]
    fn the_present_place_is_noted_last_and_once() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let noted = Noted { usual: directory.path().join("usual") };
        for place in ["/srv/one", "/srv/a place", "/srv/one"] {
            noted.write(Path::new(place)).expect("noted");
            assert_eq!(noted.last(), Some(PathBuf::from(place)));
        }
        noted.write(&noted.usual).expect("noted");
        assert_eq!(std::fs::metadata(&noted.usual).expect("made").permissions().mode() & 0o7777, 0o711);
        let text = std::fs::read_to_string(noted.file()).expect("note");
        assert_eq!(text, format!("/srv/a place\n/srv/one\n{}\n", noted.usual.display()));
        noted.write(Path::new("/srv/two\nlines")).expect_err("no line");
        assert_eq!(std::fs::read_to_string(noted.file()).expect("note"), text);
    }

    #[test]
    fn what_holds_a_state_counts_before_what_was_noted_later() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let [usual, one, two] = ["usual", "one", "two"].map(|name| directory.path().join(name));
        let noted = Noted { usual: usual.clone() };
        noted.write(&one).expect("noted");
        noted.write(&two).expect("noted");
        assert_eq!((noted.last(), noted.last_with_state()), (Some(two.clone()), None));
        state(&one);
        assert_eq!(noted.last(), Some(one.clone()));
        state(&usual);
        assert_eq!(noted.others(&two), [one.clone(), usual.clone()]);
        assert_eq!(noted.others(&one), [usual]);
    }

    #[test]
    fn what_is_no_path_in_the_note_is_left_out() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let noted = Noted { usual: directory.path().to_owned() };
        std::fs::write(noted.file(), "/srv/one\n\nrelative\n").expect("note");
        assert_eq!(noted.last(), Some(PathBuf::from("/srv/one")));
        std::fs::write(noted.file(), "\n").expect("note");
        assert_eq!(noted.last(), None);
    }
}
