//! Known hands, with the real tools: what they do is explained by them, told once a run, and nothing that matters is.
//!
//! `tests/run` installs ansible, certbot, puppet and flatpak. cloud-init takes over the machine that it is installed on at the next
//! boot: its package is unpacked, and lies over the host's directories in a mount namespace of its own. npm (Debian's brings
//! hundreds of packages) is run where it is, and named where it is not ([`installed`]).

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::everyday::{lab_that_knows_who, objects};
use crate::lab::{Lab, PATIENCE, path, rule};

/// Tools that `tests/run` does not install.
const OPTIONAL: &[&str] = &["/usr/bin/npm"];

/// cloud-init with what it depends on, and dpkg's records of it, as `tests/run` unpacks it.
const CLOUD_INIT: &str = "/var/cache/picket-tests/programs/cloud-init";

/// Whether the tool is there. One that must be, and is not, is a failure.
fn installed(program: &str) -> bool {
    let there = Path::new(program).exists();
    assert!(there || OPTIONAL.contains(&program), "{program} is missing: tests/run installs it");
    if !there {
        println!("not run: {program} is not installed here, and tests/run does not install it");
    }
    there
}

fn run(lab: &Lab, program: &str, arguments: &[&str]) {
    run_with(lab, &[], program, arguments);
}

fn run_with(lab: &Lab, environment: &[(&str, &Path)], program: &str, arguments: &[&str]) {
    let home = lab.outside();
    let output = Command::new(program)
        .args(arguments)
        .current_dir(&home)
        .envs(environment.iter().copied())
        .env("HOME", &home)
        .env("ANSIBLE_LOCAL_TEMP", home.join("local"))
        .env("ANSIBLE_REMOTE_TEMP", home.join("remote"))
        .env("ANSIBLE_NOCOLOR", "1")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        said(&output.stdout),
        said(&output.stderr)
    );
}

fn findings(lab: &Lab) -> Vec<Value> {
    let findings = lab.findings.lock().unwrap();
    findings.iter().filter(|finding| !rule(finding).starts_with("sensor.")).cloned().collect()
}

/// Waits until all of `paths` (from the lab on) are told of, and then until no more comes.
fn settle(lab: &Lab, paths: &[&str]) -> Vec<Value> {
    let told = |lab: &Lab| -> Vec<String> { objects(lab).into_iter().map(|(path, _)| path).collect() };
    lab.wait(&format!("all of {paths:?}"), |lab| {
        let told = told(lab);
        paths.iter().all(|path| told.iter().any(|one| one == path))
    });
    lab.scan();
    lab.wait("the rest", |lab| lab.arrived());
    findings(lab)
}

/// Whether all findings are explained by the tool and its package, and none is more than low.
fn expect_explained(findings: &[Value], tool: &str, package: &str) {
    assert!(!findings.is_empty());
    for finding in findings {
        let cause = finding["explained_by"].as_str().unwrap_or_default();
        assert!(cause.starts_with(&format!("{tool} did it (package {package} ")), "{finding:#}");
        assert!(["info", "low"].contains(&finding["severity"].as_str().unwrap()), "{finding:#}");
        assert_eq!(finding["evidence"]["hand"]["tool"], tool, "{finding:#}");
    }
}

fn play(lab: &Lab) -> String {
    let outside = lab.outside();
    let files = outside.join("many");
    fs::create_dir_all(&files).unwrap();
    (0..30).for_each(|n| fs::write(files.join(format!("{n}.conf")), format!("n = {n}\n")).unwrap());
    fs::write(outside.join("t.j2"), "{% for n in [1, 2] %}line {{ n }}\n{% endfor %}").unwrap();
    let tree = lab.tree();
    let play = format!(
        "- hosts: all\n  gather_facts: false\n  tasks:\n\
         \x20   - copy: {{src: {0}/many/, dest: {1}/many/}}\n\
         \x20   - template: {{src: {0}/t.j2, dest: {1}/from-template}}\n\
         \x20   - lineinfile: {{path: {1}/old, line: a new line}}\n\
         \x20   - file: {{path: {1}/old, mode: '0600'}}\n\
         \x20   - command: touch {1}/by-command\n\
         \x20   - copy: {{content: 'ssh-ed25519 AAAA x', dest: {1}/.ssh/authorized_keys}}\n",
        outside.display(),
        tree.display()
    );
    let at = outside.join("play.yml");
    fs::write(&at, play).unwrap();
    fs::write(tree.join("old"), "an old line\n").unwrap();
    fs::create_dir(tree.join(".ssh")).unwrap();
    at.to_str().unwrap().to_owned()
}

