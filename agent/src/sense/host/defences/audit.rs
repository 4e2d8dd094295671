//! Reads the state of the kernel's audit, and hears of its changes and of some that others make.

use std::collections::BTreeMap;
use std::io;

use ring::digest::{Context as Digest, SHA256};
use rustix::net::netlink;

use super::firewall::short;
use crate::detect::defences::audit::Audit;
use crate::netlink::{LIST_RULES, Netlink, native_u32};
use crate::sys::Instruction;

const AUDIT_GET: u16 = 1_000;
/// `AUDIT_NLGRP_READLOG`, as a mask.
const GROUP: u32 = 1;
/// Rules that are kept.
const RULES_MAX: usize = 4_096;
/// Records that are let through: audit's configuration, access control, firewall, modules, promiscuous mode, BPF.
const TYPES: [u16; 7] = [1_305, 1_404, 1_403, 1_325, 1_330, 1_700, 1_334];

/// The socket that gets the few records of [`TYPES`] and no other, however many there are.
///
/// # Errors
/// `EPERM` without `CAP_AUDIT_READ`.
pub fn listen() -> io::Result<Netlink> {
    Netlink::open_filtered(Some(netlink::AUDIT), GROUP, &filter())
}

/// Loads the type at offset 4 of the header and compares. Filters read big-endian, the type is in this machine's order.
fn filter() -> Vec<Instruction> {
    const LOAD_HALF: u16 = 0x28;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let count = u8::try_from(TYPES.len()).unwrap_or_default();
    let mut program = vec![(LOAD_HALF, 0, 0, 4)];
    for (place, kind) in (0u8..).zip(TYPES) {
        program.push((JUMP_IF_EQUAL, count - place, 0, u32::from(u16::from_be_bytes(kind.to_ne_bytes()))));
    }
    program.push((RETURN, 0, 0, 0));
    program.push((RETURN, 0, 0, u32::MAX));
    program
}

/// The state.
///
/// # Errors
/// `EPERM` without `CAP_AUDIT_CONTROL` or outside the first process namespace; `ECONNREFUSED` or
/// `EPROTONOSUPPORT` without audit.
pub fn read() -> io::Result<BTreeMap<String, Audit>> {
    let mut socket = Netlink::open(Some(netlink::AUDIT), 0)?;
    let mut audit = Audit::default();
    socket.ask(AUDIT_GET, &[], |message| {
        // `struct audit_status`: mask, enabled, failure, pid …
        audit.enabled = native_u32(message.body, 4).is_some_and(|enabled| enabled != 0);
        audit.daemon = native_u32(message.body, 12).is_some_and(|pid| pid != 0);
    })?;
    socket.ask(LIST_RULES, &[], |message| {
        if message.kind != LIST_RULES || audit.rules.len() + audit.exclusions.len() >= RULES_MAX {
            return;
        }
        // `struct audit_rule_data`: flags, action …; the action 0 is `never`, the list 5 is `exclude`.
        let (list, action) = (native_u32(message.body, 0), native_u32(message.body, 4));
        let mut digest = Digest::new(&SHA256);
        digest.update(message.body);
        let excludes = action == Some(0) || list == Some(5);
        let rules = if excludes { &mut audit.exclusions } else { &mut audit.rules };
        rules.insert(short(digest));
    })?;
    Ok(BTreeMap::from([("kernel".to_owned(), audit)]))
}
