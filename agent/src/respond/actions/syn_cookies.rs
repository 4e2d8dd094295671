//! SYN cookies (`net.ipv4.tcp_syncookies`): with them a queue that a flood of SYN has filled takes connections nevertheless. The setting
//! is of the network namespace that the agent is in, and of both IPv4 and IPv6.

use uuid::Uuid;

use super::Levers;
use crate::layout::read_file;

/// Never, and when a queue is full. `2` is for tests of the kernel, and nobody's business here.
pub const OFF: &str = "0";
/// See [`OFF`].
pub const ON: &str = "1";

const NAME: &str = "net.ipv4.tcp_syncookies";
const PATH: &str = "/proc/sys/net/ipv4/tcp_syncookies";
const BYTES_MAX: u64 = 64;

/// Whether that is the setting. One that is not there or cannot be read is none.
pub fn are(value: &str) -> bool {
    let read = read_file(std::path::Path::new(PATH), BYTES_MAX);
    read.is_ok_and(|bytes| bytes.trim_ascii() == value.as_bytes())
}

/// Goes from one setting to the other. Somebody else's is left alone.
///
/// # Errors
/// Why it cannot be written.
pub fn change(
    command: Uuid,
    levers: &Levers,
    before: &'static str,
    after: &'static str,
) -> Result<(), String> {
    if !are(before) {
        return Ok(());
    }
    levers.acts.setting(command, "rate-limit", NAME, before, after);
    std::fs::write(PATH, after).map_err(|error| format!("{NAME} cannot be set to {after}: {error}"))
}
