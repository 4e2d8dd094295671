//! What was known of the packages when their last transactions were told: a table, read when a database changes.

use std::collections::{BTreeMap, HashMap, HashSet};

use picket_protocol::crypto::sha256;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::detect::packages::proof::{Action, Manager, News, PackageId};
use crate::ledger::StateWrite;

/// Bytes of a path's digest. With the package's name in it, who wants a foreign path to be taken for the package's
/// must try some 2^57 names.
const PATH_BYTES: usize = 8;

/// A package at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its version.
    pub version: String,
    /// Its files are in place.
    pub installed: bool,
    /// Its manager stopped half way.
    pub incomplete: bool,
    /// When the database recorded its files, nanoseconds since the epoch; 0 when it has none.
    pub recorded: i64,
}

/// A package that is not as it was known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Which.
    pub package: PackageId,
    /// As known.
    pub before: Option<Fact>,
    /// As recorded; none when the database knows it no more.
    pub now: Option<Fact>,
}

impl Recorded {
    /// Compares; none when nothing is new.
    pub fn new(package: PackageId, before: Option<Fact>, now: Fact) -> Option<Self> {
        (before.as_ref() != Some(&now)).then_some(Self { package, before, now: Some(now) })
    }

    /// The database no longer knows it.
    pub fn purged(package: PackageId, before: Fact) -> Self {
        Self { package, before: Some(before), now: None }
    }

    /// What is to be told of it; none of a package that was not there and is not.
    pub fn news(&self) -> Option<News> {
        let was = self.before.as_ref().filter(|fact| fact.installed || fact.incomplete);
        let is = self.now.as_ref().filter(|fact| fact.installed || fact.incomplete);
        let action = match (was, is) {
            (_, Some(now)) if now.incomplete => Action::Incomplete,
            (None, Some(_)) => Action::Installed,
            (Some(was), Some(is)) if was.version == is.version => Action::InstalledAgain,
            (Some(_), Some(_)) => Action::Replaced,
            (Some(_), None) => Action::Removed,
            // Configuration that was left behind goes.
            (None, None) => (self.before.is_some() && self.now.is_none()).then_some(Action::Removed)?,
        };
        let version = |fact: &Option<Fact>| fact.as_ref().map(|fact| fact.version.clone());
        let after = if action == Action::Removed { None } else { version(&self.now) };
        let before = if action == Action::Installed { None } else { version(&self.before) };
        Some(News { package: self.package.clone(), action, before, after })
    }
}

/// The paths of a package, hashed: whether one was among them can be said, which ones there are cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths(HashSet<[u8; PATH_BYTES]>);

impl Paths {
    /// Of a package's list.
    pub fn of<'a>(package: &PackageId, paths: impl Iterator<Item = &'a [u8]>) -> Self {
        Self(paths.map(|path| hashed(package, path)).collect())
    }

    /// Whether `path` is among them.
    pub fn has(&self, package: &PackageId, path: &[u8]) -> bool {
        self.0.contains(&hashed(package, path))
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.as_chunks().0.iter().copied().collect())
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flatten().copied().collect()
    }
}

fn hashed(package: &PackageId, path: &[u8]) -> [u8; PATH_BYTES] {
    let name = package.name.as_bytes();
    let digest = sha256(&[name, b"\0", path]);
    digest.first_chunk().copied().unwrap_or_default()
}

/// The table, and what was written to it and may not have arrived.
#[derive(Debug)]
pub struct Known {
    connection: Connection,
    told: BTreeMap<PackageId, Option<Fact>>,
}

impl Known {
    /// Reads through `connection`.
    pub fn new(connection: Connection) -> Self {
        Self { connection, told: BTreeMap::new() }
    }

