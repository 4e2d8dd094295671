//! What a restore opens and accepts, and the bounds of both.

use std::collections::BTreeSet;

use super::{Service, bounds};

/// Most services that a restore opens one by one.
pub const SERVICES_MAX: usize = 32;
/// Longest time that one of them stays open before the next step, in seconds.
pub const PAUSE_SECONDS_MAX: u64 = 3_600;
/// Most items of an assessment that a restore accepts: what an assessment tells.
pub const ACCEPTED_MAX: usize = 100;
/// Longest of them, in bytes: 280 characters and the escapes that make them printable.
pub const ITEM_BYTES_MAX: usize = 1_200;

pub(super) fn describe(command: &uuid::Uuid, services: &[Service], pause: u64, accept: &[String]) -> String {
    let services: Vec<String> = services.iter().map(ToString::to_string).collect();
    let opened = match services.as_slice() {
        [] => "end it".to_owned(),
        some => format!("open {}, {pause} s after one another, and end it", some.join(", ")),
    };
    let accepted = match accept {
        [] => String::new(),
        some => format!(" or shows only what operators accepted: {}", some.join("; ")),
    };
    format!(
        "restore the host from the isolation {command}: assess it, and if it is clean{accepted}, {opened}, \
         then watch the host closely"
    )
}

pub(super) fn check(
    command: &uuid::Uuid,
    services: &[Service],
    pause: u64,
    accept: &[String],
) -> Result<(), &'static str> {
    bounds(matches!(command.get_version_num(), 7 | 8), "command is not the id of one")?;
    bounds(services.len() <= SERVICES_MAX, "services are more than 32")?;
    bounds(services.iter().all(|service| service.port > 0), "services hold a port 0")?;
    let distinct: BTreeSet<_> = services.iter().collect();
    bounds(distinct.len() == services.len(), "services hold one twice")?;
    bounds(pause <= PAUSE_SECONDS_MAX, "pause is longer than 3,600 s")?;
    bounds(accept.len() <= ACCEPTED_MAX, "accept holds more than 100 items")?;
    let fits = |item: &String| (1..=ITEM_BYTES_MAX).contains(&item.len());
    bounds(accept.iter().all(fits), "accept holds an item that is empty or longer than 1,200 bytes")
}
