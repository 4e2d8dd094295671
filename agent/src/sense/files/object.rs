//! What is known of one object of a watched tree: its metadata and its content.

use picket_protocol::crypto::Hash;
use rustix::fs::{FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp};

use super::extended::Extended;

use super::sample::Sample;
use super::traits::Traits;

/// The type of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; it is never followed.
    Symlink,
    /// A named pipe; it is never opened.
    Fifo,
    /// A Unix socket; it is never opened.
    Socket,
    /// A character device; it is never opened.
    CharacterDevice,
    /// A block device; it is never opened.
    BlockDevice,
    /// A type that the kernel reports and this program does not know.
    #[default]
    Other,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::File,
        Self::Directory,
        Self::Symlink,
        Self::Fifo,
        Self::Socket,
        Self::CharacterDevice,
        Self::BlockDevice,
        Self::Other,
    ];

    /// The number in the baseline.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// From the number in the baseline; what this version does not know is [`Kind::Other`].
    pub fn from_code(code: i64) -> Self {
        usize::try_from(code).ok().and_then(|code| Self::ALL.get(code)).copied().unwrap_or(Self::Other)
    }

    /// The word for a person.
    pub fn noun(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symbolic link",
            Self::Fifo => "named pipe",
            Self::Socket => "socket",
            Self::CharacterDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Other => "object of unknown type",
        }
    }
}

impl From<FileType> for Kind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharacterDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => Self::Other,
        }
    }
}

/// Attributes that guard an object against changes, even by root; where the file system has such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Guards(u8);

impl Guards {
    /// Nothing may be changed (`chattr +i`).
    pub const IMMUTABLE: Self = Self(1);
    /// Data may only be added (`chattr +a`).
    pub const APPEND_ONLY: Self = Self(2);
    /// The content is sealed by the file system (fs-verity).
    pub const VERITY: Self = Self(4);
    /// What guarded it was not looked at: an older version of the agent wrote the row.
    pub const UNKNOWN: Self = Self(8);
    const ALL: u8 = 15;

    /// Whether all of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits in the baseline.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// From the baseline; bits that this version does not know are dropped.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL)
    }

    /// Where the bits stand in the `flags` of a row.
    pub fn in_row(self) -> i64 {
        i64::from(self.0) << Self::ROW_SHIFT
    }

    /// See [`Guards::in_row`]: 4 bits from here on.
    pub const ROW_SHIFT: u32 = 4;

    fn from_statx(set: StatxAttributes) -> Self {
        let pairs = [
            (StatxAttributes::IMMUTABLE, Self::IMMUTABLE),
            (StatxAttributes::APPEND, Self::APPEND_ONLY),
            (StatxAttributes::VERITY, Self::VERITY),
        ];
        Self(
            pairs
                .into_iter()
                .filter(|(flag, _)| set.contains(*flag))
                .fold(0, |bits, (_, guard)| bits | guard.0),
        )
    }
}

/// What `statx` says of an object, as far as it is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Its type.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: 12 bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes; for a device its number (major, then 32 bits of minor).
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime: i64,
    /// Status change time, nanoseconds since the epoch.
    pub ctime: i64,
    /// Birth time, nanoseconds since the epoch; 0 where the file system keeps none.
    pub birth: i64,
    /// Inode number.
    pub inode: u64,
    /// Hard links.
    pub links: u32,
    /// What guards it against changes.
    pub guards: Guards,
}

impl Metadata {
    /// From the kernel's answer.
    pub fn from_statx(stat: &Statx) -> Self {
        let kind = Kind::from(FileType::from_raw_mode(stat.stx_mode.into()));
        let device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
        let number = u64::from(stat.stx_rdev_major) << 32 | u64::from(stat.stx_rdev_minor);
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: if device { number } else { stat.stx_size },
            mtime: nanos(&stat.stx_mtime),
            ctime: nanos(&stat.stx_ctime),
            birth: if has_birth { nanos(&stat.stx_btime) } else { 0 },
            inode: stat.stx_ino,
            links: stat.stx_nlink,
            guards: Guards::from_statx(stat.stx_attributes),
        }
    }

    /// Whether nothing says that the content changed between the two looks. For directories, whose size and times
    /// follow their entries, only identity, permissions and guards count.
    pub fn same_as(&self, other: &Self) -> bool {
        let permissions = |m: &Self| (m.kind, m.mode, m.uid, m.gid, m.inode, m.guards);
        let times = |m: &Self| (m.size, m.mtime, m.ctime, m.links);
        permissions(self) == permissions(other)
            && (self.kind == Kind::Directory || times(self) == times(other))
    }

    /// Whether both are looks at one object that may have moved. Inode numbers are used again at once by some file
    /// systems, so the birth time must agree, and where there is none the size and modification time.
    pub fn same_object(&self, other: &Self) -> bool {
        if (self.kind, self.inode) != (other.kind, other.inode) {
            return false;
        }
        if self.birth != 0 && other.birth != 0 {
            return self.birth == other.birth;
        }
        // Of a directory without a birth time nothing else stays when its entries change.
        self.kind == Kind::Directory || (self.size, self.mtime) == (other.size, other.mtime)
    }
}

fn nanos(time: &StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
}

/// What an object holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// Nothing that is looked at: directories, pipes, sockets, devices.
    #[default]
    None,
    /// SHA-256 of a regular file.
    Digest(Hash),
    /// Where a symbolic link points.
    Target(Vec<u8>),
    /// A file larger than `hash_bytes_max`, to be hashed in the background; until then its sample stands for it.
    Pending,
    /// A regular file or link that could not be read; the errno.
    Unreadable(i32),
}

/// All that is known of one object at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectState {
    /// Metadata.
    pub meta: Metadata,
    /// Content.
    pub content: Content,
    /// The last change was so short before the look that another one could carry the same times: times alone
    /// cannot tell whether it changed again.
    pub racy: bool,
    /// Extended attributes: capabilities, access lists, labels.
    pub extended: Extended,
    /// What a regular file's content looks like, its entropy with it.
    pub traits: Traits,
    /// Of a file larger than `hash_bytes_max`: what its beginning, end and some places between hold.
    pub sample: Option<Sample>,
}
