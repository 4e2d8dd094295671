//! Readers against files and against the real kernel where that changes nothing of the host.

use std::fs;
use std::path::Path;
use std::time::Duration;

use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::*;
use crate::detect::defences::{Context, Detector, SeenBy};

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn context(seconds: u64) -> Context {
    Context {
        now: Timestamp::from_seconds(1_800_000_000 + i64::try_from(seconds).unwrap()),
        uptime: Duration::from_secs(10_000 + seconds),
        seen_by: SeenBy::Poll,
        actor: None,
    }
}

#[test]
fn a_bpf_program_that_was_never_loaded_is_told_once_with_who_holds_it() {
    let proc = Path::new("/proc");
    let mut counter = programs::Counter::new(0);
    let mut detector = Detector::default();
    let new_id = &mut Uuid::now_v7;
    let first = counter.read(proc).unwrap();
    let outcome = detector.observe::<crate::detect::defences::programs::Programs>(first, &context(0), new_id);
    assert!(outcome.findings.is_empty());
    let name = format!("pk_{}", std::process::id());
    let held = crate::sys::load_nothing(name.as_bytes()).unwrap();
    assert!(counter.has_new().unwrap());
    let reading = counter.read(proc).unwrap();
    let outcome =
        detector.observe::<crate::detect::defences::programs::Programs>(reading, &context(5), new_id);
    let ours = outcome.findings.iter().find(|finding| finding.title.contains(&name));
    let ours = ours.unwrap_or_else(|| panic!("{name} is not in {:?}", outcome.findings));
    assert_eq!(ours.rule, "defence.bpf");
    // Other tests may load programs meanwhile, and then several become one finding.
    let text = serde_json::to_string(ours).unwrap();
    assert!(text.contains(&format!("\"pid\":{}", std::process::id())), "{text}");
    drop(held);
    let again = crate::sys::load_nothing(name.as_bytes()).unwrap();
    let reading = counter.read(proc).unwrap();
    let outcome =
        detector.observe::<crate::detect::defences::programs::Programs>(reading, &context(9), new_id);
    assert!(!outcome.findings.iter().any(|finding| finding.title.contains(&name)), "{:?}", outcome.findings);
    drop(again);
    // What the agent itself loads is not told.
    let own = crate::sys::load_nothing(b"pk_own").unwrap();
    let mut counter = programs::Counter::new(std::process::id());
    let reading = counter.read(proc).unwrap();
    assert!(!reading.values().any(|program| program.name == "pk_own"));
    let second = crate::sys::load_nothing(b"pk_own2").unwrap();
    assert!(!counter.read(proc).unwrap().values().any(|program| program.name == "pk_own2"));
    drop((own, second));
}

#[test]
fn audit_of_the_real_kernel_is_read_or_refused_with_a_reason() {
    match audit::read() {
        Ok(found) => assert!(found.contains_key("kernel")),
        Err(error) => assert!(is_absent(&error) || error.raw_os_error() == Some(libc::EPERM), "{error:?}"),
    }
    if let Err(error) = audit::listen() {
        assert!(is_absent(&error) || error.raw_os_error() == Some(libc::EPERM), "{error:?}");
    }
}

#[test]
fn modules_that_hide_and_foreign_ones_are_told_from_those_of_the_kernel() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let release = rustix::system::uname().release().to_str().unwrap().to_owned();
    let index = "kernel/net/nf_tables.ko.xz: kernel/net/nfnetlink.ko.xz\nkernel/lib/some-dashes.ko:\n";
    write(root, &format!("lib/modules/{release}/modules.dep"), index);
    write(root, "proc/sys/kernel/tainted", "0\n");
    let listed = "nf_tables 1 0 - Live 0x0\nsome_dashes 1 0 - Live 0x0\n";
    write(root, "proc/modules", listed);
    write(root, "sys/module/nf_tables/initstate", "live\n");
    write(root, "sys/module/builtin/parameters/x", "1\n");
    let mut files = modules::Files::default();
    let found = modules::read(root, &mut files).unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.values().all(|module| module.has_file && module.taints.is_empty() && !module.hidden));
    // One of another place, one that took itself off the list, and one that took itself off everything.
    write(root, "proc/modules", &format!("{listed}evil 1 0 - Live 0x0 (OE)\n"));
    write(root, "sys/module/rootkit/initstate", "live\n");
    write(root, "proc/sys/kernel/tainted", "12290\n");
    let found = modules::read(root, &mut files).unwrap();
    assert!(!found["evil"].has_file && found["evil"].taints == "OE");
    assert!(found["rootkit"].hidden);
    assert!(found["taint F"].only_taint && !found.contains_key("taint O"));
}

