//! What the kernel writes: with names and texts in it that anybody chooses.

use std::collections::BTreeSet;

use crate::guard::btf::{Btf, BtfError};
use crate::netlink;
use crate::sense::files::{mounts, records};
use crate::sense::host::defences::{self, firewall};
use crate::sense::logins::LoginKind;
use crate::sense::logins::audit::meaning::{Heard, TYPES, meaning};
use crate::sense::logins::audit::message::{MESSAGE_BYTES_MAX, Message};
use crate::sense::processes::record::{Act, Record, path_of};
use crate::sense::processes::script::first_script;
use crate::sense::processes::{connector, container, proc};

/// What events hold was in the buffer.
pub fn fanotify(input: &[u8]) -> bool {
    let mut all = true;
    for event in records::events(input) {
        match event {
            Ok(event) => {
                let entries = [event.entry, event.old, event.new].into_iter().flatten();
                let held: usize = entries.map(|entry| entry.directory.bytes.len()).sum();
                assert!(held <= 3 * input.len());
            }
            Err(_) => all = false,
        }
    }
    all && !input.is_empty()
}

/// Nothing is there that was not in the record.
pub fn process(input: &[u8]) -> bool {
    let Ok(record) = Record::parse(input) else { return false };
    if let Act::Exec { program, .. } = record.act {
        let held = program.executable.len() + program.arguments.len() + program.groups.len();
        assert!(held <= input.len(), "nothing is there that was not in the record");
        let path = path_of(program.executable, program.executable_cut);
        assert!(path.len() <= program.executable.len() + "…/".len(), "a path is as long as its names");
        let script = first_script(&path, program.arguments.split(|byte| *byte == 0));
        assert!(script.is_none_or(|script| script.starts_with(b"/")));
        container::of_names(program.groups.split(|byte| *byte == 0)).iter().for_each(|name| is_short(name));
    }
    true
}

/// A container's name may be shaped by who may make control groups; it stays a short text.
fn is_short(container: &str) {
    assert!(container.len() <= 160, "a name of {} bytes", container.len());
}

/// A message about another thing is none, and cutting it makes no event.
pub fn connector(input: &[u8]) -> bool {
    let event = connector::parse(input);
    let longer = [input, &[0; 8]].concat();
    assert!(event.is_none() || connector::parse(&longer) == event, "what follows an event is no part of it");
    event.is_some()
}

/// What is hidden by another is left out, and no path is longer than it was written.
pub fn mountinfo(input: &[u8]) -> bool {
    let mounts = mounts::parse(input);
    let points: BTreeSet<_> = mounts.iter().map(|mount| &mount.point).collect();
    assert_eq!(points.len(), mounts.len(), "what is hidden by another is left out");
    let held: usize = mounts.iter().map(|mount| mount.point.as_os_str().len()).sum();
    assert!(held <= input.len(), "paths are as long as they were written");
    let told = defences::mounts::parse(input, &defences::mounts::Places::default());
    let lines = input.split(|byte| *byte == b'\n').count();
    assert!(told.len() <= lines, "a mount a line");
    !mounts.is_empty()
}

/// Attributes lie in their message.
pub fn nftables(input: &[u8]) -> bool {
    let mut understood = 0;
    for message in netlink::messages(input) {
        let held: usize = netlink::attributes(message.body).map(|(_, value)| value.len()).sum();
        assert!(held <= message.body.len(), "attributes lie in their message");
        understood += usize::from(firewall::understands(message));
    }
    understood > 0
}

/// One byte for the type, then the message. The sender's part changes nothing that the kernel says; a name and a host name
/// of any bytes come back as they are, with their own address and outcome.
pub fn audit(input: &[u8]) -> bool {
    let Some((which, text)) = input.split_first() else { return false };
    imitated(text);
    let Some(kind) = TYPES.get(usize::from(*which) % TYPES.len()) else { return false };
    let Some(message) = Message::parse(text) else { return false };
    let alone = memchr::memmem::find(text, b"msg='").and_then(|at| text.get(..at + 5)).map(<[u8]>::to_vec);
    for name in ["pid", "uid", "auid", "ses"] {
        if let Some(kernel) = alone.as_deref().and_then(Message::parse) {
            assert_eq!(kernel.number(name), message.number(name), "the sender speaks as the kernel: {name}");
        }
    }
    match meaning(*kind, &message) {
        None => false,
        Some(Heard::Event(event)) => {
            let texts = [&event.user, &event.tty, &event.target, &event.command, &event.reason];
            let held: usize = texts.into_iter().flatten().map(|text| text.to_bytes().len()).sum();
            assert!(held <= 3 * input.len() + 32, "nothing is there that was not in the message");
            assert_eq!(event.pid, message.number("pid"), "the process is the kernel's word");
            true
        }
        Some(Heard::Began { pid, .. }) => message.number("pid") == Some(pid),
        Some(Heard::Configured) => true,
    }
}