#[test]
fn ansible_explains_files_and_no_key() {
    assert!(installed("/usr/bin/ansible-playbook"));
    let (mut lab, _table) = lab_that_knows_who();
    let play = play(&lab);
    lab.start();
    run(&lab, "/usr/bin/ansible-playbook", &["-i", "localhost,", "-c", "local", &play]);
    let key = "tree/.ssh/authorized_keys";
    let told = settle(&lab, &["tree/many/29.conf", "tree/from-template", "tree/old", "tree/by-command", key]);
    let (mut keys, others): (Vec<Value>, Vec<Value>) =
        told.into_iter().partition(|finding| path(finding).ends_with("authorized_keys"));
    // ansible gives what it has moved there its mode afterwards: looked at between, that is told as well.
    keys.retain(|finding| finding["evidence"]["fact"] != "file.attributes");
    expect_explained(&others, "ansible", "ansible-core");
    // A known hand may be anybody's: what opens an account stays what it is, and names the hand.
    assert_eq!(keys.len(), 1, "{keys:#?}");
    assert!(keys[0]["explained_by"].is_null(), "{:#}", keys[0]);
    assert_eq!(keys[0]["severity"], "high");
    assert_eq!(keys[0]["evidence"]["hand"]["tool"], "ansible");
    // The 30 copies are told together; in several pieces where the machine is so slow that it rests between them.
    let objects = objects(&lab);
    let is_told = |n: u32| objects.iter().any(|(path, _)| *path == format!("tree/many/{n}.conf"));
    assert!((0..30).all(is_told), "{objects:#?}");
    assert!(others.len() < 15, "{} findings: {others:#?}", others.len());
}

#[test]
fn what_only_looks_like_ansible_explains_nothing() {
    assert!(installed("/usr/bin/ansible-playbook"));
    let (mut lab, _table) = lab_that_knows_who();
    let tree = lab.tree();
    let copy = lab.outside().join("ansible-playbook");
    fs::copy("/usr/bin/ansible-playbook", &copy).unwrap();
    let script = format!("open('{}/by-name', 'w').write('x')", tree.display());
    fs::write(&copy, format!("#!/usr/bin/python3\n{script}\n")).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    lab.start();
    run(&lab, copy.to_str().unwrap(), &[]);
    // The word of an argument is not what was run.
    let script = format!("open('{}/by-argument', 'w').write('x')", tree.display());
    run(&lab, "/usr/bin/python3", &["-c", &script, "/usr/bin/ansible-playbook"]);
    for finding in settle(&lab, &["tree/by-name", "tree/by-argument"]) {
        assert!(finding["explained_by"].is_null() && finding["evidence"]["hand"].is_null(), "{finding:#}");
    }
}