#[test]
fn access_control_is_read_from_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    assert!(is_absent(&mac::read(root).unwrap_err()));
    write(root, "sys/fs/selinux/enforce", "1");
    write(root, "sys/module/apparmor/parameters/enabled", "Y\n");
    write(
        root,
        "sys/kernel/security/apparmor/profiles",
        "/usr/sbin/x (enforce)\ny (complain)\nz (enforce)\n",
    );
    write(root, "sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
    let found = mac::read(root).unwrap();
    let level = |name: &str| (found[name].level, found[name].enforced);
    assert_eq!(level("SELinux"), (2, 0));
    assert_eq!(level("AppArmor"), (2, 2));
    assert_eq!(level("Kernel lockdown"), (1, 0));
    write(root, "sys/fs/selinux/enforce", "0");
    assert_eq!(mac::read(root).unwrap()["SELinux"].level, 1);
}

#[test]
fn mounts_that_matter_are_told_from_those_that_do_not() {
    use crate::detect::defences::mounts::Concern;
    let directory = tempfile::tempdir().unwrap();
    let table = "# device point type\n/dev/sda1 /usr/local/data ext4 defaults 0 2\n";
    write(directory.path(), "etc/fstab", table);
    let trees = ["/etc", "/usr/local", "/boot", "/home/a b/.ssh"].map(PathBuf::from).to_vec();
    let places = mounts::Places::new(trees, vec![PathBuf::from("/var/lib/picket")], directory.path());
    let line = |point: &str, options: &str, kind: &str| {
        format!("36 35 98:0 / {point} {options} shared:1 - {kind} source rw\n")
    };
    let silent = [
        line("/", "rw,relatime", "ext4"),
        line("/proc", "rw", "proc"),
        line("/proc/sys/fs/binfmt_misc", "rw", "binfmt_misc"),
        line("/var/lib/docker/overlay2/x/merged", "rw", "overlay"),
        line("/run/user/1000", "rw", "tmpfs"),
        line("/run/netns/x", "rw", "nsfs"),
        line("/snap/core/1", "ro", "squashfs"),
        line("/boot/efi", "rw", "vfat"),
        line("/home", "rw", "xfs"),
        line("/usr/local/data", "rw", "ext4"),
        line("/mnt", "rw", "tmpfs"),
        "cut off\n".to_owned(),
    ];
    let found = mounts::parse(silent.concat().as_bytes(), &places);
    assert!(found.values().all(|mount| mount.concern == Concern::Options), "{found:?}");
    for (point, concern) in [
        ("/etc", Concern::Watched),
        ("/etc/ssh", Concern::Watched),
        ("/usr/local/data/x", Concern::Watched),
        ("/home/a\\040b", Concern::Watched),
        ("/proc/1234", Concern::Proc),
        ("/var/lib/picket/agent.db", Concern::Agent),
    ] {
        let text = silent.concat() + &line(point, "rw", "tmpfs");
        let found = mounts::parse(text.as_bytes(), &places);
        let concerns: Vec<_> = found.values().filter(|mount| mount.filesystem == "tmpfs").collect();
        assert_eq!(concerns.len(), 1, "{point}: {found:?}");
        assert_eq!(concerns[0].concern, concern, "{point}");
    }
}
