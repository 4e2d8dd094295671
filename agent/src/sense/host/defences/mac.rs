//! Reads how strict SELinux, AppArmor and the kernel's lockdown are.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::net::netlink;

use crate::detect::defences::mac::Mac;
use crate::netlink::Netlink;

/// Bytes of AppArmor's list of profiles that are read.
const PROFILES_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// `SELNLGRP_AVC`, as a mask.
const SELINUX_GROUP: u32 = 1;

/// The socket on which SELinux tells of a change of its mode.
///
/// # Errors
/// `EPROTONOSUPPORT` without SELinux.
pub fn listen() -> io::Result<Netlink> {
    Netlink::open(Some(netlink::SELINUX), SELINUX_GROUP)
}

/// What there is of them.
///
/// # Errors
/// `NotFound` when none of them is there, or cannot be seen.
pub fn read(root: &Path) -> io::Result<BTreeMap<String, Mac>> {
    let mut found = BTreeMap::new();
    if let Ok(text) = fs::read_to_string(root.join("sys/fs/selinux/enforce")) {
        let level = if text.trim() == "1" { 2 } else { 1 };
        found.insert("SELinux".to_owned(), Mac { level, enforced: 0 });
    }
    if let Ok(text) = fs::read_to_string(root.join("sys/module/apparmor/parameters/enabled")) {
        let mode = fs::read_to_string(root.join("sys/module/apparmor/parameters/mode")).unwrap_or_default();
        let level = match (text.trim(), mode.trim()) {
            ("Y", "complain") => 1,
            ("Y", _) => 2,
            _ => 0,
        };
        // Profiles are only seen where securityfs is mounted; without that the item has none, and stays so.
        let enforced = profiles(root).unwrap_or_default();
        found.insert("AppArmor".to_owned(), Mac { level, enforced });
    }
    if let Ok(text) = fs::read_to_string(root.join("sys/kernel/security/lockdown")) {
        let level = match text.split_once('[').and_then(|(_, rest)| rest.split(']').next()) {
            Some("confidentiality") => 2,
            Some("integrity") => 1,
            _ => 0,
        };
        found.insert("Kernel lockdown".to_owned(), Mac { level, enforced: 0 });
    }
    if found.is_empty() {
        let why = "neither SELinux nor AppArmor nor lockdown is seen below /sys";
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    Ok(found)
}

/// How many profiles are enforced: `name (enforce)` a line.
fn profiles(root: &Path) -> Option<u32> {
    let mut text = Vec::new();
    let file = fs::File::open(root.join("sys/kernel/security/apparmor/profiles")).ok()?;
    file.take(PROFILES_BYTES_MAX).read_to_end(&mut text).ok()?;
    let enforced = text.split(|byte| *byte == b'\n').filter(|line| line.ends_with(b"(enforce)")).count();
    u32::try_from(enforced).ok()
}
