//! Takes over the state that an older version of the agent left behind.
//!
//! The ledger's own tables have their version in the database's header (`ledger::STATE_VERSION`). The tables of all other
//! modules have theirs here. Columns are only ever added, so that an older agent can still use what a newer one wrote;
//! each step is one version, is taken once, in the transaction that records the start, and says in that record what it
//! means for what is watched.
//!
//! | version | what came |
//! |---|---|
//! | 1 | |
//! | 2 | extended attributes and guards in `file_object` |

use rusqlite::{Connection, OptionalExtension as _, Transaction};

use crate::ledger::StateWrite;
use crate::sense::files::extended::Extended;
use crate::sense::files::object::Guards;

/// Table of this module.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS state_version (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL);
";

/// What this version writes.
const VERSION: i64 = 2;

/// What is to be done to state of an older version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeOver {
    from: i64,
}

impl TakeOver {
    /// Looks how old the state is. Nothing needs to be taken over when it was made just now.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn look(database: &Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT version FROM state_version";
        let written: Option<i64> = database.query_row(sql, [], |row| row.get(0)).optional()?;
        let from = match written {
            Some(version) => version,
            // From before there were versions: the columns tell.
            None if has_column(database, "file_object", "extended")? => VERSION,
            None => 1,
        };
        Ok(Self { from })
    }

    /// What it means, for the record of the start; none when nothing is taken over.
    pub fn meaning(self) -> Option<&'static str> {
        (self.from < 2).then_some(
            "the file baseline of an older version is taken over: extended attributes and immutable flags of before are not known, \
             and every file is read once",
        )
    }

    /// Does it, and writes down that it is done. An older agent that ran meanwhile leaves the version as it is.
    pub fn write(self) -> StateWrite {
        Box::new(move |transaction| {
            if self.from < 2 {
                attributes(transaction)?;
            }
            let version = self.from.max(VERSION);
            let sql = "INSERT OR REPLACE INTO state_version (one, version) VALUES (1, ?1)";
            transaction.execute(sql, [version]).map(|_| ())
        })
    }
}

/// What the rows do not tell is marked as not known: it is looked at and taken in without a word.
fn attributes(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    if !has_column(transaction, "file_object", "extended")? {
        transaction.execute_batch("ALTER TABLE file_object ADD COLUMN extended BLOB")?;
    }
    let sql = "UPDATE file_object SET extended = ?1, flags = flags | ?2";
    transaction.execute(sql, (Extended::unknown().as_bytes(), Guards::UNKNOWN.in_row())).map(|_| ())
}

fn has_column(database: &Connection, table: &str, column: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) FROM pragma_table_info(?1) WHERE name = ?2";
    database.query_row(sql, [table, column], |row| row.get::<_, i64>(0)).map(|count| count > 0)
}
