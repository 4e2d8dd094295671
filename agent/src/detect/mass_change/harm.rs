//! What one change does to the owner of a file. Pure.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use picket_protocol::finding::Text;

use crate::sense::files::change::FileChange;
use crate::sense::files::object::{Content, Kind, ObjectState};
use crate::sense::files::traits::Format;
use crate::sense::processes::Actor;

/// From this entropy on (sixteenths of a bit a byte) content of another format than before may be a disguise.
const DISGUISE_ENTROPY: u8 = 117;

/// A harm that a file can come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Harm {
    /// It was readable and is not any more without a key: overwritten, or replaced by another under a like name.
    Encrypted,
    /// It was emptied, or overwritten by one byte all over.
    Blanked,
    /// It was overwritten by the very content that others were overwritten by.
    Defaced,
    /// It became something of another, dense format under its own name.
    Recoded,
    /// It is gone.
    Deleted,
    /// It is what it was, under a name whose ending nobody knows.
    Renamed,
}

impl Harm {
    /// All of them, worst first.
    pub const ALL: [Self; 6] =
        [Self::Encrypted, Self::Blanked, Self::Defaced, Self::Recoded, Self::Deleted, Self::Renamed];

    /// What a hundred files of it weigh: 2,000 are an alarm.
    pub fn weight(self) -> u64 {
        match self {
            // Ten are enough: whoever is that fast must be met early, and nothing benign does it.
            Self::Encrypted | Self::Defaced => 200,
            Self::Blanked | Self::Recoded | Self::Deleted | Self::Renamed => 100,
        }
    }

    /// Ordinary programs do it as well: judged by how fast, by whom, and by what came in place of it.
    pub fn is_ordinary(self) -> bool {
        matches!(self, Self::Deleted | Self::Renamed)
    }
}

/// What one change is, seen from its victim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A harm by itself, to so many files.
    Harm(Harm, u64),
    /// A new file that nobody can read: half of an encryption, if another vanishes for it.
    Appeared,
    /// An empty file came to hold what nobody can read: an encryption, if it was emptied for that.
    Filled,
    /// Ordinary content was written, or moved into place; `true` when it replaced other content.
    Written(bool),
    /// A directory was made.
    Directory,
    /// Nothing that matters here.
    Nothing,
}

/// Judges a change.
pub fn judge(change: &FileChange) -> Deed {
    match (&change.before, &change.after) {
        (None, Some(after)) => appeared(after),
        (Some(before), None) if change.moved_to.is_none() => vanished(change, before),
        (Some(before), Some(after)) => changed(change, before, after),
        _ => Deed::Nothing,
    }
}

fn appeared(after: &ObjectState) -> Deed {
    match after.meta.kind {
        Kind::Directory => Deed::Directory,
        Kind::File if after.traits.format.is_scrambled() => Deed::Appeared,
        Kind::File if after.meta.size > 0 => Deed::Written(false),
        _ => Deed::Nothing,
    }
}

fn vanished(change: &FileChange, before: &ObjectState) -> Deed {
    if is_by_product(&change.path) {
        return Deed::Nothing;
    }
    match before.meta.kind {
        Kind::File => Deed::Harm(Harm::Deleted, 1),
        Kind::Directory => {
            let counts = |path: &Path, kind| kind == Kind::File && !is_by_product(path);
            let named =
                change.beneath.iter().filter(|object| counts(&object.path, object.state.meta.kind)).count();
            // Of those that are not named as many are taken to count as of those that are.
            let share = u64::try_from(named).unwrap_or(0).saturating_mul(change.beneath_count);
            let lost = share.checked_div(u64::try_from(change.beneath.len()).unwrap_or(0)).unwrap_or(0);
            if lost > 0 { Deed::Harm(Harm::Deleted, lost) } else { Deed::Nothing }
        }
        _ => Deed::Nothing,
    }
}

fn changed(change: &FileChange, before: &ObjectState, after: &ObjectState) -> Deed {
    if (before.meta.kind, after.meta.kind) != (Kind::File, Kind::File) {
        return Deed::Nothing;
    }
    let (old, new) = (before.traits, after.traits);
    let known = |state: &ObjectState| matches!(state.content, Content::Digest(_));
    if known(before) && before.content == after.content {
        let renamed = change.moved_from.as_deref().is_some_and(|from| took_odd_ending(from, &change.path));
        return if renamed { Deed::Harm(Harm::Renamed, 1) } else { Deed::Nothing };
    }
    if before.meta.size > 0 && (after.meta.size == 0 || new.format == Format::Blank) {
        let was = matches!(old.format, Format::Blank);
        return if was { Deed::Nothing } else { Deed::Harm(Harm::Blanked, 1) };
    }
    if new.format.is_scrambled() {
        return match before.meta.size {
            0 => Deed::Filled,
            _ if old.format.is_scrambled() => Deed::Nothing,
            _ => Deed::Harm(Harm::Encrypted, 1),
        };
    }
    let dense = |entropy: Option<u8>| entropy.is_some_and(|entropy| entropy >= DISGUISE_ENTROPY);
    let told_apart = old.format != Format::Unknown && old.format != new.format;
    if told_apart && dense(new.entropy) && !dense(old.entropy) && old.entropy.is_some() {
        return Deed::Harm(Harm::Recoded, 1);
    }
    Deed::Written(before.meta.size > 0)
}