/// On a host of rpm's the same program is vouched for by rpm's database.
#[test]
fn a_hand_is_known_by_the_database_of_rpm_as_well() {
    let (mut lab, _table) = lab_that_knows_who();
    let python = fs::canonicalize("/usr/bin/python3").unwrap();
    let root = lab.directory.path().join("host");
    let spec = lab.outside().join("hand.spec");
    let recipe = format!(
        "Name: ansible-core\nVersion: 9\nRelease: 1\nSummary: t\nLicense: t\nBuildArch: noarch\n\
         %global __os_install_post %{{nil}}\n%global _binaries_in_noarch_packages_terminate_build 0\n\
         AutoReqProv: no\n%description\nt\n%install\nmkdir -p %{{buildroot}}/usr/bin\n\
         cp {0} %{{buildroot}}/usr/bin/\ncp /usr/bin/ansible-playbook %{{buildroot}}/usr/bin/\n\
         %files\n{0}\n/usr/bin/ansible-playbook\n",
        python.display()
    );
    fs::write(&spec, recipe).unwrap();
    let top = format!("_topdir {}/rpm", lab.outside().display());
    run(&lab, "rpmbuild", &["-bb", "--quiet", "--define", &top, spec.to_str().unwrap()]);
    let package = lab.outside().join("rpm/RPMS/noarch/ansible-core-9-1.noarch.rpm");
    let below = format!("--root={}", root.display());
    fs::create_dir_all(root.join("var/lib/rpm")).unwrap();
    let install = ["--force-debian", "--dbpath=/var/lib/rpm", "--nodeps", "--noscripts", &below, "--install"];
    run(&lab, "rpm", &[&install[..], &[package.to_str().unwrap()]].concat());
    lab.tuning.packages_root = root.clone();
    let play = play(&lab);
    lab.start();
    run(&lab, "/usr/bin/ansible-playbook", &["-i", "localhost,", "-c", "local", &play]);
    settle(&lab, &["tree/from-template", "tree/by-command", "tree/.ssh/authorized_keys"]);
    let of = |lab: &Lab, name: &str| {
        findings(lab).into_iter().find(|finding| path(finding).ends_with(name)).unwrap_or_default()
    };
    let key = of(&lab, "authorized_keys");
    let hand = &key["evidence"]["hand"];
    assert_eq!(
        (&hand["package"], &hand["digest"]),
        (&"ansible-core 9-1".into(), &"sha256, as rpm recorded it".into())
    );
    // The program is not what its package holds any more: nobody's hand is known.
    lab.forget();
    let program = root.join("usr/bin/ansible-playbook");
    let text = fs::read_to_string(&program).unwrap();
    fs::write(&program, text + "# more\n").unwrap();
    fs::write(lab.tree().join(".ssh/authorized_keys"), "").unwrap();
    lab.wait("the key to be gone", |lab| of(lab, "authorized_keys") != Value::Null);
    lab.forget();
    run(&lab, "/usr/bin/ansible-playbook", &["-i", "localhost,", "-c", "local", &play]);
    lab.wait("the key to be back", |lab| of(lab, "authorized_keys") != Value::Null);
    assert_eq!(of(&lab, "authorized_keys")["evidence"]["hand"], Value::Null);
}

#[test]
fn puppet_explains_a_resource() {
    assert!(installed("/usr/bin/puppet"));
    let (mut lab, _table) = lab_that_knows_who();
    let tree = lab.tree();
    let manifest = lab.outside().join("site.pp");
    let text = format!(
        "file {{ '{0}/made': content => 'x' }}\nfile {{ '{0}/old': content => 'another', mode => '0600' }}\n\
         exec {{ '/usr/bin/touch {0}/by-exec': }}\n",
        tree.display()
    );
    fs::write(&manifest, text).unwrap();
    fs::write(tree.join("old"), "one").unwrap();
    lab.start();
    let outside = lab.outside();
    let outside = outside.to_str().unwrap();
    let own = ["conf", "var", "run", "log"].map(|name| format!("{outside}/{name}"));
    let arguments = [
        "apply",
        "--confdir",
        &own[0],
        "--vardir",
        &own[1],
        "--rundir",
        &own[2],
        "--logdir",
        &own[3],
        manifest.to_str().unwrap(),
    ];
    run(&lab, "/usr/bin/puppet", &arguments);
    let told = settle(&lab, &["tree/made", "tree/old", "tree/by-exec"]);
    expect_explained(&told, "puppet", "puppet-agent");
}