/// A failed login as libaudit writes it: a name with anything but plain characters in hexadecimal, a host name as it is.
fn imitated(text: &[u8]) {
    let middle = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let (name, host) = (text.get(..middle.min(200)), text.get(middle..).unwrap_or_default());
    let name = name.filter(|name| !name.is_empty()).unwrap_or(b"x");
    let host: Vec<u8> = host.iter().copied().filter(|byte| *byte != 0).collect();
    let plain = name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'"');
    let written = match std::str::from_utf8(name) {
        Ok(name) if plain => format!("\"{name}\""),
        _ => name.iter().map(|byte| format!("{byte:02X}")).collect(),
    };
    let head = format!(
        "audit(1.000:2): pid=5 uid=0 auid=4294967295 ses=4294967295 msg='op=PAM:authentication grantors=? acct={written} \
         exe=\"/usr/sbin/sshd\" hostname="
    );
    let line = [head.as_bytes(), &host, b" addr=192.0.2.7 terminal=ssh res=failed'"].concat();
    if line.len() > MESSAGE_BYTES_MAX {
        return;
    }
    let message = Message::parse(&line).expect("a message");
    let Some(Heard::Event(event)) = meaning(1_100, &message) else {
        panic!("no failure: {}", line.escape_ascii())
    };
    assert_eq!((event.event, event.pid), (LoginKind::Failure, Some(5)));
    assert_eq!(event.address, "192.0.2.7".parse().ok(), "{}", line.escape_ascii());
    let known = !matches!(name, b"(unknown)" | b"(invalid user)");
    let user = event.user.map(|user| user.to_bytes());
    assert_eq!(user.as_deref(), Some(name).filter(|_| known), "{}", line.escape_ascii());
}

/// A process calls itself whatever it likes, in at most 15 bytes: the fields behind its name stay the kernel's.
pub fn proc_stat(input: &[u8]) -> bool {
    let tail = b" S 41 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 1";
    let forged = [b"12 (", input, b")", tail].concat();
    let stat = proc::parse_stat(&forged).expect("the kernel's form");
    assert_eq!((stat.parent, stat.flags, stat.started), (41, 4_194_304, 987_654), "fields are the kernel's");
    assert_eq!(stat.name, input, "the name is all of it");
    proc::parse_stat(input).is_some()
}

/// `/proc/PID/status` begins with the name, in which the kernel escapes newlines; `cgroup` has paths that others chose.
pub fn proc_text(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let name = text.replace('\\', "\\\\").replace('\n', "\\n");
    let forged = format!("Name:\t{name}\nUmask:\t0022\nState:\tS\nUid:\t1000\t0\t0\t0\nGid:\t1\n");
    assert_eq!(proc::uids_of(&forged), Some((1_000, 0)), "a name is no user: {forged:?}");
    let container = proc::container_of(&text);
    container.iter().for_each(|name| is_short(name));
    container.is_some() || proc::uids_of(&text).is_some()
}

/// What the kernel says of its types: nothing is found beyond them, and what is found is where an instruction can say.
pub fn btf(input: &[u8]) -> bool {
    let Ok(types) = Btf::read(input) else { return false };
    if let Ok(function) = types.function("bpf_lsm_task_kill") {
        let parameters = types.parameters(function).unwrap_or_default();
        assert!(parameters.len() <= input.len() / 8, "each stands somewhere");
    }
    for path in [&["tgid"][..], &["f_path", "dentry"], &["next", "next", "next"]] {
        match types.offset("task_struct", path) {
            Ok(offset) => assert!(offset <= i16::MAX.unsigned_abs()),
            Err(error) => assert!(matches!(error, BtfError::Missing(_)), "{error}"),
        }
    }
    true
}
