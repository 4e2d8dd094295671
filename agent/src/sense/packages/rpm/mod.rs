//! rpm's database where it is SQLite: Fedora since 33, RHEL 9, SUSE. Older ones (Berkeley DB, NDB) are not read: their
//! transactions explain nothing.
//!
//! A package's header holds a digest of each file (SHA-256 since rpm 4.14, MD5 before), and link targets. Each
//! transaction gives a header a new number, and that is how news are told apart. Of packages that are there in several
//! versions (kernels) the newest counts.

pub(crate) mod header;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use picket_protocol::time::Timestamp;
use rusqlite::{Connection, OpenFlags};

use self::header::{Header, tag};
use super::database::{Database, Holder};
use super::known::{Fact, Known, Paths, Recorded};
use super::question::{Expected, Question};
use super::{md5, place};
use crate::detect::packages::proof::{Manager, PackageId};

/// Where the database may be, below the root.
const PLACES: [&str; 2] = ["usr/lib/sysimage/rpm", "var/lib/rpm"];
const DATABASE: &str = "rpmdb.sqlite";
/// The log that a writer has not put into the database yet.
const LOG: &str = "rpmdb.sqlite-wal";
/// Packages that are asked about one name: a program's is in a handful.
const HOLDERS_MAX: i64 = 64;
/// rpm's number for SHA-256.
const SHA256: u32 = 8;
/// rpm's flag of a configuration file, and of one that is in no package until it is made.
const CONFIG: u32 = 1;
const GHOST: u32 = 64;

/// The database below a root.
#[derive(Debug)]
pub struct Rpm {
    directory: PathBuf,
    stamp: Option<[Timestamp; 2]>,
    recorded: Vec<(Recorded, i64)>,
}

impl Rpm {
    /// The database below `root`, where there is one that can be read.
    pub fn find(root: &Path) -> Option<Self> {
        let directories = PLACES.iter().map(|place| root.join(place));
        let directory = directories.into_iter().find(|directory| directory.join(DATABASE).is_file())?;
        Some(Self { directory, stamp: None, recorded: Vec::new() })
    }

    /// Of the log it counts when it was written: SQLite sets the owner of a log that root reads, which changes nothing.
    fn stamps(&self) -> [Timestamp; 2] {
        let at = |name: &str| self.directory.join(name);
        [place::changed_at(&at(DATABASE)), place::written_at(&at(LOG))].map(Option::unwrap_or_default)
    }

    /// Without a log there is no writer whose work would be missed, and nothing needs to be made beside the database.
    fn open(&self) -> rusqlite::Result<Connection> {
        let path = self.directory.join(DATABASE);
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let fixed = if self.directory.join(LOG).exists() { "" } else { "?immutable=1" };
        let plain = path.to_str().filter(|path| !path.contains(['?', '#', '%']));
        let name = plain.map(|path| format!("file:{path}{fixed}")).unwrap_or_default();
        Connection::open_with_flags(name, flags)
    }

    /// Name, architecture and facts of all packages, the newest of each; headers whose number is known are not read.
    fn headers(
        &self,
        known: &HashMap<i64, ((String, String), Fact)>,
    ) -> rusqlite::Result<BTreeMap<(String, String), (Fact, i64)>> {
        let database = self.open()?;
        let mut newest = BTreeMap::new();
        let mut numbers = database.prepare("SELECT hnum FROM Packages ORDER BY hnum")?;
        let numbers: Vec<i64> = numbers.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        for number in numbers {
            if let Some((key, fact)) = known.get(&number) {
                newest.insert(key.clone(), (fact.clone(), number));
                continue;
            }
            let bytes = blob(&database, number)?;
            let Some(header) = Header::parse(&bytes) else { continue };
            let (Some(name), Some(version)) = (header.text(tag::NAME), header.version()) else { continue };
            // Keys that the administrator trusts stand among the packages and have no files.
            let architecture = header.text(tag::ARCHITECTURE).unwrap_or_default();
            let fact = Fact { version, installed: true, incomplete: false, recorded: number };
            newest.insert((name, architecture), (fact, number));
        }
        Ok(newest)
    }

