//! Forgetting: by bytes and age what the collector has, at the disk bound the mildest of what it has not.
//! Leaf hashes and checkpoints always stay. Each commit does a bounded part of the work.

use picket_protocol::finding::Severity;
use picket_protocol::record::{Draft, Gap, Kind};
use picket_protocol::time::Timestamp;
use rusqlite::{Connection, params};

use super::error::LedgerError;
use super::rows::{int, kind_code, number};
use super::session::Session;
use crate::config::LedgerConfig;

/// Most records that one commit forgets: more than one commit adds, so that forgetting keeps up.
const FORGET_RECORDS_MAX: u32 = 4_096;
/// Most records that one commit evicts.
const EVICT_RECORDS_MAX: u64 = 16_384;
/// Records that are looked at in one step when the next ones to evict are sought.
const SCAN_RECORDS: u64 = 16_384;
/// Such steps in one commit.
const SCAN_STEPS_MAX: u32 = 16;
/// Eviction goes below the bound by this part of it, or by [`EVICT_BYTES`], so that it need not come back at each commit.
const EVICT_PART: u64 = 16;
/// See [`EVICT_PART`].
const EVICT_BYTES: u64 = 4 * 1024 * 1024;
/// Free pages that a database may keep for later, and the most that one call gives back.
const FREE_PAGES_MAX: i64 = 4_096;

