//! Package transactions, made by the real dpkg below a root of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, rule};
use crate::who::Table;

/// A package to be built: paths from the root on, and what is in them.
struct Package<'a> {
    name: &'a str,
    version: &'a str,
    files: Vec<(String, String)>,
    conffiles: Vec<(String, String)>,
    links: Vec<(String, String)>,
    scripts: Vec<(&'a str, &'a str)>,
}

impl<'a> Package<'a> {
    fn new(name: &'a str, version: &'a str) -> Self {
        Self {
            name,
            version,
            files: Vec::new(),
            conffiles: Vec::new(),
            links: Vec::new(),
            scripts: Vec::new(),
        }
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    fn conffile(mut self, path: &str, text: &str) -> Self {
        self.conffiles.push((path.to_owned(), text.to_owned()));
        self
    }

    fn link(mut self, path: &str, target: &str) -> Self {
        self.links.push((path.to_owned(), target.to_owned()));
        self
    }

    fn script(mut self, name: &'a str, text: &'a str) -> Self {
        self.scripts.push((name, text));
        self
    }

    /// Builds it with dpkg-deb, with digests as dh_md5sums writes them.
    fn build(&self, lab: &Lab) -> PathBuf {
        let directory = lab.directory.path().join(format!("build/{}_{}", self.name, self.version));
        let put = |path: &str, text: &str| {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let control = format!(
            "Package: {}\nVersion: {}\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: t\n",
            self.name, self.version
        );
        put("DEBIAN/control", &control);
        for (path, text) in self.files.iter().chain(&self.conffiles) {
            put(path, text);
        }
        for (path, target) in &self.links {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
        }
        let names: String = self.conffiles.iter().map(|(path, _)| format!("/{path}\n")).collect();
        if !names.is_empty() {
            put("DEBIAN/conffiles", &names);
        }
        if !self.files.is_empty() {
            let paths: Vec<&str> = self.files.iter().map(|(path, _)| path.as_str()).collect();
            let sums = Command::new("md5sum").args(paths).current_dir(&directory).output().unwrap();
            assert!(sums.status.success());
            fs::write(directory.join("DEBIAN/md5sums"), sums.stdout).unwrap();
        }
        for (name, text) in &self.scripts {
            let path = put(&format!("DEBIAN/{name}"), text);
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let deb = directory.with_extension("deb");
        run(Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Znone", "--build"])
            .arg(&directory)
            .arg(&deb));
        deb
    }
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A host below the lab's tree, with an empty package database.
pub fn host(rung: &str) -> Lab {
    let mut lab = Lab::new(rung);
    let root = lab.tree();
    for directory in
        ["usr/bin", "usr/lib", "etc/foo.d", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log"]
    {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib")] {
        symlink(target, root.join(link)).unwrap();
    }
    for file in ["status", "available"] {
        fs::write(root.join("var/lib/dpkg").join(file), "").unwrap();
    }
    lab.config.trees = vec![root.join("usr"), root.join("etc")];
    lab.tuning.packages_root = root;
    // What a package brings is to be looked at before its transaction is over.
    lab.tuning.creation = Duration::from_millis(100);
    lab.tuning.settle = Duration::from_millis(250);
    lab
}

/// dpkg with no apt around it, as it runs below the lab's root.
fn dpkg(lab: &Lab, arguments: &[&str], files: &[PathBuf]) {
    let root = lab.tree();
    run(Command::new("dpkg")
        .arg(format!("--root={}", root.display()))
        .args(["--force-script-chrootless", "--force-confdef", "--force-unsafe-io", "--no-triggers"])
        .args(arguments)
        .args(files)
        .env("DPKG_MAINTSCRIPT_DEBUG", "0"));
}

fn install(lab: &Lab, packages: &[Package<'_>]) {
    let files: Vec<PathBuf> = packages.iter().map(|package| package.build(lab)).collect();
    dpkg(lab, &["--install"], &files);
}

/// Starts the sensor and waits until the packages that are there are known.
fn start(lab: &mut Lab) {
    lab.start();
    lab.wait("the packages to be known", |lab| {
        let stanzas = fs::read_to_string(lab.tree().join("var/lib/dpkg/status")).unwrap();
        known(lab) == stanzas.lines().filter(|line| line.starts_with("Package: ")).count()
    });
}

pub fn count(lab: &Lab, sql: &str) -> usize {
    let connection = rusqlite::Connection::open(lab.database()).unwrap();
    let count: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
    usize::try_from(count).unwrap()
}

pub fn known(lab: &Lab) -> usize {
    count(lab, "SELECT COUNT(*) FROM package_known WHERE name != ''")
}

fn held(lab: &Lab) -> usize {
    count(lab, "SELECT COUNT(*) FROM package_held")
}

/// Rule, severity and title of all findings, sorted; those about the sensor itself left out.
fn told(lab: &Lab) -> Vec<(String, String, String)> {
    let findings = lab.findings.lock().unwrap();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let mut told: Vec<_> = findings
        .iter()
        .filter(|finding| !rule(finding).starts_with("sensor."))
        .map(|finding| (text(finding, "rule"), text(finding, "severity"), text(finding, "title")))
        .collect();
    told.sort();
    told
}

/// Waits until so many findings are there and nothing is held back, and that no more come when all is looked at again.
pub fn settle(lab: &Lab, number: usize) -> Vec<(String, String, String)> {
    lab.wait(&format!("{number} findings"), |lab| told(lab).len() >= number && held(lab) == 0);
    lab.scan();
    lab.wait("the end of what waits", |lab| held(lab) == 0);
    std::thread::sleep(Duration::from_millis(2_500));
    told(lab)
}

pub fn transaction(title: &str) -> (String, String, String) {
    ("package.transaction".to_owned(), "info".to_owned(), title.to_owned())
}

fn service(version: &str) -> Package<'_> {
    Package::new("service", version)
        .file("usr/bin/service", &format!("program {version}"))
        .file("bin/tool", &format!("tool {version}"))
        .file("usr/lib/service/data", "the same in all versions")
        .conffile("etc/foo.d/service.conf", &format!("version = {version}"))
        .link("usr/lib/service/current", "data")
}

#[test]
fn an_upgrade_is_one_finding() {
    for rung in ["fanotify", "inotify", "scan"] {
        let mut lab = host(rung);
        install(&lab, &[service("1")]);
        start(&mut lab);
        install(&lab, &[service("2")]);
        assert_eq!(settle(&lab, 1), [transaction("service 1 → 2, 3 files, all as packaged")], "{rung}");
    }
}

#[test]
fn an_installation_and_a_removal_are_one_finding_each() {
    let mut lab = host("fanotify");
    // Some package always keeps `/bin` in place.
    install(&lab, &[Package::new("other", "1").file("bin/other", "other")]);
    start(&mut lab);
    install(&lab, &[service("1")]);
    let installed = settle(&lab, 1);
    assert!(
        installed[0].2.starts_with("service 1 installed, ") && installed[0].2.ends_with("all as packaged"),
        "{installed:?}"
    );
    assert_eq!((installed.len(), installed[0].1.as_str()), (1, "info"));
    lab.forget();
    dpkg(&lab, &["--purge", "service"], &[]);
    let removed = settle(&lab, 1);
    assert_eq!(removed.len(), 1, "{removed:?}");
    assert!(removed[0].2.starts_with("service 1 removed, "), "{removed:?}");
    assert_eq!(removed[0].1, "info");
}

#[test]
fn identical_content_again_is_one_finding() {
    let many = || {
        (0..225)
            .fold(Package::new("many", "1"), |package, n| package.file(&format!("usr/lib/many/{n}"), "same"))
    };
    let mut lab = host("fanotify");
    install(&lab, &[many()]);
    start(&mut lab);
    install(&lab, &[many()]);
    assert_eq!(
        settle(&lab, 1),
        [transaction("many 1 installed again, no watched file is another than before")]
    );
}

#[test]
fn fifty_packages_are_fifty_findings_and_no_other() {
    let names: Vec<String> = (0..50).map(|n| format!("package{n:02}")).collect();
    let all = |version: &'static str| -> Vec<Package<'_>> {
        names
            .iter()
            .map(|name| {
                Package::new(name, version)
                    .file(&format!("usr/bin/{name}"), &format!("{name} {version}"))
                    .file(&format!("usr/lib/{name}/a"), &format!("a {version}"))
                    .conffile(&format!("etc/foo.d/{name}"), &format!("{name} {version}"))
            })
            .collect()
    };
    let mut lab = host("fanotify");
    install(&lab, &all("1"));
    start(&mut lab);
    install(&lab, &all("2"));
    let expected: Vec<_> =
        names.iter().map(|name| transaction(&format!("{name} 1 → 2, 3 files, all as packaged"))).collect();
    assert_eq!(settle(&lab, 50), expected);
}

#[test]
fn what_differs_from_its_package_is_high_and_what_is_beside_it_is_told() {
    let mut lab = host("fanotify");
    install(&lab, &[service("1"), Package::new("other", "1").file("usr/bin/other", "other")]);
    start(&mut lab);
    // While the package's script runs, and so within the transaction, somebody else replaces what was unpacked.
    let root = lab.tree();
    let script = format!(
        "#!/bin/sh\nset -e\nprintf backdoor > {0}/usr/bin/service\nprintf x > {0}/etc/foo.d/extra\nprintf x > {0}/usr/bin/other\n",
        root.display()
    );
    install(&lab, &[service("2").script("postinst", &script)]);
    let findings = settle(&lab, 4);
    let rules: Vec<(&str, &str)> =
        findings.iter().map(|(rule, severity, _)| (rule.as_str(), severity.as_str())).collect();
    assert_eq!(
        rules,
        [
            ("file.created", "info"),
            ("file.modified", "info"),
            ("package.mismatch", "high"),
            ("package.transaction", "info"),
        ],
        "{findings:#?}"
    );
    assert!(findings[2].2.ends_with("/usr/bin/service is not what is in package service 2"), "{findings:#?}");
    assert_eq!(findings[3].2, "service 1 → 2, 2 files as packaged, 1 not as packaged");
}

#[test]
fn a_process_that_calls_itself_dpkg_explains_nothing() {
    let mut lab = host("fanotify");
    install(&lab, &[service("1")]);
    start(&mut lab);
    let root = lab.tree();
    let fake = lab.directory.path().join("dpkg");
    fs::copy("/bin/sh", &fake).unwrap();
    // It even holds the lock, as long as it is at work.
    let script = format!(
        "exec 9<>{0}/var/lib/dpkg/lock; printf x > {0}/usr/bin/service; printf y > {0}/etc/foo.d/y",
        root.display()
    );
    run(Command::new(&fake).args(["-c", &script]));
    let findings = settle(&lab, 2);
    let rules: Vec<&str> = findings.iter().map(|(rule, _, _)| rule.as_str()).collect();
    assert_eq!(rules, ["file.created", "file.modified"], "{findings:#?}");
}

#[test]
fn what_a_lock_holds_back_comes_out_when_it_is_released_though_the_agent_died_meanwhile() {
    let mut lab = host("fanotify");
    install(&lab, &[service("1")]);
    start(&mut lab);
    let lock = lab.tree().join("var/lib/dpkg/lock");
    let mut holder = Command::new("python3")
        .args(["-c", "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"])
        .arg(&lock)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut word).unwrap();
    fs::write(lab.tree().join("usr/bin/service"), "another").unwrap();
    lab.wait("the change to be held back", |lab| held(lab) == 1);
    assert_eq!(told(&lab), []);
    lab.stop();
    lab.start();
    assert_eq!((held(&lab), told(&lab)), (1, Vec::new()));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let findings = settle(&lab, 1);
    assert_eq!(findings.iter().map(|(rule, _, _)| rule.as_str()).collect::<Vec<_>>(), ["file.modified"]);
}

#[test]
fn an_upgrade_while_the_agent_was_down_is_explained() {
    let mut lab = host("fanotify");
    install(&lab, &[service("1")]);
    start(&mut lab);
    lab.stop();
    install(&lab, &[service("2")]);
    lab.start();
    assert_eq!(settle(&lab, 1), [transaction("service 1 → 2, 3 files, all as packaged")]);
}

#[test]
fn the_administrators_own_configuration_is_kept_and_told_as_such() {
    let mut lab = host("fanotify");
    install(&lab, &[service("1")]);
    let conf = lab.tree().join("etc/foo.d/service.conf");
    fs::write(&conf, "mine").unwrap();
    start(&mut lab);
    let files = [service("2").build(&lab)];
    dpkg(&lab, &["--force-confold", "--install"], &files);
    let findings = settle(&lab, 1);
    assert_eq!(fs::read_to_string(&conf).unwrap(), "mine");
    assert!(findings.contains(&transaction("service 1 → 2, 3 files, all as packaged")), "{findings:#?}");
    assert_eq!(findings.len(), 1, "{findings:#?}");
}

#[test]
fn outside_a_transaction_nothing_waits() {
    let mut lab = host("fanotify");
    install(&lab, &[service("1")]);
    start(&mut lab);
    // The database has been quiet for longer than an event may be late.
    std::thread::sleep(Duration::from_secs(4));
    let took = ["usr/bin/service", "usr/lib/service/data", "etc/foo.d/service.conf"].map(|path| {
        lab.forget();
        let began = std::time::Instant::now();
        fs::write(lab.tree().join(path), "another").unwrap();
        lab.wait("the finding", |lab| !told(lab).is_empty());
        assert_eq!(held(&lab), 0);
        began.elapsed()
    });
    // What waits does so each time, the disk and a busy machine do not.
    assert!(took.iter().min() < Some(&Duration::from_secs(1)), "{took:?}");
}

/// The same with the table of processes, so that the hands are known.
fn known_hands() -> (Lab, Table) {
    let table = Table::start(&picket_agent::sense::processes::Tuning::default());
    let mut lab = host("fanotify");
    lab.processes = table.processes.clone();
    (lab, table)
}

#[test]
fn what_a_known_manager_generates_is_folded_and_what_its_scripts_write_elsewhere_is_told() {
    let (mut lab, _table) = known_hands();
    install(&lab, &[service("1")]);
    start(&mut lab);
    let root = lab.tree();
    let script = format!(
        "#!/bin/sh\nset -e\necho cache > {0}/etc/ld.so.cache\necho x > {0}/etc/extra\nln -s ../usr/lib/service/data {0}/etc/service-data\n",
        root.display()
    );
    install(&lab, &[service("2").script("postinst", &script)]);
    let findings = settle(&lab, 2);
    let titles: Vec<&str> = findings.iter().map(|(_, _, title)| title.as_str()).collect();
    assert_eq!(titles.len(), 2, "{findings:#?}");
    assert!(titles[0].ends_with("/etc/extra"), "{findings:#?}");
    // Two programs, the configuration, the link that the script made to what is packaged; and the cache.
    assert_eq!(titles[1], "service 1 → 2, 4 files, all as packaged, 1 generated by its scripts");
    let findings = lab.findings.lock().unwrap();
    let extra =
        findings.iter().find(|finding| finding["title"].as_str().unwrap().ends_with("/etc/extra")).unwrap();
    assert_eq!(extra["evidence"]["packages"]["by_manager"], true, "{extra:#}");
    assert_eq!(extra["evidence"]["packages"]["during"][0], "service", "{extra:#}");
}

#[test]
fn who_writes_file_and_database_is_told_all_the_same() {
    let (mut lab, _table) = known_hands();
    install(&lab, &[service("1")]);
    start(&mut lab);
    let root = lab.tree();
    let fake = lab.directory.path().join("dpkg");
    fs::copy("/bin/sh", &fake).unwrap();
    let script = format!(
        "cd {0}; printf backdoor > usr/bin/service; cd var/lib/dpkg/info; \
         printf '%s  usr/bin/service\\n' $(md5sum < {0}/usr/bin/service | cut -d ' ' -f 1) > n; mv n service.md5sums; \
         cp ../status ../n; mv ../n ../status; sleep 0.1",
        root.display()
    );
    run(Command::new(&fake).args(["-c", &script]));
    let findings = settle(&lab, 2);
    let rules: Vec<&str> = findings.iter().map(|(rule, _, _)| rule.as_str()).collect();
    assert_eq!(rules, ["file.modified", "package.transaction"], "{findings:#?}");
    assert_eq!(findings[1].2, "service 1 installed again, no watched file is another than before");
}

/// rpm as it runs below the lab's root. Debian's own asks for a word that one knows what one does.
fn rpm(lab: &Lab, arguments: &[&str], files: &[PathBuf]) {
    let root = format!("--root={}", lab.tree().display());
    run(Command::new("rpm")
        .args(["--force-debian", "--dbpath=/var/lib/rpm", "--nodeps", "--noscripts", &root])
        .args(arguments)
        .args(files));
}

/// Builds a package with rpmbuild: a program, a link to it, a configuration file, and more by `extra`.
fn rpm_package(lab: &Lab, version: &str, text: &str) -> PathBuf {
    let top = lab.directory.path().join(format!("rpm{version}"));
    fs::create_dir_all(&top).unwrap();
    let spec = top.join("service.spec");
    let recipe = format!(
        "Name: service\nVersion: {version}\nRelease: 1\nSummary: t\nLicense: t\nBuildArch: noarch\n%description\nt\n\
         %install\nmkdir -p %{{buildroot}}/usr/bin %{{buildroot}}/etc/foo.d\nprintf '{text}' > %{{buildroot}}/usr/bin/service\n\
         printf '{version}' > %{{buildroot}}/etc/foo.d/service.conf\nln -s service %{{buildroot}}/usr/bin/servicectl\n\
         %files\n/usr/bin/service\n/usr/bin/servicectl\n%config /etc/foo.d/service.conf\n"
    );
    fs::write(&spec, recipe).unwrap();
    run(Command::new("rpmbuild")
        .args(["-bb", "--quiet", "--define", &format!("_topdir {}", top.display())])
        .arg(&spec)
        .env("HOME", &top));
    top.join(format!("RPMS/noarch/service-{version}-1.noarch.rpm"))
}

#[test]
fn an_upgrade_by_rpm_is_one_finding_and_what_differs_is_high() {
    let mut lab = host("fanotify");
    fs::remove_dir_all(lab.tree().join("var/lib/dpkg")).unwrap();
    let first = rpm_package(&lab, "1", "one");
    rpm(&lab, &["--install"], &[first]);
    lab.start();
    lab.wait("the package to be known", |lab| known(lab) == 1);
    let second = rpm_package(&lab, "2", "two");
    rpm(&lab, &["--upgrade"], &[second]);
    assert_eq!(settle(&lab, 1), [transaction("service 1-1 → 2-1, 2 files, all as packaged")]);
    lab.forget();
    let third = rpm_package(&lab, "3", "three");
    rpm(&lab, &["--upgrade"], &[third]);
    fs::write(lab.tree().join("usr/bin/service"), "backdoor").unwrap();
    let findings = settle(&lab, 2);
    let rules: Vec<&str> = findings.iter().map(|(rule, _, _)| rule.as_str()).collect();
    assert_eq!(rules, ["package.mismatch", "package.transaction"], "{findings:#?}");
    lab.forget();
    rpm(&lab, &["--erase", "service"], &[]);
    let findings = settle(&lab, 1);
    assert_eq!(findings, [transaction("service 3-1 removed, 3 files, all as packaged")]);
}

/// dnf below the lab's root, with one repository beside it. Debian's rpm keeps its database elsewhere by default.
fn dnf(lab: &Lab, words: &[&str], package: &std::path::Path) {
    let base = lab.directory.path();
    let (repository, home) = (base.join("repository"), base.join("home"));
    fs::create_dir_all(&repository).unwrap();
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join(".rpmmacros"), "%_dbpath /var/lib/rpm\n").unwrap();
    fs::copy(package, repository.join(package.file_name().unwrap())).unwrap();
    run(Command::new("createrepo_c").arg("--quiet").arg(&repository));
    let at = |name: &str| base.join(name).display().to_string();
    run(Command::new("/usr/bin/dnf")
        .arg("--assumeyes")
        .arg(format!("--installroot={}", lab.tree().display()))
        .arg(format!("--repofrompath=t,{}", repository.display()))
        .args(["--releasever=1", "--repo=t", "--nogpgcheck", "--setopt=metadata_expire=0"])
        .arg(format!("--setopt=reposdir={}", at("no-repositories")))
        .arg(format!("--setopt=cachedir={}", at("cache")))
        .args(words)
        .env("HOME", &home));
}

/// dnf is written in Python and calls rpm's library: there is no rpm among its processes.
#[test]
fn an_upgrade_by_dnf_is_one_finding() {
    let (mut lab, _table) = known_hands();
    fs::remove_dir_all(lab.tree().join("var/lib/dpkg")).unwrap();
    let first = rpm_package(&lab, "1", "one");
    dnf(&lab, &["install", "service"], &first);
    lab.start();
    lab.wait("the package to be known", |lab| known(lab) == 1);
    let second = rpm_package(&lab, "2", "two");
    dnf(&lab, &["upgrade"], &second);
    assert_eq!(settle(&lab, 1), [transaction("service 1-1 → 2-1, 2 files, all as packaged")]);
    lab.forget();
    dnf(&lab, &["remove", "service"], &second);
    assert_eq!(settle(&lab, 1), [transaction("service 2-1 removed, 3 files, all as packaged")]);
}
