//! The system calls of the uplink process, as data: what it needs and who needs it. What is not listed fails
//! with EPERM; [`DEADLY`] ends the process at once, because only an intruder would try.
//!
//! `agent/tests/uplink_sandbox.rs` runs a real uplink through its life under strace and fails on an entry
//! that was neither used nor marked with the reason why it may be needed all the same.

use libc::c_long;

/// A bound on an argument of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Which argument, from 0.
    pub argument: u8,
    /// Bits that are compared.
    pub mask: u64,
    /// What they must be.
    pub value: u64,
}

/// An allowed system call.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name, as strace prints it.
    pub name: &'static str,
    /// Its number here.
    pub number: c_long,
    /// Who needs it.
    pub why: &'static str,
    /// When an ordinary run does not show it: the case that does.
    pub rare: Option<&'static str>,
    /// Ways to call it, any of which will do, each a list of bounds that must all hold. Empty: any way.
    pub ways: &'static [&'static [Bound]],
}

const fn equal(argument: u8, value: u64) -> Bound {
    Bound { argument, mask: 0xffff_ffff, value }
}

const fn without(argument: u8, mask: u64) -> Bound {
    Bound { argument, mask, value: 0 }
}

/// The type of a socket without SOCK_CLOEXEC and SOCK_NONBLOCK.
const fn socket_type(value: u64) -> Bound {
    Bound { argument: 1, mask: 0xf, value }
}

const PROT_EXEC: u64 = 4;
/// O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND and the bit of O_TMPFILE that is not O_DIRECTORY.
const WRITING: u64 = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20_000_000;
const INET: u64 = 2;
const INET6: u64 = 10;
const STREAM: u64 = 1;
const DATAGRAM: u64 = 2;
const TCP: u64 = 6;
const UDP: u64 = 17;

/// IPv4 and IPv6, TCP and UDP; no raw, packet, netlink, ping or Unix sockets.
const SOCKETS: &[&[Bound]] = &[
    &[equal(0, INET), socket_type(STREAM), equal(2, 0)],
    &[equal(0, INET), socket_type(STREAM), equal(2, TCP)],
    &[equal(0, INET), socket_type(DATAGRAM), equal(2, 0)],
    &[equal(0, INET), socket_type(DATAGRAM), equal(2, UDP)],
    &[equal(0, INET6), socket_type(STREAM), equal(2, 0)],
    &[equal(0, INET6), socket_type(STREAM), equal(2, TCP)],
    &[equal(0, INET6), socket_type(DATAGRAM), equal(2, 0)],
    &[equal(0, INET6), socket_type(DATAGRAM), equal(2, UDP)],
];

macro_rules! entry {
    ($name:ident, $number:ident, $why:literal) => {
        entry!($name, $number, $why, None, &[])
    };
    ($name:ident, $number:ident, $why:literal, rare $rare:literal) => {
        entry!($name, $number, $why, Some($rare), &[])
    };
    ($name:ident, $number:ident, $why:literal, $ways:expr) => {
        entry!($name, $number, $why, None, $ways)
    };
    ($name:ident, $number:ident, $why:literal, rare $rare:literal, $ways:expr) => {
        entry!($name, $number, $why, Some($rare), $ways)
    };
    ($name:ident, $number:ident, $why:literal, $rare:expr, $ways:expr) => {
        Entry { name: stringify!($name), number: libc::$number, why: $why, rare: $rare, ways: $ways }
    };
}

