//! Package databases: what a package manager recorded, to be held against what the file sensor saw.
//!
//! **What it is for.** It tells the detector whether a transaction is under way ([`Packages::activity`]), and answers
//! for each change that the detector holds back which package holds the object and whether what is there has the
//! digest that the database recorded ([`Packages::answer`]). The content that is judged is read once for both digests, and
//! must be the very content that the finding is about.
//!
//! **What it promises.** Nothing is kept in memory while no transaction is under way; a database is read again only
//! when its files changed. Nothing here waits: neither for a lock nor for a pipe in a file's place. What cannot be read
//! explains nothing.
//!
//! **Limits.** The databases of the host itself are read, not those within containers. dpkg records MD5, and no
//! owners, modes or link targets: a link is as packaged when it points to an object that a package holds.
//! What pip recorded is judged in the same way (`pip`); it neither makes others wait nor explains other places. A snap is
//! judged by the digest that the store asserted of its image (`snap`).

mod database;
pub(crate) mod dpkg;
mod hands;
mod known;
mod md5;
pub(crate) mod pip;
mod place;
pub mod programs;
mod question;
pub(crate) mod rpm;
pub(crate) mod snap;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::time::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use rustix::fs::inotify;

use self::database::Database;
use self::dpkg::Dpkg;
use self::hands::Hands;
use self::known::{Known, Paths, Recorded, put, sentinel};
use self::pip::Pip;
use self::question::{Question, aliases};
use self::rpm::Rpm;
use self::snap::Snap;
use crate::clock;
use crate::detect::acts::{self, Stage as Acts};
use crate::detect::packages::held::{Hand, Held};
use crate::detect::packages::proof::{Activity, Answer, PackageId, Verdict};
use crate::detect::packages::window::Window;
use crate::detect::packages::{Stage, tables};
use crate::sense::files::object::Kind;

/// The databases are settled when nobody held a lock and nothing changed for so long.
pub const SETTLE: Duration = Duration::from_millis(1_500);
/// Page cache of the read connection.
const CACHE_KIB: i64 = 128;

/// See the module.
#[derive(Debug)]
pub struct Packages {
    root: PathBuf,
    known: Known,
    databases: Vec<Box<dyn Database>>,
    pip: Pip,
    hands: Hands,
    notices: Option<OwnedFd>,
    activity: Option<(Timestamp, Activity)>,
    anew: bool,
}

