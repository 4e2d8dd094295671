//! Proving the ledger's key to the collector, beside a running agent or without one, for a new certificate
//! ([`picket_protocol::renewal`]).

use picket_protocol::bundle::HandOver;
use picket_protocol::crypto::{PublicKey, SigningKey};
use picket_protocol::renewal::Renewal;

use super::error::LedgerError;
use super::keys::{KeyDirectory, KeyFiles as _};
use super::reader::Reader;
use super::rows::StoredKey;
use crate::layout::Layout;

/// Hand-overs that go along at first though the collector is known to have them: a collector that came back from a backup has fewer. So many
/// fit into the 16 KiB that each enrolment has at the collector without a share of what all of them have together. One that is further back
/// is proved the key to by all that fit into a renewal.
pub const KNOWN_HAND_OVERS: usize = 64;
/// A running agent may hand the key over between the look at its number and the look at its file; not twice in a row.
const ATTEMPTS: usize = 3;

/// The key in force by the database, and how the ledger came to it.
struct InForce {
    n: u64,
    public: PublicKey,
    hand_overs: Vec<HandOver>,
}

/// Signs `message` with the key in force of the ledger below `layout`, whose first key is `enrolled`. At least `least` of the newest
/// hand-overs go along, and all that the collector lacks.
///
/// # Errors
/// When ledger or key cannot be read, or do not belong together.
pub fn prove_key(
    layout: &Layout,
    enrolled: PublicKey,
    message: &[u8],
    least: usize,
) -> Result<Renewal, LedgerError> {
    let keys = KeyDirectory::open(layout.ledger_keys())?;
    let mut missing = 0;
    for _ in 0..ATTEMPTS {
        let InForce { n, public, hand_overs } = in_force(layout, enrolled, least)?;
        let seed = keys.read(n).map_err(|source| LedgerError::Io { path: keys.path(n), source })?;
        let key = seed.map(|seed| SigningKey::from_seed(*seed)).filter(|key| key.public() == public);
        if let Some(key) = key {
            return Ok(Renewal::new(hand_overs, &key, message));
        }
        missing = n;
    }
    Err(LedgerError::Damaged(format!("{} is missing or another key", keys.path(missing).display())))
}

fn in_force(layout: &Layout, enrolled: PublicKey, least: usize) -> Result<InForce, LedgerError> {
    if !layout.database().exists() {
        // Enrolled, and no agent has run yet.
        return Ok(InForce { n: 0, public: enrolled, hand_overs: Vec::new() });
    }
    let reader = Reader::open(&layout.database())?;
    let acknowledged = reader.acknowledged()?;
    let all = StoredKey::all(&reader.connection)?;
    let (first, last) = all.first().zip(all.last()).ok_or_else(|| damaged("the ledger has no key"))?;
    if first.public != enrolled {
        return Err(damaged("the ledger's first key is not the one that was enrolled"));
    }
    let mut hand_overs: Vec<HandOver> = all.iter().filter_map(StoredKey::to_hand_over).collect();
    let new = hand_overs.iter().filter(|hand_over| hand_over.seq >= acknowledged).count();
    hand_overs.drain(..hand_overs.len().saturating_sub(new.max(least)));
    Ok(InForce { n: last.n, public: last.public, hand_overs })
}