    fn try_read(&mut self, known: &Known) -> rusqlite::Result<()> {
        let mut before = known.all(Manager::Rpm)?;
        let by_number =
            before.iter().map(|(key, fact)| (fact.recorded, (key.clone(), fact.clone()))).collect();
        let now = match self.headers(&by_number) {
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(%error, "rpm's database cannot be read; it explains nothing");
                self.recorded.clear();
                return Ok(());
            }
        };
        let mut recorded = Vec::new();
        for ((name, architecture), (fact, number)) in now {
            let was = before.remove(&(name.clone(), architecture.clone()));
            let package = PackageId { manager: Manager::Rpm, name, architecture };
            recorded.extend(Recorded::new(package, was, fact).map(|recorded| (recorded, number)));
        }
        recorded.extend(before.into_iter().map(|((name, architecture), fact)| {
            (Recorded::purged(PackageId { manager: Manager::Rpm, name, architecture }, fact), 0)
        }));
        self.recorded = recorded;
        Ok(())
    }

    /// Numbers of the headers that hold a file of that name, wherever, the newest first.
    fn holders(database: &Connection, name: &str) -> rusqlite::Result<Vec<i64>> {
        let sql = "SELECT DISTINCT hnum FROM Basenames WHERE key = ?1 ORDER BY hnum DESC LIMIT ?2";
        let mut statement = database.prepare(sql)?;
        statement.query_map(rusqlite::params![name, HOLDERS_MAX], |row| row.get(0))?.collect()
    }

    fn header_of(&self, package: &PackageId) -> Option<Vec<u8>> {
        let (_, number) = self.recorded.iter().find(|(recorded, _)| recorded.package == *package)?;
        blob(&self.open().ok()?, *number).ok()
    }
}

fn blob(database: &Connection, number: i64) -> rusqlite::Result<Vec<u8>> {
    let sql = "SELECT blob FROM Packages WHERE hnum = ?1 AND length(blob) <= ?2";
    let max = i64::try_from(header::HEADER_BYTES_MAX).unwrap_or(i64::MAX);
    database.prepare_cached(sql)?.query_row([number, max], |row| row.get(0))
}

impl Database for Rpm {
    fn manager(&self) -> Manager {
        Manager::Rpm
    }

    fn watched(&self) -> Option<PathBuf> {
        Some(self.directory.clone())
    }

    fn is_own(&self, name: &[u8]) -> bool {
        name.starts_with(DATABASE.as_bytes())
    }

    fn is_busy(&self) -> bool {
        place::is_locked(&self.directory.join(".rpm.lock"))
    }

    fn changed(&self) -> Timestamp {
        self.stamps().into_iter().max().unwrap_or_default()
    }

    fn read(&mut self, known: &Known, anew: bool) -> rusqlite::Result<()> {
        let stamp = self.stamps();
        if self.stamp == Some(stamp) && !anew {
            return Ok(());
        }
        self.try_read(known)?;
        self.stamp = Some(stamp);
        Ok(())
    }

    fn recorded(&self) -> Vec<&Recorded> {
        self.recorded.iter().map(|(recorded, _)| recorded).collect()
    }

    fn holder(&self, path: &Path, names: &[Vec<u8>]) -> Option<Holder> {
        let database = self.open().ok()?;
        let numbers = Self::holders(&database, path.file_name()?.to_str()?).ok()?;
        let found = place::digests(path).ok();
        let mut holders: Vec<Holder> = numbers
            .into_iter()
            .filter_map(|number| {
                let bytes = blob(&database, number).ok()?;
                let header = Header::parse(&bytes)?;
                let at = header.paths().iter().position(|held| names.contains(held))?;
                let is_sha256 = header.numbers(tag::DIGEST_ALGORITHM).next() == Some(SHA256);
                let expected =
                    header.texts(tag::FILE_DIGESTS).nth(at).and_then(|text| digest(text, is_sha256));
                let is_it = |expected: Expected| {
                    found.is_some_and(|(sha256, md5)| {
                        [Expected::Sha256(sha256), Expected::Md5(md5)].contains(&expected)
                    })
                };
                let package = format!("{} {}", header.text(tag::NAME)?, header.version()?);
                Some(Holder { package, as_packaged: expected.map(is_it) })
            })
            .collect();
        // The newest of several versions of a package is the one whose file stands there.
        let intact = holders.iter().position(|holder| holder.as_packaged == Some(true)).unwrap_or(0);
        (intact < holders.len()).then(|| holders.swap_remove(intact))
    }

