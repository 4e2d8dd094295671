//! A check for every parser of the agent that reads bytes from outside: from the kernel, from logs, from files that others
//! write, from a proxy, from a client of the local socket. It must not panic, and what it takes must keep the promise that
//! stands with it.
//!
//! libFuzzer drives them (`fuzz/run`), and an ordinary test ([`corpus`]) takes the committed corpus through the same
//! functions (`fuzz/corpus/agent`, a directory for each parser), each file as it is and damaged in many ways. A file
//! `good-…` must be taken, a file `bad-…` refused; any other must only break nothing.

#[cfg(test)]
mod corpus;
mod databases;
mod files;
mod kernel;
mod local;
mod logins;
mod network;
mod packages;
mod packets;
mod state;

#[cfg(test)]
pub(crate) use kernel::btf as kernel_types;

/// Whether the parser takes this input. Panics when it broke a promise.
pub type Check = fn(&[u8]) -> bool;

/// Every target by name; the corpus has a directory for each.
pub const ALL: &[(&str, Check)] = &[
    ("fanotify", kernel::fanotify),
    ("process", kernel::process),
    ("connector", kernel::connector),
    ("mountinfo", kernel::mountinfo),
    ("nftables", kernel::nftables),
    ("audit", kernel::audit),
    ("proc-stat", kernel::proc_stat),
    ("proc-text", kernel::proc_text),
    ("btf", kernel::btf),
    ("meaning", files::meaning),
    ("redact", files::redact),
    ("note", files::note),
    ("attributes", files::attributes),
    ("elf", files::elf),
    ("syslog", logins::syslog),
    ("message", logins::message),
    ("forged", logins::forged),
    ("rule-file", logins::rule_file),
    ("journal", logins::journal),
    ("records", logins::records),
    ("login-database", databases::login_database),
    ("lastlog", databases::lastlog),
    ("accounts", logins::accounts),
    ("sessions", logins::sessions),
    ("web", logins::web),
    ("replay", logins::replay),
    ("neighbours", network::neighbours),
    ("rtnetlink", network::rtnetlink),
    ("interfaces", network::interfaces),
    ("sock-diag", network::sock_diag),
    ("listener", network::listener),
    ("listener-rows", network::listener_rows),
    ("frame", packets::frame),
    ("capture", packets::capture),
    ("dpkg-status", packages::dpkg_status),
    ("dpkg-sums", packages::dpkg_sums),
    ("rpm-header", packages::rpm_header),
    ("pip-record", packages::pip_record),
    ("proxy", local::proxy),
    ("answer", local::answer),
    ("pipe", local::pipe),
    ("request", local::request),
    ("configuration", local::configuration),
    ("state", state::state),
];