fn damaged(what: &str) -> LedgerError {
    LedgerError::Damaged(what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use picket_protocol::finding::Severity;
    use picket_protocol::identity::AgentId;
    use picket_protocol::record::{Draft, Kind};
    use picket_protocol::renewal::RenewalError;
    use picket_protocol::time::Timestamp;

    use super::super::Ledger;
    use super::super::keys::{HAND_OVERS_WAITING_MAX, KeyTurn, create_first_key, fresh_seed};
    use super::super::schema::Location;
    use super::super::store::{Now, Store};
    use super::*;

    const MESSAGE: &[u8] = b"message";

    /// When every key has served its time.
    fn late(now: Now) -> Now {
        let day = Duration::from_secs(100_000);
        Now { wall: now.wall.plus(day), boot: now.boot + day }
    }

    /// By the writer itself, as the agent runs it.
    #[test]
    fn only_an_enrolled_host_ceases_to_hand_its_key_over() {
        let directory = tempfile::tempdir().expect("directory");
        let layout = Layout::new(directory.path(), &directory.path().join("run"));
        std::fs::create_dir_all(layout.core()).expect("directory");
        create_first_key(&layout).expect("key");
        let config = crate::config::LedgerConfig { key_lifetime: Duration::ZERO, ..Default::default() };
        let ledger = Ledger::open(&layout, &config, AgentId(uuid::Uuid::from_u128(7)), &[]).expect("ledger");
        // The key is looked at between two of them.
        let key_after = |records: u64| {
            for _ in 0..records {
                let body = serde_json::json!({ "event": "test", "title": "a record", "detail": null });
                let draft = Draft::new(Kind::Lifecycle, Severity::Info, &body).expect("a draft");
                ledger
                    .sealer()
                    .seal_durably(vec![draft], Vec::new(), Duration::from_secs(60))
                    .expect("sealed");
            }
            ledger.health().report().key
        };
        let most = u64::try_from(HAND_OVERS_WAITING_MAX).expect("few");
        let key = key_after(most + 4);
        assert!(key > most && ledger.health().report().key_trouble.is_none(), "{key}");
        std::fs::write(layout.enrolment(), "{}").expect("enrolled");
        let key = key_after(2);
        assert_eq!(key_after(3), key, "it signs on");
        assert!(ledger.health().report().key_trouble.is_some());
    }

    #[test]
    fn the_key_in_force_is_proved_from_any_that_the_collector_may_know() {
        let directory = tempfile::tempdir().expect("directory");
        let layout = Layout::new(directory.path(), &directory.path().join("run"));
        std::fs::create_dir_all(layout.core()).expect("directory");
        let enrolled = create_first_key(&layout).expect("key");
        let agent = AgentId(uuid::Uuid::from_u128(7));
        let origin = agent.origin();
        let verified = |size, key| {
            let renewal = prove_key(&layout, enrolled, MESSAGE, KNOWN_HAND_OVERS).expect("a proof");
            renewal.verify(MESSAGE, &origin, (size, key))
        };
        assert_eq!(verified(0, enrolled), Ok(()), "enrolled, and never run");

        let keys = KeyDirectory::open(layout.ledger_keys()).expect("keys");
        let location = Location::file(layout.database());
        let now = Now { wall: Timestamp::from_seconds(1_800_000_000), boot: Duration::ZERO };
        let mut store =
            Store::open(&location, Box::new(keys), Default::default(), agent, &[], now).expect("store");
        let mut known = vec![(0, enrolled)];
        for n in 1..4 {
            let sealed = store.rotate(&fresh_seed().expect("seed"), now).expect("handed over");
            let stored = Reader::open(&layout.database()).expect("reader");
            let key = StoredKey::get(&stored.connection, n).expect("read").expect("key");
            known.push((sealed.first + 1, key.public));
        }
        // The files of former keys may be there still, or not any more: a running agent erases them when it comes to it.
        for erased in [false, true] {
            if erased {
                store.erase_retired_keys().expect("erased");
            }
            for (size, key) in &known {
                assert_eq!(verified(*size, *key), Ok(()), "from {size}");
            }
        }
        assert_eq!(store.key_turn(late(now), || true).expect("read"), KeyTurn::Due);
        store.rotate(&fresh_seed().expect("seed"), now).expect("handed over");
        assert_eq!(store.key_turn(now, || true).expect("read"), KeyTurn::Serves);
        // As many as can be proved wait: the key signs on until the collector has heard of some.
        assert_eq!(store.key_turn(late(now), || true).expect("read"), KeyTurn::Kept);
        assert_eq!(store.key_turn(late(now), || false).expect("read"), KeyTurn::Due, "no collector knows it");
        assert_eq!(verified(0, enrolled), Ok(()), "all of them are proved");
        drop(store);
        let heard = rusqlite::Connection::open(layout.database()).expect("database");
        heard.execute("UPDATE ledger_state SET acknowledged = 1", []).expect("the collector heard of one");
        let keys = KeyDirectory::open(layout.ledger_keys()).expect("keys");
        let store =
            Store::open(&location, Box::new(keys), Default::default(), agent, &[], now).expect("store");
        assert_eq!(store.key_turn(late(now), || true).expect("read"), KeyTurn::Due);

        let mut store = store;
        store.rotate(&fresh_seed().expect("seed"), now).expect("handed over");
        let turn = store.key_turn(late(now), || false).expect("read");
        assert_eq!(turn, KeyTurn::Kept, "a collector knows a host that lost its enrolment");

        let other = SigningKey::from_seed([1; 32]).public();
        assert_eq!(verified(0, other), Err(RenewalError::HandOver(0)));
        assert!(prove_key(&layout, other, MESSAGE, KNOWN_HAND_OVERS).is_err(), "another first key");
        std::fs::remove_file(layout.ledger_keys().join("ledger-5.key")).expect("removed");
        assert!(prove_key(&layout, enrolled, MESSAGE, KNOWN_HAND_OVERS).is_err(), "the key in force is gone");
    }
}
