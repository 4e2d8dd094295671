//! Units of systemd that snapd generates: which snap one belongs to, and whether it does no more than such a unit does.
//!
//! A mount unit mounts the image of its snap on the snap's place; a service, socket or timer of a snap runs what the snap
//! holds, by `snap run`. A line that says anything else makes the unit nobody's. Forms: `systemd/systemd.go` and
//! `wrappers/` of snapd's sources.

/// Settings of a mount unit that decide nothing about what is mounted where.
const HARMLESS_OF_MOUNTS: &[&str] = &[
    "Description",
    "After",
    "Before",
    "Requires",
    "WantedBy",
    "LazyUnmount",
    "DefaultDependencies",
    "TimeoutSec",
];
/// Settings by which a service runs programs.
const PROGRAMS: &[&str] = &[
    "ExecStart",
    "ExecStartPre",
    "ExecStartPost",
    "ExecStop",
    "ExecStopPost",
    "ExecReload",
    "ExecCondition",
];
/// What may stand between `snap run` and the application.
const OPTIONS_OF_RUNS: &[&str] = &["--command=stop", "--command=reload", "--command=post-stop", "--timer="];
/// Settings of services, sockets and timers that run no program, load nothing, and grant nothing.
const HARMLESS_OF_APPLICATIONS: &[&str] = &[
    "Description",
    "After",
    "Before",
    "Requires",
    "Wants",
    "PartOf",
    "Conflicts",
    "X-Snappy",
    "SyslogIdentifier",
    "Restart",
    "RestartSec",
    "WorkingDirectory",
    "TimeoutStopSec",
    "TimeoutStartSec",
    "TimeoutSec",
    "Type",
    "WantedBy",
    "Unit",
    "OnCalendar",
    "BusName",
    "Slice",
    "OOMScoreAdjust",
    "KillMode",
    "KillSignal",
    "RefuseManualStart",
    "DefaultDependencies",
    "Service",
    "FileDescriptorName",
    "ListenStream",
    "SocketMode",
    "CPUAccounting",
    "MemoryAccounting",
    "TasksAccounting",
    "SuccessExitStatus",
    "RestartMode",
    "WatchdogSec",
    "RemainAfterExit",
    "CollectMode",
];

/// Whether a unit of the snap `snap` is called `file`, whatever is in it.
pub fn names(file: &str, snap: &str) -> bool {
    mount(file).is_some_and(|(name, _)| name == escaped(snap))
        || application(file).is_some_and(|(name, _)| name == snap)
}

/// The snap to which the unit belongs, if it does only what one of that snap does.
pub fn owner<'a>(file: &'a str, text: &'a [u8]) -> Option<&'a str> {
    let text = std::str::from_utf8(text).ok()?;
    // A line that goes on in the next one is none that snapd writes.
    let lines =
        || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';', '[']));
    if lines().any(|line| line.ends_with('\\')) {
        return None;
    }
    let settings: Vec<(&str, &str)> = lines().map(|line| line.split_once('=')).collect::<Option<_>>()?;
    match mount(file) {
        Some((escaped_name, revision)) => mounted(&settings, escaped_name, revision),
        None => {
            let (snap, _) = application(file)?;
            settings.iter().all(|setting| is_of(setting, snap)).then_some(snap)
        }
    }
}

/// Name, as systemd spells it, and revision in the name of a mount unit.
fn mount(file: &str) -> Option<(&str, &str)> {
    // On Fedora and its relatives snaps are mounted below /var/lib/snapd.
    let stem = file.strip_suffix(".mount")?;
    let stem = stem.strip_prefix("var-lib-snapd-").unwrap_or(stem).strip_prefix("snap-")?;
    stem.rsplit_once('-')
}

/// Snap and application in the name of a unit that runs one.
fn application(file: &str) -> Option<(&str, &str)> {
    let (stem, kind) = file.strip_prefix("snap.")?.rsplit_once('.')?;
    let known = matches!(kind, "service" | "socket" | "timer");
    stem.split_once('.').filter(|(snap, application)| known && !snap.is_empty() && !application.is_empty())
}

/// `systemd-escape --path`: of what the name of a snap may hold only the dash is spelled otherwise.
fn escaped(snap: &str) -> String {
    snap.replace('-', "\\x2d")
}

fn mounted<'a>(settings: &[(&'a str, &'a str)], name: &str, revision: &str) -> Option<&'a str> {
    let value = |wanted: &str| {
        let mut found = settings.iter().filter(|(key, _)| *key == wanted);
        let value = found.next().map(|(_, value)| *value);
        value.filter(|_| found.next().is_none())
    };
    let image = value("What")?.strip_prefix("/var/lib/snapd/snaps/")?.strip_suffix(".snap")?;
    let (snap, of) = image.rsplit_once('_')?;
    let place = value("Where")?;
    let place = place.strip_prefix("/var/lib/snapd").unwrap_or(place);
    let is_it = escaped(snap) == name && of == revision && place == format!("/snap/{snap}/{revision}");
    let types = ["squashfs", "fuse.squashfuse", "fuse.snapfuse"];
    let others = settings.iter().all(|(key, value)| match *key {
        "What" | "Where" => true,
        "Type" => types.contains(value),
        "Options" => value.split(',').all(is_option),
        key => HARMLESS_OF_MOUNTS.contains(&key),
    });
    (is_it && others).then_some(snap)
}

