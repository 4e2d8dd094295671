//! `freeze-account`: nobody logs in as this user, by whatever means, and what runs as it stands still.
//!
//! The account expires (a lock alone lets keys in): one field of one line of `/etc/shadow`, see [`super::shadow`]. Its
//! password stays. Then all that runs as this user is stopped, so that nothing is lost as evidence, and is looked for again every second
//! while it lasts. What runs nevertheless, because somebody lets it go on, is told and no reason to let the user in again. When it ends the field is put back if it is still ours, and all go on.
//!
//! Whoever changes the field meanwhile is not fought: root owns the host. What is root as well, such as what the
//! user runs by `sudo`, goes on: `end-sessions` or `freeze-process` are for that. The kernel holds no lease for any of
//! this: when the agent is dead, it ends at the agent's next start.

use std::path::PathBuf;

use serde_json::{Value, json};
use uuid::Uuid;

use super::accounts::{LocalAccount, processes_of};
use super::shadow::{Shadow, ShadowError};
use super::{Applied, Deed, Levers, Plan, Surroundings};
use crate::respond::freeze_tree::is_stopped;
use crate::respond::processes::{Hold, count};
use crate::sense::processes::{Life, life, living};

/// The second of January 1970.
const EXPIRED: &str = "1";

/// A frozen account, prepared.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FrozenAccount {
    /// Its name.
    pub user: String,
    /// Its number.
    pub uid: u32,
    /// Other names of this number.
    pub same: Vec<String>,
    /// When it expired before, as it was written.
    pub before: String,
    /// The agent's own directory.
    pub core: PathBuf,
}

impl FrozenAccount {
    /// Prepares it.
    ///
    /// # Errors
    /// When there is no such account, or the host needs it.
    pub fn prepare(user: &str, surroundings: &Surroundings) -> Result<Self, String> {
        let LocalAccount { uid, same } = LocalAccount::find(user, surroundings)?;
        let shadow = Shadow::system();
        let before = shadow.expires(user).map_err(|error| error.to_string())?;
        shadow.can_be_replaced().map_err(|error| error.to_string())?;
        if !before.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
            return Err(format!("the line of {user} in /etc/shadow is not as shadow(5) says"));
        }
        Ok(Self { user: user.to_owned(), uid, same, before, core: surroundings.core.clone() })
    }

    fn change(&self, id: Uuid, levers: &Levers, old: &str, new: &str) -> Result<bool, ShadowError> {
        let (shadow, acts) = (Shadow::system(), &levers.acts);
        let mut noted = None;
        let changed = shadow.replace(&self.user, old, new, |before, after| {
            noted = Some(acts.file(id, "freeze-account", shadow.path(), Some(before), Some(after)));
        });
        match &changed {
            Ok(true) => acts.look(shadow.path()),
            Ok(false) => {}
            Err(_) => noted.into_iter().for_each(|noted| acts.withdraw_file(noted)),
        }
        changed
    }

    /// How many run that should stand still.
    pub fn escaped(&self) -> usize {
        let all: Vec<Life> = living().into_iter().filter_map(life).collect();
        let own = processes_of(self.uid, &all);
        // Who waits for a device is stopped as soon as the kernel may.
        own.iter().filter(|life| !is_stopped(life) && life.state != 'D').count()
    }
}

impl Deed for FrozenAccount {
    fn plan(&self) -> Plan {
        let all: Vec<Life> = living().into_iter().filter_map(life).collect();
        let mut lines = vec![
            format!("Nobody can log in as {}, and what runs as it (uid {}) is stopped.", self.user, self.uid),
            format!("{} of it now.", count(processes_of(self.uid, &all).len())),
            "Its password stays. What it runs by sudo goes on.".to_owned(),
            "If the agent dies, this ends at its next start.".to_owned(),
        ];
        if !self.same.is_empty() {
            lines.push(format!("The same uid: {}; what runs as these is stopped too.", self.same.join(", ")));
        }
        Plan { lines, data: json!({ "user": self.user, "uid": self.uid, "same_uid": self.same }) }
    }

    fn apply(&self, applied: &Applied, levers: &mut Levers) -> Result<Value, String> {
        let changed = self.change(applied.id, levers, &self.before, EXPIRED);
        let changed = changed.map_err(|error| error.to_string())?;
        let halted = Hold::new(&self.core, applied.id).stop(|all, _| processes_of(self.uid, all))?;
        let mut detail = halted.detail();
        if let Some(detail) = detail.as_object_mut() {
            detail.insert("expires_now".to_owned(), changed.into());
        }
        Ok(detail)
    }

    fn arm(&self, _: &Applied, _: &mut Levers) -> Result<(), String> {
        Ok(())
    }

    fn probe(&self) -> Result<Value, String> {
        let expires = Shadow::system().expires(&self.user).map_err(|error| error.to_string())?;
        if expires != EXPIRED {
            return Err(format!("{} has not expired by /etc/shadow", self.user));
        }
        // Who runs is stopped again while this lasts: whoever could end it by going on would.
        Ok(json!({ "expired": true, "running": self.escaped() }))
    }

    /// One does not wait for the other.
    fn undo(&self, id: Uuid, levers: &mut Levers) -> Result<(), String> {
        let gone_on = Hold::new(&self.core, id).let_go();
        match self.change(id, levers, EXPIRED, &self.before) {
            // With the account the expiry is gone.
            Ok(_) | Err(ShadowError::NoSuchUser(..)) => gone_on,
            Err(error) => Err(error.to_string()),
        }
    }
}