impl Session<'_> {
    /// Forgets acknowledged records beyond the bounds, oldest first. `key` records stay: they are few, and
    /// without them nothing behind them could be checked.
    pub fn retain(&mut self, config: &LedgerConfig, now: Timestamp) -> Result<(), LedgerError> {
        let spared = config.disk_bytes_max.saturating_sub(self.totals.waiting());
        let bytes_max = config.retention_bytes.min(spared);
        let sql = "SELECT seq, time, kind = ?3, length(bytes) FROM ledger_record
                   WHERE seq >= ?1 AND seq < ?2 ORDER BY seq LIMIT ?4";
        let mut statement = self.transaction.prepare_cached(sql)?;
        let begin = self.totals.retained_from;
        let range =
            params![int(begin), int(self.totals.acknowledged), kind_code(Kind::Key), FORGET_RECORDS_MAX];
        let mut rows = statement.query(range)?;
        let mut end = begin;
        while let Some(row) = rows.next()? {
            let (seq, time, key) =
                (number(row, 0)?, Timestamp::from_nanos(row.get(1)?), row.get::<_, bool>(2)?);
            let expired = now.since(time) > config.retention_age;
            if !expired && self.totals.acknowledged_bytes <= bytes_max {
                break;
            }
            if !key {
                let bytes = number(row, 3)?;
                self.totals.acknowledged_bytes = self.totals.acknowledged_bytes.saturating_sub(bytes);
            }
            end = seq + 1;
        }
        if end > begin {
            self.forget_range(begin, end)?;
            self.totals.retained_from = end;
        }
        Ok(())
    }

    fn forget_range(&self, begin: u64, end: u64) -> rusqlite::Result<()> {
        let range = params![int(begin), int(end), kind_code(Kind::Key)];
        let keep = "INSERT INTO ledger_forgotten (seq, leaf)
                    SELECT seq, leaf FROM ledger_record WHERE seq >= ?1 AND seq < ?2 AND kind <> ?3 ORDER BY seq";
        self.transaction.prepare_cached(keep)?.execute(range)?;
        let delete = "DELETE FROM ledger_record WHERE seq >= ?1 AND seq < ?2 AND kind <> ?3";
        self.transaction.prepare_cached(delete)?.execute(range)?;
        Ok(())
    }

    /// When what waits is over the bound, gives up the bytes of the mildest and oldest of it and appends a
    /// `gap` record that counts them. Gives their number.
    pub fn evict(&mut self, bytes_max: u64) -> Result<u64, LedgerError> {
        if self.totals.waiting() <= bytes_max {
            return Ok(0);
        }
        let target = bytes_max.saturating_sub((bytes_max / EVICT_PART).min(EVICT_BYTES));
        let gap = Gap { count: 0, first: 0, last: 0, by_severity: [0; 5], reason: "disk-bound".to_owned() };
        let mut round = Round { target, gap, steps: 0 };
        for severity in Severity::ALL {
            self.evict_severity(severity, &mut round)?;
        }
        if round.gap.count > 0 {
            self.append(&Draft::new(Kind::Gap, Severity::High, &round.gap)?)?;
        }
        Ok(round.gap.count)
    }

    fn evict_severity(&mut self, severity: Severity, round: &mut Round) -> Result<(), LedgerError> {
        let place = usize::from(severity.rank());
        while self.totals.waiting() > round.target && round.may_go_on() {
            let (Some(waiting), Some(cursor)) =
                (self.totals.waiting_bytes.get(place), self.totals.cursors.get(place))
            else {
                break;
            };
            let begin = (*cursor).max(self.totals.acknowledged);
            if *waiting == 0 || begin >= self.size() {
                break;
            }
            round.steps += 1;
            let end = self.evict_window(severity, begin, round)?;
            if let Some(cursor) = self.totals.cursors.get_mut(place) {
                *cursor = end;
            }
        }
        Ok(())
    }

    /// Evicts what may go among `SCAN_RECORDS` records from `begin` on; gives where to go on.
    fn evict_window(
        &mut self,
        severity: Severity,
        begin: u64,
        round: &mut Round,
    ) -> Result<u64, LedgerError> {
        let end = begin.saturating_add(SCAN_RECORDS).min(self.size());
        for (seq, bytes) in self.candidates(severity, begin, end)? {
            if self.totals.waiting() <= round.target || !round.has_room() {
                return Ok(seq);
            }
            self.forget_range(seq, seq + 1)?;
            round.count(seq, severity);
            if let Some(waiting) = self.totals.waiting_bytes.get_mut(usize::from(severity.rank())) {
                *waiting = waiting.saturating_sub(bytes);
            }
        }
        Ok(end)
    }

    fn candidates(&self, severity: Severity, begin: u64, end: u64) -> rusqlite::Result<Vec<(u64, u64)>> {
        let sql = "SELECT seq, length(bytes) FROM ledger_record
                   WHERE seq >= ?1 AND seq < ?2 AND severity = ?3 AND kind NOT IN (?4, ?5) ORDER BY seq";
        let mut statement = self.transaction.prepare_cached(sql)?;
        let (key, gap) = (kind_code(Kind::Key), kind_code(Kind::Gap));
        let range = params![int(begin), int(end), severity.rank(), key, gap];
        statement.query_map(range, |row| Ok((number(row, 0)?, number(row, 1)?)))?.collect()
    }
}

/// One round of eviction.
struct Round {
    target: u64,
    gap: Gap,
    steps: u32,
}

impl Round {
    fn may_go_on(&self) -> bool {
        self.steps < SCAN_STEPS_MAX && self.has_room()
    }

    fn has_room(&self) -> bool {
        self.gap.count < EVICT_RECORDS_MAX
    }

    fn count(&mut self, seq: u64, severity: Severity) {
        let first = if self.gap.count == 0 { seq } else { self.gap.first.min(seq) };
        (self.gap.first, self.gap.last) = (first, self.gap.last.max(seq));
        self.gap.count += 1;
        if let Some(count) = self.gap.by_severity.get_mut(usize::from(severity.rank())) {
            *count += 1;
        }
    }
}

/// Gives memory back that a burst took, and free pages to the file system when there are many, some at a time.
pub(super) fn shrink(connection: &Connection) -> Result<(), LedgerError> {
    connection.execute_batch("PRAGMA shrink_memory")?;
    let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    let all: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    // Some free pages are good: the next records go there.
    if free > FREE_PAGES_MAX && free > all / 4 {
        let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({FREE_PAGES_MAX})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}