/// A package as `npm pack` makes it.
fn pack(lab: &Lab, name: &str, version: &str) -> String {
    let at = lab.outside().join(format!("{name}-src"));
    fs::create_dir_all(at.join("lib")).unwrap();
    let json = format!(r#"{{"name":"{name}","version":"{version}","license":"MIT","main":"index.js"}}"#);
    fs::write(at.join("package.json"), json).unwrap();
    fs::write(at.join("index.js"), format!("module.exports = '{version}';\n")).unwrap();
    (0..20).for_each(|n| fs::write(at.join(format!("lib/{n}.js")), format!("// {n} {version}\n")).unwrap());
    run(lab, "/usr/bin/npm", &["pack", "--offline", at.to_str().unwrap()]);
    lab.outside().join(format!("{name}-{version}.tgz")).to_str().unwrap().to_owned()
}

#[test]
fn npm_is_one_finding_a_run_that_says_what_is_not_proved() {
    if !installed("/usr/bin/npm") {
        return;
    }
    let (mut lab, _table) = lab_that_knows_who();
    let tree = lab.tree();
    fs::write(tree.join("package.json"), r#"{"name":"app","version":"1.0.0","private":true}"#).unwrap();
    let archives = [pack(&lab, "pad-left", "1.3.0"), pack(&lab, "pad-right", "0.2.0")];
    lab.start();
    let fixed = ["install", "--offline", "--no-audit", "--no-fund", "--prefix", tree.to_str().unwrap()];
    let arguments: Vec<&str> = fixed.into_iter().chain(archives.iter().map(String::as_str)).collect();
    run(&lab, "/usr/bin/npm", &arguments);
    let last = "tree/node_modules/.package-lock.json";
    // Node's program has 100 MB: a test's unoptimised digest of it takes its time on a busy machine.
    let deadline = std::time::Instant::now() + PATIENCE * 4;
    while findings(&lab).is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let told =
        settle(&lab, &["tree/node_modules/pad-left/lib/19.js", "tree/node_modules/pad-right/index.js", last]);
    expect_explained(&told, "npm", "nodejs");
    assert!(told.len() <= 3, "{told:#?}");
    let all: Vec<&Value> =
        told.iter().flat_map(|one| one["evidence"]["run"]["packages"].as_array()).flatten().collect();
    for package in ["pad-left 1.3.0", "pad-right 0.2.0"] {
        assert!(all.iter().any(|one| **one == package), "{all:?}");
    }
    assert!(told[0]["evidence"]["run"]["proof"].as_str().unwrap().contains("none of single files"));
}

/// What stands in for an authority in certbot, which is its own in all else: a new certificate and its key are where
/// `ISSUED` says, and what is done with them is done by certbot's code.
const AUTHORITY: &str = r#"
import os
from certbot import util
from certbot._internal import main

class Authority:
    account = None

    def obtain_certificate(self, domains, old_key=None):
        def issued(name):
            with open(os.path.join(os.environ["ISSUED"], name), "rb") as file:
                return file.read()
        return issued("cert.pem"), issued("cert.pem"), util.Key(file=None, pem=issued("key.pem")), None

main._init_le_client = lambda *_: Authority()
"#;

/// A certificate for `name`, and its key.
fn issue(name: &str, key: &str, certificate: &str) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "90",
            "-subj",
            &format!("/CN={name}"),
        ])
        .args(["-addext", &format!("subjectAltName=DNS:{name}"), "-keyout", key, "-out", certificate])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
}

/// What certbot keeps of a certificate, with links as an old version made them.
fn lineage(name: &str) {
    let root = Path::new("/etc/letsencrypt");
    let (archive, live) = (root.join("archive").join(name), root.join("live").join(name));
    for directory in [&archive, &live, &root.join("renewal")] {
        fs::create_dir_all(directory).unwrap();
    }
    let at = |file: &str| archive.join(file).to_str().unwrap().to_owned();
    issue(name, &at("privkey1.pem"), &at("cert1.pem"));
    let mut renewal = format!("version = 2.1.0\narchive_dir = {}\n", archive.display());
    for kind in ["cert", "privkey", "chain", "fullchain"] {
        let file = archive.join(format!("{kind}1.pem"));
        if !file.exists() {
            fs::copy(archive.join("cert1.pem"), &file).unwrap();
        }
        symlink(&file, live.join(format!("{kind}.pem"))).unwrap();
        renewal.push_str(&format!("{kind} = {}/{kind}.pem\n", live.display()));
    }
    renewal.push_str(
        "[renewalparams]\nauthenticator = standalone\nserver = https://localhost/\naccount = none\n",
    );
    fs::write(root.join("renewal").join(format!("{name}.conf")), renewal).unwrap();
}

/// Takes away what a test put where certbot keeps its own.
struct Certificate(String);