fn is_option(option: &str) -> bool {
    ["nodev", "ro", "x-gdu.hide", "x-gvfs-hide", "allow_other"].contains(&option)
        || option.starts_with("context=system_u:object_r:snappy_snap_t")
}

fn is_of((key, value): &(&str, &str), snap: &str) -> bool {
    if PROGRAMS.contains(key) {
        let mut words = value.split(' ').filter(|word| !word.is_empty());
        // What follows is given to the snap's own application.
        let runs = words.next() == Some("/usr/bin/snap") && words.next() == Some("run");
        let application = words.find(|word| !OPTIONS_OF_RUNS.iter().any(|option| word.starts_with(option)));
        let own =
            |name: &str| name == snap || name.strip_prefix(snap).is_some_and(|rest| rest.starts_with('.'));
        return runs && application.is_some_and(own);
    }
    match *key {
        "EnvironmentFile" => *value == "-/etc/environment",
        key => HARMLESS_OF_APPLICATIONS.contains(&key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNT: &str = "[Unit]\nDescription=Mount unit for core-x, revision 12\nAfter=snapd.mounts-pre.target\nBefore=snapd.mounts.target\n\n\
        [Mount]\nWhat=/var/lib/snapd/snaps/core-x_12.snap\nWhere=/snap/core-x/12\nType=squashfs\nOptions=nodev,ro,x-gdu.hide,x-gvfs-hide\nLazyUnmount=yes\n\n\
        [Install]\nWantedBy=snapd.mounts.target\nWantedBy=multi-user.target\n";
    const SERVICE: &str = "[Unit]\n# Auto-generated, DO NOT EDIT\nDescription=Service for snap application lxd.daemon\nRequires=snap-lxd-2.mount\n\
        X-Snappy=yes\n\n[Service]\nEnvironmentFile=-/etc/environment\nExecStart=/usr/bin/snap run lxd.daemon\nSyslogIdentifier=lxd.daemon\n\
        Restart=on-failure\nExecStop=/usr/bin/snap run --command=stop lxd.daemon\nType=simple\n";

    fn of<'a>(file: &'a str, text: &'a str) -> Option<&'a str> {
        owner(file, text.as_bytes())
    }

    #[test]
    fn a_mount_unit_mounts_its_image_and_nothing_else() {
        let file = "snap-core\\x2dx-12.mount";
        assert_eq!(of(file, MOUNT), Some("core-x"));
        assert!(names(file, "core-x") && !names(file, "core"));
        assert_eq!(of("snap-core\\x2dx-13.mount", MOUNT), None);
        assert_eq!(of("snap-other-12.mount", MOUNT), None);
        for (is, would_be) in [
            ("What=/var/lib/snapd/snaps/core-x_12.snap", "What=/tmp/evil.snap"),
            ("Where=/snap/core-x/12", "Where=/usr/bin"),
            ("ro,", "ro,suid,"),
            ("LazyUnmount=yes", "LazyUnmount=yes\nWhat=/tmp/evil"),
            ("LazyUnmount=yes", "ExecStart=/bin/sh"),
            ("Type=squashfs", "Type=overlay"),
        ] {
            assert_eq!(of(file, &MOUNT.replace(is, would_be)), None, "{would_be}");
        }
    }

    #[test]
    fn a_service_runs_its_application_and_nothing_else() {
        let file = "snap.lxd.daemon.service";
        assert_eq!(of(file, SERVICE), Some("lxd"));
        assert!(names(file, "lxd") && !names(file, "lx"));
        assert_eq!(of("lxd.daemon.service", SERVICE), None);
        for would_be in [
            "ExecStart=/bin/sh -c x",
            "ExecStartPre=/usr/bin/snap run lxdevil.daemon",
            "ExecStartPre=/usr/bin/snap run",
            "ExecStartPre=/usr/bin/snap run --shell lxd.daemon",
            "ExecStartPre=+/usr/bin/snap run lxd.daemon",
            "ExecStartPre=/usr/bin/snap install x",
            "Environment=LD_PRELOAD=/tmp/x",
            "EnvironmentFile=/tmp/x",
            "Description=x\\",
            "nonsense",
        ] {
            assert_eq!(of(file, &format!("{SERVICE}{would_be}\n")), None, "{would_be}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(file in "(snap[-.])?[a-z.\\\\-]{0,12}(\\.mount|\\.service)?", text in "(?s).{0,200}") {
            let _ = owner(&file, text.as_bytes());
        }
    }
}
