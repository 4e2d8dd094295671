//! What this machine's kernel does not have or must not be made to do (modules, SELinux, AppArmor, lockdown): its files as
//! other kernels show them, below a root of the test's own, through the real readers and the whole sensor.

use std::fs;
use std::path::PathBuf;

use crate::lab::Lab;

/// Files below the root; each is written as a whole.
struct Host {
    lab: Lab,
    root: PathBuf,
}

impl Host {
    fn new() -> Self {
        let mut lab = Lab::new();
        let root = lab.path("root");
        lab.setup.root.clone_from(&root);
        // Modules are looked at every five minutes: here every second and a half.
        lab.setup.haste = 200;
        Self { lab, root }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // As a reader of the kernel's files, nobody sees half of one.
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn module(&self, name: &str) {
        self.write(&format!("sys/module/{name}/initstate"), "live\n");
    }
}

const LOADED: &str = "nf_tables 286720 0 - Live 0x0000000000000000\nloop 40960 0 - Live 0x0000000000000000\n";

#[test]
fn modules_that_are_foreign_or_hide_are_told_and_those_of_the_kernel_are_info() {
    let mut host = Host::new();
    let release = rustix::system::uname().release().to_str().unwrap().to_owned();
    let index = "kernel/net/netfilter/nf_tables.ko:\nkernel/drivers/block/loop.ko.xz:\nkernel/drivers/net/dummy.ko:\n";
    host.write(&format!("lib/modules/{release}/modules.dep"), index);
    host.write("proc/modules", LOADED);
    host.write("proc/sys/kernel/tainted", "0\n");
    ["nf_tables", "loop"].iter().for_each(|name| host.module(name));
    host.lab.start(&["modules"]);
    // What is in the list before it is there does not seem to hide, whenever the sensor looks.
    host.write("proc/modules", &format!("dummy 16384 0 - Live 0x0000000000000000\n{LOADED}"));
    host.module("dummy");
    host.lab.told("defence.module", "info", "Kernel module dummy loaded for the first time");
    host.lab.forget();
    host.write("proc/modules", &format!("diamorphine 16384 0 - Live 0x0000000000000000 (OE)\n{LOADED}"));
    host.module("diamorphine");
    let finding = host.lab.told("defence.module", "high", "Foreign kernel module diamorphine loaded");
    assert!(finding["attack"].as_array().unwrap().contains(&"T1014".into()));
    host.lab.forget();
    // It takes itself out of the list, and forgets one place.
    host.module("reptile");
    host.lab.told("defence.module", "critical", "The kernel module reptile hides");
    host.lab.forget();
    // It takes itself out of both, and the kernel's taint remains.
    fs::remove_dir_all(host.root.join("sys/module/diamorphine")).unwrap();
    host.write("proc/modules", LOADED);
    host.write("proc/sys/kernel/tainted", "12288\n");
    host.lab.told("defence.module", "critical", "by a module that it does not list");
}

#[test]
fn access_control_that_is_made_permissive_is_told() {
    let mut host = Host::new();
    host.write("sys/fs/selinux/enforce", "1");
    host.write("sys/module/apparmor/parameters/enabled", "Y\n");
    host.write("sys/module/apparmor/parameters/mode", "enforce\n");
    let profiles = "/usr/sbin/cupsd (enforce)\n/usr/bin/man (enforce)\nlsb_release (complain)\n";
    host.write("sys/kernel/security/apparmor/profiles", profiles);
    host.lab.start(&["mac"]);
    host.write("sys/fs/selinux/enforce", "0");
    host.lab.told_only("defence.mac", "high", "SELinux only complains now and enforces nothing");
    host.lab.forget();
    host.write("sys/fs/selinux/enforce", "1");
    host.lab.told_only("defence.mac", "info", "SELinux enforces again");
    host.lab.forget();
    host.write("sys/kernel/security/apparmor/profiles", "/usr/bin/man (enforce)\n");
    host.lab.told_only("defence.mac", "medium", "AppArmor enforces 1 profiles instead of 2");
    host.lab.forget();
    host.write("sys/module/apparmor/parameters/mode", "complain\n");
    host.lab.told_only("defence.mac", "high", "AppArmor only complains now");
}
