//! What the file sensor tells the login sensor: keys that were added to lists of keys a moment ago.
//!
//! Kept in memory until the login sensor takes it, which is within its next look. An agent that dies in between forgets
//! that such a key is fresh; that it was added is in the ledger.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use picket_protocol::finding::Finding;

use crate::detect::logins::{FreshKey, fresh_keys};

/// Keys that wait; the oldest goes first. Nobody adds more of them between two looks.
const KEYS_MAX: usize = 256;

/// Keys that were added, and whether the lists of accounts are watched at all; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AddedKeys(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    keys: Mutex<VecDeque<FreshKey>>,
    accounts_watched: AtomicBool,
}

impl AddedKeys {
    /// The file sensor tells of every change of `/etc/passwd` and its kin.
    pub fn watch_accounts(&self) {
        self.0.accounts_watched.store(true, Ordering::Relaxed);
    }

    /// Whether it does.
    pub fn accounts_watched(&self) -> bool {
        self.0.accounts_watched.load(Ordering::Relaxed)
    }

    /// Notes the keys that a finding says were added.
    pub fn note(&self, finding: &Finding) {
        let keys = fresh_keys(finding);
        if keys.is_empty() {
            return;
        }
        let mut waiting = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(keys);
        while waiting.len() > KEYS_MAX {
            waiting.pop_front();
        }
    }

    /// Takes all.
    pub fn take(&self) -> Vec<FreshKey> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}
