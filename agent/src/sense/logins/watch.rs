//! Wake-ups by inotify: something happened to a log or in its directory. What happened is found by looking.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

/// Names that appear in a directory.
const NAMES: WatchFlags = WatchFlags::CREATE.union(WatchFlags::MOVED_TO).union(WatchFlags::ONLYDIR);

/// An inotify instance. Watches on files hold the inode, whatever its name becomes.
#[derive(Debug)]
pub struct Watch(OwnedFd);

/// A watch on one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileWatch(i32);

impl Watch {
    /// A new instance.
    pub fn new() -> io::Result<Self> {
        Ok(Self(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?))
    }

    /// Wakes when `file` is written, emptied, renamed or deleted.
    pub fn file(&self, file: &File) -> io::Result<FileWatch> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = WatchFlags::MODIFY | WatchFlags::ATTRIB | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        Ok(FileWatch(inotify::add_watch(&self.0, path, flags)?))
    }

    /// Ends a watch; one that ended by itself is no error.
    pub fn end(&self, watch: FileWatch) {
        let _ended_already = inotify::remove_watch(&self.0, watch.0);
    }

    /// Wakes when a name appears in the directory of `path`, or in the nearest of its ancestors that exists.
    pub fn directory_of(&self, path: &Path) -> io::Result<()> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for directory in path.ancestors().skip(1) {
            match inotify::add_watch(&self.0, directory, NAMES) {
                Ok(_watch) => return Ok(()),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// Wakes when a name appears in `directory`.
    pub fn names_in(&self, directory: &Path) -> io::Result<()> {
        inotify::add_watch(&self.0, directory, NAMES)?;
        Ok(())
    }

    /// Takes all that waits, and gives what may have happened.
    pub fn drain(&self) -> Stir {
        let mut buffer = [MaybeUninit::uninit(); 4_096];
        let mut reader = Reader::new(&self.0, &mut buffer);
        let mut stir = Stir::default();
        while let Ok(event) = reader.next() {
            stir.names |= event
                .events()
                .intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO | ReadFlags::QUEUE_OVERFLOW);
            let file = FileWatch(event.wd());
            if !stir.files.contains(&file) {
                stir.files.push(file);
            }
        }
        stir
    }
}

/// What may have happened since the last look.
#[derive(Debug, Default)]
pub struct Stir {
    /// A name appeared in a directory, or the kernel could not tell everything.
    pub names: bool,
    /// Files to which something happened; as many as are watched at most.
    files: Vec<FileWatch>,
}

impl Stir {
    /// Whether something happened to the file.
    pub fn has(&self, file: FileWatch) -> bool {
        self.files.contains(&file)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