    /// The connection, to read other tables of the stage.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// All packages of a manager by name and architecture.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn all(&self, manager: Manager) -> rusqlite::Result<HashMap<(String, String), Fact>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT name, architecture, version, installed, recorded FROM package_known WHERE manager = ?1",
        )?;
        let rows = statement.query_map([manager.name()], |row| {
            let installed: i64 = row.get(3)?;
            let fact = Fact {
                version: row.get(2)?,
                installed: installed == 1,
                incomplete: installed == 2,
                recorded: row.get(4)?,
            };
            Ok(((row.get(0)?, row.get(1)?), fact))
        })?;
        let mut all: HashMap<_, _> = rows.collect::<rusqlite::Result<_>>()?;
        for (package, fact) in self.told.iter().filter(|(package, _)| package.manager == manager) {
            let key = (package.name.clone(), package.architecture.clone());
            match fact {
                Some(fact) => all.insert(key, fact.clone()),
                None => all.remove(&key),
            };
        }
        Ok(all)
    }

    /// The paths that a package had.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn paths(&self, package: &PackageId) -> rusqlite::Result<Paths> {
        let mut statement = self.connection.prepare_cached(
            "SELECT paths FROM package_known WHERE manager = ?1 AND name = ?2 AND architecture = ?3",
        )?;
        let key = params![package.manager.name(), package.name, package.architecture];
        let bytes: Option<Vec<u8>> = statement.query_row(key, |row| row.get(0)).optional()?;
        Ok(Paths::from_bytes(&bytes.unwrap_or_default()))
    }

    /// Takes it as known from now on, whether or not the write has arrived.
    pub fn tell(&mut self, recorded: &Recorded) {
        self.told.insert(recorded.package.clone(), recorded.now.clone());
    }
}

/// A row that says that a manager's packages were read once, even when there was none: from then on each is news.
///
/// # Errors
/// What SQLite says.
pub fn sentinel(known: &Known, manager: Manager) -> rusqlite::Result<Option<StateWrite>> {
    let package = PackageId { manager, name: String::new(), architecture: String::new() };
    if known.all(manager)?.contains_key(&(String::new(), String::new())) {
        return Ok(None);
    }
    let fact = Fact { version: String::new(), installed: false, incomplete: false, recorded: 0 };
    let recorded = Recorded { package, before: None, now: Some(fact) };
    Ok(Some(put(&recorded, &Paths::default())))
}

/// Makes what is recorded what is known.
pub fn put(recorded: &Recorded, paths: &Paths) -> StateWrite {
    let (package, now, paths) = (recorded.package.clone(), recorded.now.clone(), paths.to_bytes());
    Box::new(move |transaction| {
        let manager = package.manager.name();
        let Some(now) = &now else {
            let sql = "DELETE FROM package_known WHERE manager = ?1 AND name = ?2 AND architecture = ?3";
            let key = params![manager, package.name, package.architecture];
            return transaction.prepare_cached(sql)?.execute(key).map(|_| ());
        };
        let installed = if now.incomplete { 2 } else { i64::from(now.installed) };
        let row =
            params![manager, package.name, package.architecture, now.version, installed, now.recorded, paths];
        let sql = "INSERT OR REPLACE INTO package_known
                     (manager, name, architecture, version, installed, recorded, paths)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        transaction.prepare_cached(sql)?.execute(row).map(|_| ())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> PackageId {
        PackageId { manager: Manager::Dpkg, name: "a".to_owned(), architecture: "all".to_owned() }
    }

    fn fact(version: &str, installed: bool) -> Fact {
        Fact { version: version.to_owned(), installed, incomplete: false, recorded: 1 }
    }

    fn action(before: Option<Fact>, now: Option<Fact>) -> Option<Action> {
        Recorded { package: package(), before, now }.news().map(|news| news.action)
    }

    #[test]
    fn what_became_of_a_package() {
        let (one, two, left) = (fact("1", true), fact("2", true), fact("1", false));
        assert_eq!(action(None, Some(one.clone())), Some(Action::Installed));
        assert_eq!(action(Some(left.clone()), Some(one.clone())), Some(Action::Installed));
        assert_eq!(action(Some(one.clone()), Some(two)), Some(Action::Replaced));
        assert_eq!(action(Some(one.clone()), Some(one.clone())), Some(Action::InstalledAgain));
        assert_eq!(action(Some(one.clone()), Some(left.clone())), Some(Action::Removed));
        assert_eq!(action(Some(one.clone()), None), Some(Action::Removed));
        assert_eq!(action(Some(left.clone()), None), Some(Action::Removed));
        assert_eq!(action(None, Some(left)), None);
        let half = Fact { incomplete: true, installed: false, ..one.clone() };
        assert_eq!(action(Some(one), Some(half)), Some(Action::Incomplete));
    }

    #[test]
    fn a_path_is_known_again_and_no_other() {
        let paths = Paths::of(&package(), [b"/usr/bin/a".as_slice(), b"/usr/bin/b"].into_iter());
        let read = Paths::from_bytes(&paths.to_bytes());
        assert_eq!(read, paths);
        assert!(read.has(&package(), b"/usr/bin/a"));
        assert!(!read.has(&package(), b"/usr/bin/c"));
        let other = PackageId { name: "b".to_owned(), ..package() };
        assert!(!read.has(&other, b"/usr/bin/a"));
    }
}
