//! What must outlive the agent: changes that are held back, and what they add up to so far.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::held::Held;
use super::transaction::Fold;
use crate::ledger::StateWrite;

/// Tables of this module.
///
/// `package_held`: a change that is held back, by path, with its findings as JSON. `package_fold`: what was explained
/// of a package and not told yet, as JSON. `package_known`: a package as it was when its last transaction was told:
/// version, whether it is installed, when the database recorded it (nanoseconds), and of each path in it 8 bytes of
/// SHA-256, so that it can be said of a deleted file that it was the package's. `change_window`: planned work.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS package_held (path BLOB PRIMARY KEY, held TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS package_fold (package TEXT PRIMARY KEY, fold TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS package_known (
  manager TEXT NOT NULL, name TEXT NOT NULL, architecture TEXT NOT NULL,
  version TEXT NOT NULL, installed INTEGER NOT NULL, recorded INTEGER NOT NULL, paths BLOB NOT NULL,
  PRIMARY KEY (manager, name, architecture)
);
CREATE TABLE IF NOT EXISTS change_window (
  one INTEGER PRIMARY KEY CHECK (one = 1), opened INTEGER NOT NULL, until INTEGER NOT NULL,
  reason TEXT NOT NULL, opened_by TEXT NOT NULL
);
";

/// Keeps `held`.
pub fn put_held(path: &Path, held: &Held) -> StateWrite {
    let path = path.as_os_str().as_bytes().to_vec();
    let held = serde_json::to_string(held).unwrap_or_default();
    Box::new(move |transaction| {
        let sql = "INSERT OR REPLACE INTO package_held (path, held) VALUES (?1, ?2)";
        transaction.prepare_cached(sql)?.execute(params![path, held]).map(|_| ())
    })
}

/// Forgets what was held of these paths.
pub fn remove_held(paths: Vec<PathBuf>) -> StateWrite {
    Box::new(move |transaction| {
        let mut statement = transaction.prepare_cached("DELETE FROM package_held WHERE path = ?1")?;
        paths.iter().try_for_each(|path| statement.execute([path.as_os_str().as_bytes()]).map(|_| ()))
    })
}

/// Keeps `fold`.
pub fn put_fold(fold: &Fold) -> StateWrite {
    let package = key(fold);
    let fold = serde_json::to_string(fold).unwrap_or_default();
    Box::new(move |transaction| {
        let sql = "INSERT OR REPLACE INTO package_fold (package, fold) VALUES (?1, ?2)";
        transaction.prepare_cached(sql)?.execute(params![package, fold]).map(|_| ())
    })
}

/// Forgets all folds: they are told.
pub fn remove_folds() -> StateWrite {
    Box::new(|transaction| transaction.execute("DELETE FROM package_fold", []).map(|_| ()))
}

fn key(fold: &Fold) -> String {
    let package = &fold.package;
    format!("{}/{}/{}", package.manager.name(), package.name, package.architecture)
}

/// What is held back by path, and what was explained.
pub type Kept = (Vec<(PathBuf, Held)>, Vec<Fold>);

/// What the last run held back, and what it had explained.
///
/// # Errors
/// What SQLite says. A row that this version does not understand is passed over.
pub fn load(database: &Connection) -> rusqlite::Result<Kept> {
    let mut statement = database.prepare("SELECT path, held FROM package_held")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, String>(1)?)))?;
    let mut held = Vec::new();
    for row in rows {
        let (path, json) = row?;
        match serde_json::from_str(&json) {
            Ok(row) => held.push((PathBuf::from(std::ffi::OsString::from_vec(path)), row)),
            Err(error) => tracing::error!(%error, "a change that was held back cannot be read"),
        }
    }
    let mut statement = database.prepare("SELECT fold FROM package_fold")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut folds = Vec::new();
    for row in rows {
        match serde_json::from_str(&row?) {
            Ok(fold) => folds.push(fold),
            Err(error) => tracing::error!(%error, "an explained change cannot be read"),
        }
    }
    Ok((held, folds))
}
