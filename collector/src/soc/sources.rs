//! From which host of the fleet somebody came: the address that a finding names, and the hosts that say it is theirs.
//!
//! Addresses are what agents tell of their own interfaces, at the hello and with heartbeats. They are no proof: an address
//! moves, and private ones are used at many places. So all hosts of the tenant with that address are named, as a hint where
//! to look next.

use std::net::IpAddr;

use picket_protocol::finding::Entity;
use picket_protocol::identity::AgentId;

use super::client::Client;
use super::error::SocError;
use super::hosts;
use crate::api::types::{FindingDetail, Host};

/// The rule whose findings tell of a host of the fleet as source.
const RULE: &str = "login.lateral";

/// A host that has the address.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Source {
    /// The address that the finding names.
    pub address: IpAddr,
    /// Whose it is.
    pub agent: AgentId,
    /// Its name.
    pub hostname: String,
}

/// The hosts of the finding's tenant that its addresses belong to; none for findings that tell of no such source.
pub(super) async fn of(client: &Client, detail: &FindingDetail) -> Result<Vec<Source>, SocError> {
    let summary = &detail.summary;
    let addresses = addresses(detail);
    if summary.rule != RULE || addresses.is_empty() {
        return Ok(Vec::new());
    }
    let hosts = hosts::all(client, Some(summary.tenant.to_string())).await?;
    Ok(among(&hosts, &addresses))
}

fn addresses(detail: &FindingDetail) -> Vec<IpAddr> {
    let entities = detail.entities.iter().filter_map(|entity| serde_json::from_value(entity.clone()).ok());
    let of = |entity| match entity {
        Entity::Address { address, .. } => Some(address),
        _ => None,
    };
    entities.filter_map(of).collect()
}

fn among(hosts: &[Host], addresses: &[IpAddr]) -> Vec<Source> {
    let of_host = |host: &Host| {
        let own = own_addresses(host);
        let theirs = addresses.iter().filter(|address| own.contains(address)).copied();
        let source = |address| Source { address, agent: host.agent, hostname: host.hostname.clone() };
        theirs.map(source).collect::<Vec<_>>()
    };
    hosts.iter().flat_map(of_host).collect()
}

/// `facts.interfaces.NAME.addresses`: `192.0.2.7/24`.
fn own_addresses(host: &Host) -> Vec<IpAddr> {
    let interfaces = host.facts.as_ref().and_then(|facts| facts.get("interfaces")?.as_object());
    let lists = interfaces.into_iter().flat_map(|interfaces| interfaces.values());
    let texts = lists.filter_map(|interface| interface.get("addresses")?.as_array()).flatten();
    let texts = texts.filter_map(|address| address.as_str()?.split('/').next());
    texts
        .filter_map(|address| address.parse().ok())
        .filter(|address: &IpAddr| !address.is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, facts: serde_json::Value) -> Host {
        let key = picket_protocol::crypto::SigningKey::from_seed([7; 32]).public();
        Host {
            agent: AgentId::parse("01900000-0000-7000-8000-000000000001").unwrap(),
            tenant: picket_protocol::identity::Tenant::parse("acme").unwrap(),
            hostname: name.to_owned(),
            state: "connected".to_owned(),
            reason: String::new(),
            version: String::new(),
            enrolled: Default::default(),
            certificate_expires: Default::default(),
            last_seen: Default::default(),
            size: 0,
            committed: None,
            ledger_key: key,
            enrolled_key: key,
            facts: Some(facts),
        }
    }

    #[test]
    fn the_host_that_has_the_address_is_named() {
        let facts = |address: &str| {
            serde_json::json!({ "interfaces": {
                "lo": { "addresses": ["127.0.0.1/8", "::1/128"], "up": true },
                "eth0": { "addresses": [address, "fe80::1/64"], "up": true },
            }})
        };
        let hosts = [
            host("web1", facts("192.0.2.7/24")),
            host("web2", facts("192.0.2.70/24")),
            host("odd", serde_json::json!({ "interfaces": [{ "addresses": "192.0.2.7" }] })),
            host("twin", facts("192.0.2.7/16")),
        ];
        let names = |address: &str| -> Vec<String> {
            let sources = among(&hosts, &[address.parse().unwrap()]);
            sources.into_iter().map(|source| source.hostname).collect()
        };
        assert_eq!(names("192.0.2.7"), ["web1", "twin"]);
        assert_eq!(names("192.0.2.70"), ["web2"]);
        assert_eq!(names("127.0.0.1"), [""; 0]);
        assert_eq!(names("198.51.100.1"), [""; 0]);
    }
}
