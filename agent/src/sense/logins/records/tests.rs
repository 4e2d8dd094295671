//! Records as sshd of Debian 12 writes them.

use super::entry::render;
use super::*;

fn address() -> [u8; 16] {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[192, 0, 2, 7]);
    address
}

/// A pid that no process has: the program of the writer is not known.
const GONE: u32 = 4_194_304;

fn read(reading: &mut Reading, path: &str, bytes: &[u8], accounts: &[&str]) -> Option<LoginEvent> {
    let found = Found { bytes, inode: 1, offset: 0 };
    reading.event(Path::new(path), found, |name| accounts.contains(&name.text.as_str()))
}

fn failed(user: &[u8], pid: u32) -> Vec<u8> {
    render(LOGIN_PROCESS, pid, b"ssh:notty", user, b"192.0.2.7", address(), 1_700_000_000)
}

#[test]
fn a_refused_password_is_a_failure_and_a_stranger_is_announced_first() {
    let mut reading = Reading::default();
    let demo = read(&mut reading, "/var/log/btmp", &failed(b"demo", GONE), &["demo"]).expect("an event");
    assert_eq!((demo.event, demo.reporter, &*demo.service), (LoginKind::Failure, Reporter::Record, "sshd"));
    assert_eq!(demo.address, "192.0.2.7".parse().ok());
    // One when the name is given, one for each attempt; the next connection begins anew.
    let reporters: Vec<Reporter> = [GONE + 1, GONE + 1, GONE + 1, GONE + 2]
        .iter()
        .filter_map(|pid| read(&mut reading, "/var/log/btmp.1", &failed(b"nosuch", *pid), &["demo"]))
        .map(|event| event.reporter)
        .collect();
    assert_eq!(reporters, [Reporter::Notice, Reporter::Record, Reporter::Record, Reporter::Notice]);
}

#[test]
fn a_name_that_may_have_been_cut_is_no_name() {
    let mut reading = Reading::default();
    let long = read(&mut reading, "/var/log/btmp", &failed(&[b'a'; 32], GONE), &[]).expect("an event");
    assert_eq!(long.user, None);
    let fits = read(&mut reading, "/var/log/btmp", &failed(&[b'a'; 31], GONE), &[]).expect("an event");
    assert_eq!(fits.user.map(|user| user.text.len()), Some(31));
}

#[test]
fn a_terminal_that_ends_is_the_logout_of_who_had_it() {
    let mut reading = Reading::default();
    let came = render(USER_PROCESS, GONE, b"pts/7", b"demo", b"192.0.2.7", address(), 1_700_000_000);
    let went = render(DEAD_PROCESS, GONE, b"pts/7", b"", b"", [0; 16], 1_700_000_060);
    let came = read(&mut reading, "/var/log/wtmp", &came, &[]).expect("a login");
    assert_eq!((came.event, came.tty.map(|tty| tty.text)), (LoginKind::Success, Some("pts/7".to_owned())));
    let gone = read(&mut reading, "/var/log/wtmp", &went, &[]).expect("a logout");
    assert_eq!((gone.event, gone.user.map(|user| user.text)), (LoginKind::Logout, Some("demo".to_owned())));
    assert_eq!(read(&mut reading, "/var/log/wtmp", &went, &[]), None, "once");
}

#[test]
fn what_is_no_login_is_nothing() {
    let mut reading = Reading::default();
    let window = render(USER_PROCESS, GONE, b"pts/7", b"demo", b":0", [0; 16], 1);
    assert_eq!(read(&mut reading, "/var/log/wtmp", &window, &[]), None);
    let boot = render(2, 0, b"~", b"reboot", b"6.18", [0; 16], 1);
    assert_eq!(read(&mut reading, "/var/log/wtmp", &boot, &[]), None);
    assert_eq!(read(&mut reading, "/var/log/btmp", &[7; RECORD_BYTES], &[]), None);
    assert_eq!(read(&mut reading, "/var/log/btmp", b"", &[]), None);
}