    fn paths(&self, package: &PackageId) -> Paths {
        let bytes = self.header_of(package).unwrap_or_default();
        let paths = Header::parse(&bytes).map(|header| header.paths()).unwrap_or_default();
        Paths::of(package, paths.iter().map(Vec::as_slice))
    }

    fn claim(&self, questions: &mut [Question<'_>]) {
        let mut spelled: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for (at, question) in questions.iter().enumerate() {
            question.names.iter().for_each(|name| spelled.entry(name.clone()).or_default().push(at));
        }
        let Some(database) = (!spelled.is_empty()).then(|| self.open().ok()).flatten() else { return };
        for (recorded, number) in self.recorded.iter().filter(|(recorded, _)| recorded.now.is_some()) {
            let bytes = blob(&database, *number).unwrap_or_default();
            let Some(header) = Header::parse(&bytes) else { continue };
            claim_all(&header, &recorded.package, &spelled, questions);
        }
    }

    fn owned(&self, names: &HashSet<Vec<u8>>) -> HashMap<Vec<u8>, PackageId> {
        let mut found = HashMap::new();
        for (recorded, _) in &self.recorded {
            let bytes = self.header_of(&recorded.package).unwrap_or_default();
            let paths = Header::parse(&bytes).map(|header| header.paths()).unwrap_or_default();
            let wanted = paths.into_iter().filter(|path| names.contains(path));
            found.extend(wanted.map(|path| (path, recorded.package.clone())));
        }
        found
    }
}

/// Puts a package's claim to every object that is asked about.
fn claim_all(
    header: &Header<'_>,
    package: &PackageId,
    spelled: &HashMap<Vec<u8>, Vec<usize>>,
    questions: &mut [Question<'_>],
) {
    let is_sha256 = header.numbers(tag::DIGEST_ALGORITHM).next() == Some(SHA256);
    let digests: Vec<&[u8]> = header.texts(tag::FILE_DIGESTS).collect();
    let targets: Vec<&[u8]> = header.texts(tag::FILE_TARGETS).collect();
    let flags: Vec<u32> = header.numbers(tag::FILE_FLAGS).collect();
    for (at, path) in header.paths().into_iter().enumerate() {
        let flags = flags.get(at).copied().unwrap_or(0);
        let asked = spelled.get(&path).filter(|_| flags & GHOST == 0);
        let digits = digests.get(at).copied().unwrap_or_default();
        let digest = digest(digits, is_sha256);
        let target = targets.get(at).filter(|target| !target.is_empty()).map(|target| target.to_vec());
        for question in asked.into_iter().flatten() {
            if let Some(question) = questions.get_mut(*question) {
                question.claim_as(package, digest, target.clone(), flags & CONFIG != 0);
            }
        }
    }
}

fn digest(digits: &[u8], is_sha256: bool) -> Option<Expected> {
    if is_sha256 { sha256(digits) } else { md5::parse(digits).map(Expected::Md5) }
}

fn sha256(digits: &[u8]) -> Option<Expected> {
    let (first, second) = digits.split_at_checked(32)?;
    let mut digest = [0; 32];
    for (half, digits) in digest.chunks_exact_mut(16).zip([first, second]) {
        half.copy_from_slice(&md5::parse(digits)?);
    }
    Some(Expected::Sha256(digest))
}