/// What programs make and unmake by themselves: nobody misses it.
pub fn is_by_product(path: &Path) -> bool {
    const DIRECTORIES: &[&str] = &[
        "node_modules",
        "__pycache__",
        "target",
        "build",
        "dist",
        ".cache",
        "cache",
        ".tox",
        ".venv",
        "venv",
        ".git",
        ".hg",
        ".svn",
        "CMakeFiles",
        ".next",
        ".gradle",
        ".mypy_cache",
        ".pytest_cache",
        "site-packages",
        "Cache",
        "sessions",
        "autom4te.cache",
        ".deps",
        ".libs",
    ];
    const ENDINGS: &[&str] = &[
        "o",
        "lo",
        "la",
        "a",
        "d",
        "obj",
        "pyc",
        "pyo",
        "class",
        "gch",
        "tmp",
        "temp",
        "swp",
        "swx",
        "swo",
        "part",
        "lock",
        "pid",
        "cache",
        "dpkg-new",
        "dpkg-tmp",
        "dpkg-old",
        "dpkg-dist",
        "gcda",
        "gcno",
        "rmeta",
        "rlib",
        "depend",
        "bak",
    ];
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let within = path
        .components()
        .any(|part| part.as_os_str().to_str().is_some_and(|part| DIRECTORIES.contains(&part)));
    within || ENDINGS.contains(&ending) || name.ends_with(b"~")
}

/// Endings of names that are in use: taking one says nothing.
const KNOWN_ENDINGS: &[&str] = &[
    "bak",
    "old",
    "orig",
    "save",
    "new",
    "disabled",
    "off",
    "gz",
    "xz",
    "bz2",
    "zst",
    "zip",
    "tmp",
    "part",
    "txt",
    "md",
    "html",
    "htm",
    "css",
    "js",
    "json",
    "xml",
    "yml",
    "yaml",
    "toml",
    "conf",
    "cfg",
    "ini",
    "log",
    "jpg",
    "jpeg",
    "png",
    "gif",
    "svg",
    "webp",
    "pdf",
    "doc",
    "docx",
    "odt",
    "xls",
    "xlsx",
    "ods",
    "ppt",
    "pptx",
    "csv",
    "sql",
    "db",
    "sqlite",
    "php",
    "py",
    "rb",
    "pl",
    "sh",
    "c",
    "h",
    "cpp",
    "rs",
    "go",
    "java",
    "mp3",
    "mp4",
    "mkv",
    "avi",
    "mov",
    "tar",
    "tgz",
    "deb",
    "rpm",
    "so",
    "dpkg-old",
    "dpkg-dist",
    "dpkg-new",
    "dpkg-tmp",
    "rpmsave",
    "rpmnew",
    "ucf-dist",
    "ucf-old",
    "pem",
    "key",
    "crt",
    "journal",
    "done",
    "processed",
    "failed",
    "swp",
    "example",
    "sample",
    "in",
    "deleted",
    "removed",
];

/// Whether the file kept its place and took an ending that is in no use.
fn took_odd_ending(from: &Path, to: &Path) -> bool {
    let Some(ending) = to.extension().map(OsStrExt::as_bytes) else { return false };
    let numbered = ending.iter().all(u8::is_ascii_digit);
    from.parent() == to.parent()
        && from.extension() != to.extension()
        && !numbered
        && !KNOWN_ENDINGS.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(ending))
}

/// What a file is called without its last ending, as a number: `report.odt` for `report.odt.locked`.
pub fn stem(path: &Path) -> Option<u64> {
    path.extension()?;
    Some(path_number(&path.with_extension("")))
}

/// A path as a number, to know it again.
pub fn path_number(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.as_os_str().as_bytes().hash(&mut hasher);
    hasher.finish()
}

/// Whether a package manager lies at that place.
pub fn is_package_program(path: &str) -> bool {
    const PROGRAMS: &[&str] = &[
        "/usr/bin/dpkg",
        "/usr/bin/dpkg-deb",
        "/usr/bin/apt",
        "/usr/bin/apt-get",
        "/usr/bin/aptitude",
        "/usr/bin/rpm",
        "/usr/lib/apt/methods/http",
        "/usr/lib/snapd/snapd",
        "/usr/bin/pacman",
        "/sbin/apk",
        "/usr/bin/zypper",
        "/usr/bin/unattended-upgrade",
        "/usr/libexec/packagekitd",
        "/usr/bin/flatpak",
    ];
    PROGRAMS.contains(&path)
}

/// Whether the process, or one above it, is a package manager at its own place. It removes and renames by the
/// hundred; what it does is judged by what its packages say, in another stage.
pub fn is_package_manager(actor: &Actor) -> bool {
    let is =
        |program: &Option<Text>| program.as_ref().is_some_and(|program| is_package_program(&program.text));
    !actor.executable_deleted
        && (is(&actor.executable) || actor.parents.iter().any(|parent| is(&parent.executable)))
}