impl Drop for Certificate {
    fn drop(&mut self) {
        for place in ["archive", "live"] {
            // Where certbot deleted it, it is gone.
            let _gone = fs::remove_dir_all(Path::new("/etc/letsencrypt").join(place).join(&self.0));
        }
        let _gone = fs::remove_file(format!("/etc/letsencrypt/renewal/{}.conf", self.0));
    }
}

#[test]
fn certbot_is_one_finding_for_links_one_for_a_renewal_and_one_for_a_removal() {
    assert!(installed("/usr/bin/certbot"));
    let (mut lab, _table) = lab_that_knows_who();
    let name = format!("picket-{}.example", std::process::id());
    let _certificate = Certificate(name.clone());
    lineage(&name);
    lab.config.trees = vec!["/etc/letsencrypt".into()];
    lab.start();
    let own = ["work", "logs"].map(|name| lab.outside().join(name).to_str().unwrap().to_owned());
    let directories = ["--work-dir", &own[0], "--logs-dir", &own[1]];
    // Relative links take the place of absolute ones.
    run(&lab, "/usr/bin/certbot", &[&["update_symlinks"][..], &directories].concat());
    let about = |lab: &Lab| -> Vec<Value> {
        findings(lab).into_iter().filter(|finding| finding.to_string().contains(&name)).collect()
    };
    lab.wait("the links", |lab| !about(lab).is_empty());
    let links = about(&lab);
    expect_explained(&links, "certbot", "certbot");
    assert_eq!(links.len(), 1, "{links:#?}");
    assert_eq!(links[0]["evidence"]["also"].as_array().map(Vec::len), Some(3), "{:#}", links[0]);
    lab.forget();
    let at = |file: &str| lab.outside().join(file);
    issue(&name, at("key.pem").to_str().unwrap(), at("cert.pem").to_str().unwrap());
    fs::write(at("sitecustomize.py"), AUTHORITY).unwrap();
    run_with(
        &lab,
        &[("PYTHONPATH", &lab.outside()), ("ISSUED", &lab.outside())],
        "/usr/bin/certbot",
        &[
            &["renew", "--force-renewal", "--no-random-sleep-on-renew", "--cert-name", &name][..],
            &directories,
        ]
        .concat(),
    );
    lab.wait("the renewal", |lab| !about(lab).is_empty());
    let renewed = about(&lab);
    expect_explained(&renewed, "certbot", "certbot");
    assert_eq!(renewed.len(), 1, "{renewed:#?}");
    let told = renewed[0].to_string();
    for kind in ["cert", "privkey", "chain", "fullchain"] {
        for file in [format!("archive/{name}/{kind}2.pem"), format!("live/{name}/{kind}.pem")] {
            assert!(told.contains(&file), "{file}: {:#}", renewed[0]);
        }
    }
    assert!(told.contains(&format!("renewal/{name}.conf")), "{:#}", renewed[0]);
    lab.forget();
    run(
        &lab,
        "/usr/bin/certbot",
        &[&["delete", "--non-interactive", "--cert-name", &name][..], &directories].concat(),
    );
    lab.wait("the removal", |lab| !about(lab).is_empty());
    let removed = about(&lab);
    expect_explained(&removed, "certbot", "certbot");
    assert_eq!(removed.len(), 1, "{removed:#?}");
}

/// A host on which cloud-init and its interpreter are installed, as the agent sees it: programs, and dpkg's records of them.
fn host_with_cloud_init(lab: &Lab) -> PathBuf {
    let unpacked = Path::new(CLOUD_INIT);
    assert!(unpacked.exists(), "{CLOUD_INIT} is missing: tests/run unpacks it");
    let root = lab.directory.path().join("host");
    let python = fs::canonicalize("/usr/bin/python3").unwrap();
    let script = format!(
        "set -e; mkdir -p {0}/usr/bin {0}/var/lib; cp -a {CLOUD_INIT}/var/lib/dpkg {0}/var/lib/; cp -a {CLOUD_INIT}/usr/bin/. {1} {0}/usr/bin/\n\
         cat /var/lib/dpkg/status >> {0}/var/lib/dpkg/status; cp /var/lib/dpkg/info/python3*-minimal* {0}/var/lib/dpkg/info/",
        root.display(),
        python.display()
    );
    run(lab, "sh", &["-c", &script]);
    root
}