impl Packages {
    /// The databases of the host whose root is `root`; what is known of them is in `database`.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(root: &Path, database: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(database, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        let dpkg = Dpkg::find(root).map(|dpkg| Box::new(dpkg) as Box<dyn Database>);
        let rpm = Rpm::find(root).map(|rpm| Box::new(rpm) as Box<dyn Database>);
        let snap = Snap::find(root).map(|snap| Box::new(snap) as Box<dyn Database>);
        let databases: Vec<_> = dpkg.into_iter().chain(rpm).chain(snap).collect();
        let notices = notices(databases.iter().filter_map(|database| database.watched()).collect());
        let known = Known::new(connection);
        let pip = Pip::find(root);
        let hands = Hands::default();
        Ok(Self {
            root: root.to_path_buf(),
            known,
            databases,
            pip,
            hands,
            notices,
            activity: None,
            anew: true,
        })
    }

    /// The detector's stage with what the last run held back.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn stage(&self, now: Timestamp) -> rusqlite::Result<Stage> {
        let (held, folds) = tables::load(self.known.connection())?;
        let mut stage = Stage::restore(self.root.clone(), held, folds);
        stage.stir(now);
        Ok(stage)
    }

    /// The acts of several changes that the last run had not told yet.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn acts(&self) -> rusqlite::Result<Acts> {
        Ok(Acts::restore(acts::tables::load(self.known.connection())?))
    }

    /// Becomes readable when a database may have changed; none where there is no database.
    pub fn notices(&self) -> Option<BorrowedFd<'_>> {
        self.notices.as_ref().map(AsFd::as_fd)
    }

    /// Takes the notices that are there; whether there were any.
    pub fn take_notices(&mut self) -> bool {
        let Some(notices) = &self.notices else { return false };
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 4_096];
        let mut reader = inotify::Reader::new(notices, &mut buffer);
        let mut any = false;
        // Ends with EAGAIN: the descriptor does not block.
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| name.to_bytes()).unwrap_or_default();
            any |= self.databases.iter().any(|database| database.is_own(name));
        }
        any
    }

    /// What the databases are doing, good for judging what happened until `happened`; none where there is no database.
    pub fn activity(&mut self, happened: Timestamp) -> Option<Activity> {
        let databases = Some(&self.databases).filter(|databases| !databases.is_empty())?;
        // What was free after the change, and has not changed since before it, was not at work when it was made.
        if let Some((_, activity)) = self.activity.filter(|(read, _)| *read > happened) {
            return Some(activity);
        }
        let read = clock::now();
        let changed = databases.iter().map(|database| database.changed()).max().unwrap_or_default();
        let activity = Activity { busy: databases.iter().any(|database| database.is_busy()), changed };
        self.activity = Some((read, activity));
        Some(activity)
    }

    /// A change at `path` was seen: it may be one of several that a manager without a lock makes.
    pub fn note(&mut self, path: &Path, now: Timestamp) {
        self.pip.note(path, now);
    }

    /// All databases, pip's the last.
    fn all(&self) -> impl Iterator<Item = &dyn Database> {
        let pip: &dyn Database = &self.pip;
        self.databases.iter().map(|database| database.as_ref() as &dyn Database).chain([pip])
    }

    /// Planned work, open or over.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn window(&self) -> rusqlite::Result<Option<Window>> {
        let sql = "SELECT opened, until, reason, opened_by FROM change_window";
        let mut statement = self.known.connection().prepare_cached(sql)?;
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Window {
                opened: Timestamp::from_nanos(row.get(0)?),
                until: Timestamp::from_nanos(row.get(1)?),
                reason: row.get(2)?,
                by: row.get(3)?,
            })
        };
        statement.query_row([], read).optional()
    }

    /// Answers about all that is held.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn answer(&mut self, held: &BTreeMap<PathBuf, Held>, now: Timestamp) -> rusqlite::Result<Answer> {
        self.activity = None;
        // Asked first: what is recorded while it is read belongs to the next answer.
        let is_settled =
            |database: &dyn Database| !database.is_busy() && now.since(database.changed()) >= SETTLE;
        let settled = self.all().all(is_settled);
        let anew = std::mem::take(&mut self.anew);
        for database in &mut self.databases {
            database.read(&self.known, anew)?;
        }
        self.pip.read(&self.known, anew)?;
        let names = aliases(&self.root);
        let mut questions: Vec<Question<'_>> =
            held.iter().map(|(path, held)| Question::new(path, held, &self.root, &names)).collect();
        self.all().for_each(|database| database.claim(&mut questions));
        let verdicts = self.verdicts(&questions, settled)?;
        let mut answer = Answer { settled, verdicts, ..Answer::default() };
        for database in self.all().filter(|_| settled) {
            // What was there before the agent is no news.
            let first_time = self.known.all(database.manager())?.is_empty();
            let recorded = database.recorded();
            let is_late = |one: &Recorded| database.is_of_old(one);
            let news = recorded.iter().filter(|one| !first_time && !is_late(one));
            answer.news.extend(news.filter_map(|one| one.news()));
            answer.writes.extend(recorded.iter().map(|one| put(one, &database.paths(&one.package))));
            if database.may_be_empty() {
                answer.writes.extend(sentinel(&self.known, database.manager())?);
            }
        }
        Ok(answer)
    }

    /// The news of the last answer are told.
    pub fn told(&mut self) {
        let all = self.databases.iter().map(|database| database.as_ref() as &dyn Database);
        for database in all.chain([&self.pip as &dyn Database]) {
            database.recorded().into_iter().for_each(|recorded| self.known.tell(recorded));
        }
        self.pip.rest();
        self.anew = true;
    }

    fn verdicts(
        &self,
        questions: &[Question<'_>],
        settled: bool,
    ) -> rusqlite::Result<Vec<(PathBuf, Verdict)>> {
        let mut verdicts = Vec::with_capacity(questions.len());
        let mut links = Vec::new();
        let gone = questions.iter().any(|question| question.held.now.is_none());
        let former = if gone { self.former()? } else { Vec::new() };
        for question in questions {
            let was_of = former.iter().find(|(package, paths)| question.was_of(package, paths));
            let is_link = question.held.now.as_ref().is_some_and(|now| now.kind == Kind::Symlink);
            let verdict = match (was_of, question.judge()) {
                (Some((package, _)), Some(Verdict::Unpackaged)) => Verdict::AsPackaged(package.clone()),
                (_, Some(verdict)) => verdict,
                (_, None) if is_link => {
                    links.push(question);
                    continue;
                }
                (_, None) => Verdict::Unpackaged,
            };
            verdicts.push((question.path.to_path_buf(), verdict));
        }
        if settled {
            verdicts.extend(self.follow(&links));
        }
        Ok(verdicts)
    }

    fn recorded(&self) -> impl Iterator<Item = &Recorded> {
        self.all().flat_map(|database| database.recorded())
    }

    /// What the packages of the transaction held before it.
    fn former(&self) -> rusqlite::Result<Vec<(PackageId, Paths)>> {
        let had = self.recorded().filter(|recorded| recorded.before.is_some());
        had.map(|recorded| Ok((recorded.package.clone(), self.known.paths(&recorded.package)?))).collect()
    }

    /// Judges links by what they point to: an object of some package, for a link that a package holds; an object of a
    /// package of the transaction, for one that its scripts made.
    fn follow(&self, links: &[&Question<'_>]) -> Vec<(PathBuf, Verdict)> {
        let names = aliases(&self.root);
        let targets: HashMap<&Path, Vec<Vec<u8>>> = links
            .iter()
            .filter_map(|link| Some((link.path, self.spell(&link.points_to(&self.root)?, &names))))
            .collect();
        let wanted: HashSet<Vec<u8>> = targets.values().flatten().cloned().collect();
        let asked = self.databases.iter().filter(|_| !wanted.is_empty());
        let owned: HashMap<Vec<u8>, PackageId> = asked.flat_map(|database| database.owned(&wanted)).collect();
        let in_transaction = |package: &PackageId| {
            let mut packages = self.recorded().map(|recorded| &recorded.package);
            packages.find(|recorded| (recorded.manager, &recorded.name) == (package.manager, &package.name))
        };
        let judge = |link: &&Question<'_>| {
            let owner = targets.get(link.path).into_iter().flatten().find_map(|target| owned.get(target));
            let same = link.held.before == link.held.now;
            match (&link.claim, owner) {
                (Some(claim), Some(_)) => Verdict::AsPackaged(claim.package.clone()),
                (Some(claim), None) if same || link.held.hand == Hand::Manager => {
                    Verdict::AsPackaged(claim.package.clone())
                }
                (None, Some(owner)) => {
                    in_transaction(owner).cloned().map_or(Verdict::Unpackaged, Verdict::Derived)
                }
                _ => Verdict::Unpackaged,
            }
        };
        links.iter().map(|link| (link.path.to_path_buf(), judge(link))).collect()
    }

    /// As packages may spell a path of the host.
    fn spell(&self, name: &[u8], names: &[Vec<u8>]) -> Vec<Vec<u8>> {
        use std::os::unix::ffi::OsStrExt as _;
        let below = Path::new(std::ffi::OsStr::from_bytes(name.strip_prefix(b"/").unwrap_or(name)));
        question::spellings(&self.root.join(below), &self.root, names)
    }
}

/// Notices of what is moved into the directories, or was written there: databases replace their files, or write them.
fn notices(directories: Vec<PathBuf>) -> Option<OwnedFd> {
    if directories.is_empty() {
        return None;
    }
    let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
    let watch = || -> rustix::io::Result<OwnedFd> {
        let notices = inotify::init(flags)?;
        for directory in directories {
            inotify::add_watch(
                &notices,
                directory,
                inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::ONLYDIR,
            )?;
        }
        Ok(notices)
    };
    watch()
        .inspect_err(|error| tracing::warn!(%error, "package databases are not watched; they are asked when files change"))
        .ok()
}
