//! Commands that contain hosts, and what agents answer.

use std::time::Duration;

use picket_protocol::command::{Action, Command, Outcome, PAYLOAD_TYPE, Receipt};
use picket_protocol::crypto::SigningKey;
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::identity::Tenant;
use picket_protocol::time::Timestamp;
use picket_protocol::trust::{self, AudienceBound, OperatorKey, Role, RootRole, TrustRoot};
use serde_json::Value;
use uuid::Uuid;

use super::{Answer, Host, Lab, RESPONDER, now, token};

pub fn receipt(command: Uuid, outcome: Outcome) -> Receipt {
    Receipt {
        command: Some(command),
        outcome,
        step: None,
        check: None,
        title: format!("it is {}", outcome.as_str()),
        signers: vec!["alice".to_owned()],
        envelope_sha256: "00".repeat(32),
        detail: Value::Null,
    }
}

pub fn isolation(hosts: &[&Host], expires: Timestamp) -> Command {
    Command {
        id: Uuid::now_v7(),
        issued: now(),
        not_before: Timestamp::from_seconds(0),
        expires,
        tenant: hosts[0].tenant.clone(),
        hosts: hosts.iter().map(|host| host.agent).collect(),
        action: Action::Isolate {},
        lease: 60,
        reason: "test".to_owned(),
        ticket: "T-1".to_owned(),
    }
}

pub fn soon() -> Timestamp {
    now().plus(Duration::from_secs(600))
}

/// Signed by the operator whom `trust_root` lists.
pub fn signed(command: &Command) -> Vec<u8> {
    signed_by(7, command)
}

pub fn signed_by(seed: u8, command: &Command) -> Vec<u8> {
    let mut envelope = Envelope::new(PAYLOAD_TYPE, &serde_json::to_vec(command).unwrap());
    envelope.sign(&SigningKey::from_seed([seed; 32])).unwrap();
    serde_json::to_vec(&envelope).unwrap()
}

/// Lets one operator isolate hosts.
pub fn trust_root(tenant: &Tenant) -> Vec<u8> {
    let key = SigningKey::from_seed([7; 32]);
    let id = KeyId::of(&key.public());
    let role = Role {
        keys: [id.clone()].into(),
        threshold: 1,
        actions: ["isolate".to_owned()].into(),
        audience: vec![AudienceBound { signatures: 1, hosts: 10 }],
        lease_seconds_max: 3_600,
    };
    let root = TrustRoot {
        version: 1,
        tenant: tenant.clone(),
        expires: soon(),
        keys: [(id.clone(), OperatorKey { name: "alice".to_owned(), public: key.public().into() })].into(),
        root: RootRole { keys: [id].into(), threshold: 1 },
        roles: [("responder".to_owned(), role)].into(),
        evidence: std::collections::BTreeSet::new(),
    };
    let mut envelope = Envelope::new(trust::PAYLOAD_TYPE, &serde_json::to_vec(&root).unwrap());
    envelope.sign(&key).unwrap();
    serde_json::to_vec(&envelope).unwrap()
}

pub fn post(lab: &Lab, command: &Command) -> Answer {
    lab.request("POST", "/commands", Some(&token(RESPONDER)), &signed(command))
}

pub fn posted(lab: &Lab, hosts: &[&Host]) -> Command {
    let command = isolation(hosts, soon());
    assert_eq!(post(lab, &command).status, 201);
    command
}
