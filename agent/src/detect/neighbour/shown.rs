//! A neighbour as people see it.

use std::net::IpAddr;

use picket_protocol::time::Timestamp;

use super::table::{Former, Neighbour};
use crate::detect::packets::neighbour::Mac;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shown {
    /// Its address.
    pub address: IpAddr,
    /// Its link-layer address.
    pub mac: Mac,
    /// Where.
    pub interface: String,
    /// Its VLAN, 0 for none.
    #[serde(default)]
    pub vlan: u16,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// How often the address changed hands.
    pub changes: u64,
    /// Who had it before, the newest first.
    #[serde(default)]
    pub former: Vec<Former>,
    /// `gateway`, `router`, `dhcp`.
    #[serde(default)]
    pub roles: Vec<String>,
    /// `known`, or `contested` while two claim it.
    pub state: String,
    /// Where this host's kernel sends what is for it, when that is known.
    #[serde(default)]
    pub cached: Option<Mac>,
}

impl Shown {
    pub(super) fn new(
        interface: &str,
        vlan: u16,
        address: IpAddr,
        entry: &Neighbour,
        gateway: bool,
        mut roles: Vec<String>,
    ) -> Self {
        if gateway {
            roles.insert(0, "gateway".to_owned());
        }
        Self {
            address,
            mac: entry.mac,
            interface: interface.to_owned(),
            vlan,
            first_seen: entry.first_seen,
            last_seen: entry.last_seen,
            changes: entry.changes,
            former: entry.former.clone(),
            roles,
            state: if entry.contest.is_some() { "contested" } else { "known" }.to_owned(),
            cached: entry.cached,
        }
    }
}
