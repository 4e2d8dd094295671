//! Which container a control group belongs to, by the names that container managers give their groups.

/// The shortest id that managers use.
const ID_CHARS_MIN: usize = 12;
/// Longest name that is taken.
const NAME_CHARS_MAX: usize = 128;

/// Prefixes of groups whose name ends in a container's id, with the manager's name.
const BY_PREFIX: &[(&str, &str)] = &[
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    ("crio-", "crio"),
    ("libpod-", "podman"),
    ("nerdctl-", "containerd"),
];
/// Groups above a group that is named by a container's id alone, with the manager's name.
const BY_PARENT: &[(&str, &str)] = &[
    ("docker", "docker"),
    ("containerd", "containerd"),
    ("libpod_parent", "podman"),
    ("garden", "garden"),
    ("ecs", "ecs"),
];

/// The container of the control group whose names are given, from the last to the first: `docker:0123456789ab`,
/// `lxc:name`, `nspawn:name`. None for a group of the host.
pub fn of_names<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Option<Box<str>> {
    let names: Vec<&str> = names.into_iter().filter_map(|name| std::str::from_utf8(name).ok()).collect();
    let above = names.iter().skip(1).map(Some).chain([None]);
    let found = names.iter().zip(above).find_map(|(name, above)| of_name(name, above.copied()))?;
    Some(found.into_boxed_str())
}

/// The same by a path, as `/proc/PID/cgroup` has it.
pub fn of_path(path: &str) -> Option<Box<str>> {
    of_names(path.split('/').rev().filter(|name| !name.is_empty()).map(str::as_bytes))
}

fn of_name(name: &str, above: Option<&str>) -> Option<String> {
    if name.len() > NAME_CHARS_MAX {
        return None;
    }
    let bare = name.strip_suffix(".scope").or(name.strip_suffix(".slice")).unwrap_or(name);
    for (prefix, manager) in BY_PREFIX {
        if let Some(id) = bare.strip_prefix(prefix).filter(|id| is_id(id)) {
            return Some(format!("{manager}:{}", short(id)));
        }
    }
    if let Some(named) = name.strip_prefix("lxc.payload.") {
        return Some(format!("lxc:{named}"));
    }
    if let Some(machine) = bare.strip_prefix("machine-").filter(|_| name.ends_with(".scope")) {
        return Some(format!("machine:{}", machine.replace("\\x2d", "-")));
    }
    if let Some(machine) = name.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service"))
    {
        return Some(format!("nspawn:{machine}"));
    }
    let above = above?;
    if above == "lxc" {
        return Some(format!("lxc:{name}"));
    }
    if !is_id(name) {
        return None;
    }
    let by_parent = BY_PARENT.iter().find(|(parent, _)| *parent == above);
    let by_pod = above.starts_with("pod") || above.starts_with("kubepods");
    match by_parent {
        Some((_, manager)) => Some(format!("{manager}:{}", short(name))),
        None => by_pod.then(|| format!("kubernetes:{}", short(name))),
    }
}

fn is_id(text: &str) -> bool {
    text.len() >= ID_CHARS_MIN && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// As their managers show them.
fn short(id: &str) -> &str {
    id.get(..ID_CHARS_MIN).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<&str>) {
        assert_eq!(of_path(path).as_deref(), expected, "{path}");
    }

    #[test]
    fn the_usual_managers_are_known_by_their_groups() {
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        check(&format!("/system.slice/docker-{id}.scope"), Some("docker:0123456789ab"));
        check(&format!("/docker/{id}"), Some("docker:0123456789ab"));
        check(&format!("/docker/{id}/init.scope"), Some("docker:0123456789ab"));
        check(&format!("/machine.slice/libpod-{id}.scope/container"), Some("podman:0123456789ab"));
        let pod = "kubepods-burstable-pod0a1b2c3d_0000_0000_0000_000000000000.slice";
        check(
            &format!("/kubepods.slice/kubepods-burstable.slice/{pod}/cri-containerd-{id}.scope"),
            Some("containerd:0123456789ab"),
        );
        check(&format!("/kubepods/besteffort/pod0a1b/{id}"), Some("kubernetes:0123456789ab"));
        check("/lxc.payload.web/system.slice/cron.service", Some("lxc:web"));
        check("/machine.slice/machine-deb\\x2d1.scope/payload", Some("machine:deb-1"));
        check("/machine.slice/systemd-nspawn@deb.service/payload", Some("nspawn:deb"));
    }

    #[test]
    fn what_is_of_the_host_is_no_container() {
        check("/", None);
        check("/system.slice/cron.service", None);
        check("/user.slice/user-1000.slice/session-3.scope", None);
        check("/system.slice/docker.service", None);
        check("/docker/buildkit", None);
        check("/system.slice/docker-notanid.scope", None);
        check("/0123456789abcdef", None);
    }
}