/// What the uplink may call.
pub const ALLOWED: &[Entry] = &[
    // The event loop.
    entry!(epoll_ctl, SYS_epoll_ctl, "tokio: a socket comes or goes"),
    #[cfg(target_arch = "x86_64")]
    entry!(epoll_wait, SYS_epoll_wait, "tokio: waits for sockets and timers"),
    #[cfg(not(target_arch = "x86_64"))]
    entry!(epoll_pwait, SYS_epoll_pwait, "tokio: waits for sockets and timers"),
    // Sockets.
    entry!(socket, SYS_socket, "the connection; the resolver", SOCKETS),
    entry!(connect, SYS_connect, "the connection; the resolver"),
    entry!(
        getsockopt,
        SYS_getsockopt,
        "tokio: how connect ended (SOL_SOCKET, SO_ERROR)",
        &[&[equal(1, 1), equal(2, 4)]]
    ),
    entry!(
        setsockopt,
        SYS_setsockopt,
        "TCP_NODELAY; the resolver's IP_RECVERR and IPV6_RECVERR",
        &[&[equal(1, TCP), equal(2, 1)], &[equal(1, 0), equal(2, 11)], &[equal(1, 41), equal(2, 25)]]
    ),
    entry!(getpeername, SYS_getpeername, "the peer's address, for the status"),
    entry!(
        getsockname,
        SYS_getsockname,
        "getaddrinfo orders addresses by the route to them",
        rare "only when a name has several"
    ),
    entry!(recvfrom, SYS_recvfrom, "std reads sockets; the resolver"),
    entry!(sendto, SYS_sendto, "std writes sockets; the resolver"),
    entry!(
        sendmmsg,
        SYS_sendmmsg,
        "the resolver asks for A and AAAA at once",
        rare "only with a name server: the test's names are in /etc/hosts"
    ),
    entry!(shutdown, SYS_shutdown, "tells the collector that a connection ends"),
    // Files and memory.
    entry!(read, SYS_read, "files of the resolver"),
    entry!(write, SYS_write, "the socketpair; a panic's message", rare "std sends by sendto here"),
    entry!(readv, SYS_readv, "tokio reads sockets", rare "only into several buffers"),
    entry!(writev, SYS_writev, "rustls writes several records at once"),
    entry!(close, SYS_close, "sockets, files"),
    entry!(
        openat,
        SYS_openat,
        "the resolver's files; read only, and landlock says which",
        &[&[without(2, WRITING)]]
    ),
    entry!(newfstatat, SYS_newfstatat, "the resolver looks whether its files changed"),
    entry!(fstat, SYS_fstat, "the resolver's files", rare "glibc before 2.33 calls it instead of newfstatat"),
    entry!(lseek, SYS_lseek, "glibc puts unread bytes of its files back", rare "depends on where a file ends"),
    entry!(mmap, SYS_mmap, "malloc; never executable", rare "depends on the heap's shape", &[&[without(2, PROT_EXEC)]]),
    entry!(mprotect, SYS_mprotect, "malloc; never executable", rare "a second arena", &[&[without(2, PROT_EXEC)]]),
    entry!(munmap, SYS_munmap, "malloc"),
    entry!(mremap, SYS_mremap, "malloc grows large frames in place", rare "frames above 128 KiB"),
    entry!(madvise, SYS_madvise, "malloc gives memory back", rare "depends on the heap's shape"),
    entry!(brk, SYS_brk, "malloc"),
    // The rest.
    entry!(
        ioctl,
        SYS_ioctl,
        "FIONREAD: the resolver sizes its buffer; FIONBIO: std",
        rare "only with a name server",
        &[&[equal(1, 0x541b)], &[equal(1, 0x5421)]]
    ),
    #[cfg(target_arch = "x86_64")]
    entry!(poll, SYS_poll, "the resolver waits", rare "only with a name server"),
    #[cfg(not(target_arch = "x86_64"))]
    entry!(ppoll, SYS_ppoll, "the resolver waits", rare "only with a name server"),
    entry!(futex, SYS_futex, "locks", rare "only when contended: there is one thread"),
    entry!(getrandom, SYS_getrandom, "TLS keys, jitter"),
    entry!(uname, SYS_uname, "the resolver's default domain", rare "only when resolv.conf names none"),
    entry!(clock_gettime, SYS_clock_gettime, "time", rare "only where the vDSO cannot tell it"),
    entry!(gettimeofday, SYS_gettimeofday, "the resolver", rare "only where the vDSO cannot tell it"),
    entry!(rt_sigreturn, SYS_rt_sigreturn, "returning from a signal", rare "only when a signal came"),
    entry!(restart_syscall, SYS_restart_syscall, "waiting on after SIGCONT", rare "only when it was stopped"),
    entry!(rt_sigprocmask, SYS_rt_sigprocmask, "abort", rare "only in a panic"),
    entry!(exit_group, SYS_exit_group, "ending"),
];

/// What ends the process with SIGSYS, by name.
pub const DEADLY: &[(&str, c_long)] = &[
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("mount", libc::SYS_mount),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("memfd_create", libc::SYS_memfd_create),
    ("add_key", libc::SYS_add_key),
    ("keyctl", libc::SYS_keyctl),
];