#[test]
fn cloud_init_explains_what_it_writes() {
    let (mut lab, _table) = lab_that_knows_who();
    lab.tuning.packages_root = host_with_cloud_init(&lab);
    let data = lab.outside().join("user-data.yaml");
    let text = format!(
        "#cloud-config\nwrite_files:\n  - path: {0}/made\n    content: one\n  - path: {0}/old\n    content: two\n",
        lab.tree().display()
    );
    fs::write(&data, text).unwrap();
    fs::write(lab.tree().join("old"), "one").unwrap();
    lab.start();
    // What it keeps of the machine stays in a namespace of its own.
    let script = format!(
        "set -e; mount -t tmpfs none /run; mount -t tmpfs none /var/log; mkdir /run/etc\n\
         cp -a /etc/. {CLOUD_INIT}/etc/. /run/etc/; mount --bind /run/etc /etc\n\
         for at in usr/bin usr/lib; do mount -t overlay -o lowerdir={CLOUD_INIT}/$at:/$at none /$at; done\n\
         echo 'system_info: {{paths: {{cloud_dir: /run/cloud}}}}' > /etc/cloud/cloud.cfg.d/99.cfg\n\
         cloud-init --force --file {} single --name write_files --frequency always",
        data.display()
    );
    run(&lab, "unshare", &["--mount", "sh", "-c", &script]);
    let told = settle(&lab, &["tree/made", "tree/old"]);
    expect_explained(&told, "cloud-init", "cloud-init");
}

/// Takes away what a test had flatpak install on this host.
struct Application(String);

impl Drop for Application {
    fn drop(&mut self) {
        let name = format!("org.example.{}", self.0);
        for words in
            [&["uninstall", "-y", "--noninteractive", &name][..], &["remote-delete", "--force", &self.0]]
        {
            let _gone = Command::new("flatpak").arg("--system").args(words).output();
        }
    }
}

#[test]
fn flatpak_is_one_finding_that_names_the_application() {
    assert!(installed("/usr/bin/flatpak"));
    let (mut lab, _table) = lab_that_knows_who();
    let remote = format!("Picket{}", std::process::id());
    let name = format!("org.example.{remote}");
    let build = lab.outside().join("build");
    fs::create_dir_all(build.join("files/share")).unwrap();
    fs::create_dir_all(build.join("export")).unwrap();
    let metadata = format!("[Application]\nname={name}\nruntime=org.example.Platform/x86_64/1\ncommand=x\n");
    fs::write(build.join("metadata"), metadata).unwrap();
    (0..30).for_each(|n| fs::write(build.join(format!("files/share/{n}")), format!("{remote} {n}")).unwrap());
    let repository = lab.outside().join("repository");
    let at = |path: &Path| path.to_str().unwrap().to_owned();
    run(&lab, "/usr/bin/flatpak", &["build-export", "--disable-sandbox", &at(&repository), &at(&build)]);
    let _application = Application(remote.clone());
    run(&lab, "/usr/bin/flatpak", &["remote-add", "--system", "--no-gpg-verify", &remote, &at(&repository)]);
    lab.config.trees = vec!["/var/lib/flatpak/app".into(), "/var/lib/flatpak/repo/objects".into()];
    lab.start();
    let install =
        ["install", "--system", "--noninteractive", "--no-deps", "--no-related", "-y", &remote, &name];
    run(&lab, "/usr/bin/flatpak", &install);
    let application = format!("/var/lib/flatpak/app/{name}");
    lab.wait("the application's files", |lab| {
        objects(lab).iter().filter(|(path, _)| path.starts_with(&application)).count() >= 30
    });
    lab.scan();
    lab.wait("the rest", |lab| lab.arrived());
    let told = findings(&lab);
    for finding in &told {
        assert_eq!(finding["explained_by"], "flatpak did it", "{finding:#}");
        assert_eq!(finding["severity"], "info", "{finding:#}");
    }
    assert!(told.len() <= 2, "{told:#?}");
    let run = &told[0]["evidence"]["run"];
    assert_eq!(run["packages"][0], name, "{run:#}");
    assert!(run["proof"].as_str().unwrap().contains("no digest that was compared"), "{run:#}");
}
