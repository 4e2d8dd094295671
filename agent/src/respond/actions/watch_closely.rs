//! `watch-closely`: for the length of a lease sensors tell more ([`crate::sense::watch`]). It changes nothing on the host.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Applied, Deed, Levers, Plan};

/// Prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CloseWatch {}

impl Deed for CloseWatch {
    fn plan(&self) -> Plan {
        let lines = vec![
            "This host is watched closely: detectors speak up at half of what they take otherwise, and mild findings about \
             persistence, accounts and privileges weigh more."
                .to_owned(),
        ];
        Plan { lines, data: Value::Null }
    }

    fn apply(&self, _applied: &Applied, levers: &mut Levers) -> Result<Value, String> {
        levers.watch.set(true);
        Ok(Value::Null)
    }

    fn probe(&self) -> Result<Value, String> {
        Ok(json!({ "watched": true }))
    }

    fn undo(&self, _id: Uuid, levers: &mut Levers) -> Result<(), String> {
        levers.watch.set(false);
        Ok(())
    }
}
