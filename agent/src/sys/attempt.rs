//! Forbidden acts, really attempted: what the tests of the uplink's sandbox, and nobody else, ask a confined
//! process to do. Harmless when they succeed, each as close to an intruder's first step as that allows.

use std::ffi::CString;
use std::io;

/// The acts by name.
pub const ACTS: &[&str] = &[
    "read /etc/shadow",
    "read /etc/passwd",
    "read",
    "create",
    "list /",
    "write /proc/self/oom_score_adj",
    "exec",
    "fork",
    "thread",
    "raw socket",
    "icmp socket",
    "packet socket",
    "netlink socket",
    "unix socket",
    "udp socket",
    "listen",
    "connect",
    "kill parent",
    "ptrace parent",
    "read parent memory",
    "setuid root",
    "mount",
    "unshare",
    "bpf",
    "io_uring",
    "memfd",
    "executable memory",
    "chmod",
    "prctl dumpable",
    "keyctl",
];

/// Attempts one of [`ACTS`]; those that take a path or an address have it behind an `=`: `read=/path`,
/// `create=/path`, `chmod=/path`, `connect=127.0.0.1:80`. None when there is no such act. For acts on the parent
/// the parent is asked for before; a deadly act does not return.
pub fn attempt(act: &str) -> Option<io::Result<()>> {
    let (name, value) = act.split_once('=').unwrap_or((act, ""));
    let path = |text: &str| CString::new(text).unwrap_or_default();
    Some(match name {
        "read /etc/shadow" => std::fs::File::open("/etc/shadow").map(drop),
        "read /etc/passwd" => std::fs::File::open("/etc/passwd").map(drop),
        "read" => std::fs::File::open(value).map(drop),
        "create" => std::fs::File::create(value).map(drop),
        "list /" => std::fs::read_dir("/").map(drop),
        "write /proc/self/oom_score_adj" => std::fs::write("/proc/self/oom_score_adj", "1000"),
        "connect" => std::net::TcpStream::connect(value).map(drop),
        "listen" => std::net::TcpListener::bind("127.0.0.1:0").map(drop),
        "udp socket" => std::net::UdpSocket::bind("127.0.0.1:0").map(drop),
        "thread" => std::thread::Builder::new().spawn(|| ()).map(drop),
        "chmod" => {
            let path = path(value);
            // SAFETY: the path is a C string that outlives the call.
            check(i64::from(unsafe { libc::chmod(path.as_ptr(), 0o777) }))
        }
        "exec" => {
            let program = path("/bin/true");
            let arguments = [program.as_ptr(), std::ptr::null()];
            // SAFETY: a C string and an array that ends in null; both outlive the call.
            check(i64::from(unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) }))
        }
        _ => return raw(name),
    })
}

/// Those that are one system call with plain integers.
fn raw(name: &str) -> Option<io::Result<()>> {
    // SAFETY: getppid only returns a number.
    let parent = i64::from(unsafe { libc::getppid() });
    let mut word = [0u8; 8];
    let local = libc::iovec { iov_base: word.as_mut_ptr().cast(), iov_len: word.len() };
    let vector = std::ptr::from_ref(&local) as i64;
    let (inet, raw_type) = (i64::from(libc::AF_INET), i64::from(libc::SOCK_RAW));
    let page = [0, 4096, i64::from(libc::PROT_READ | libc::PROT_EXEC)];
    let anonymous = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let (number, arguments) = match name {
        "fork" => (libc::SYS_clone, [i64::from(libc::SIGCHLD), 0, 0, 0, 0, 0]),
        "raw socket" => (libc::SYS_socket, [inet, raw_type, i64::from(libc::IPPROTO_TCP), 0, 0, 0]),
        "icmp socket" => {
            let datagram = i64::from(libc::SOCK_DGRAM);
            (libc::SYS_socket, [inet, datagram, i64::from(libc::IPPROTO_ICMP), 0, 0, 0])
        }
        "packet socket" => (libc::SYS_socket, [i64::from(libc::AF_PACKET), raw_type, 0x0300, 0, 0, 0]),
        "netlink socket" => (libc::SYS_socket, [i64::from(libc::AF_NETLINK), raw_type, 0, 0, 0, 0]),
        "unix socket" => {
            (libc::SYS_socket, [i64::from(libc::AF_UNIX), i64::from(libc::SOCK_STREAM), 0, 0, 0, 0])
        }
        "kill parent" => (libc::SYS_kill, [parent, 0, 0, 0, 0, 0]),
        "ptrace parent" => (libc::SYS_ptrace, [i64::from(libc::PTRACE_SEIZE), parent, 0, 0, 0, 0]),
        "read parent memory" => (libc::SYS_process_vm_readv, [parent, vector, 1, vector, 1, 0]),
        "setuid root" => (libc::SYS_setresuid, [0, 0, 0, 0, 0, 0]),
        "mount" => (libc::SYS_mount, [0; 6]),
        "unshare" => (libc::SYS_unshare, [i64::from(libc::CLONE_NEWUSER), 0, 0, 0, 0, 0]),
        "bpf" => (libc::SYS_bpf, [0; 6]),
        "io_uring" => (libc::SYS_io_uring_setup, [0; 6]),
        "memfd" => (libc::SYS_memfd_create, [0; 6]),
        "executable memory" => (libc::SYS_mmap, [page[0], page[1], page[2], anonymous, -1, 0]),
        "prctl dumpable" => (libc::SYS_prctl, [i64::from(libc::PR_SET_DUMPABLE), 1, 0, 0, 0, 0]),
        "keyctl" => (libc::SYS_keyctl, [0; 6]),
        _ => return None,
    };
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: integers, null pointers that the kernel refuses, or `vector`, which points to an iovec and
    // through it to `word`; both live until the end of this function. `clone` without a stack shares ours by
    // copy, as fork does, and its child leaves at once below.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if name == "fork" && result == 0 {
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    Some(check(result))
}

fn check(result: i64) -> io::Result<()> {
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
