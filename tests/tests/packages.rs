//! Packages as an administrator handles them: the real apt-get with a repository of its own, on the real root under an
//! overlay, watched by the real agent as it is packaged.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use picket_tests::host::Host;
use picket_tests::wait_for;
use serde_json::Value;

/// Builds packages for the repository on the host: `NAME VERSION FILES`, with a program, data and a configuration file.
const BUILD: &str = r#"
build() {
  at=/var/picket-build/$1; rm -rf "$at"
  mkdir -p "$at/DEBIAN" "$at/usr/bin" "$at/usr/lib/systemd/system" "$at/usr/share/doc/$1" "$at/etc/picket-test"
  printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: t\n' "$1" "$2" > "$at/DEBIAN/control"
  printf '#!/bin/sh\necho %s %s\n' "$1" "$2" > "$at/usr/bin/$1"
  chmod 755 "$at/usr/bin/$1"
  printf '[Service]\nExecStart=/usr/bin/%s\n# %s\n' "$1" "$2" > "$at/usr/lib/systemd/system/$1.service"
  echo "$2" > "$at/usr/share/doc/$1/changelog"
  echo "version = $2" > "$at/etc/picket-test/$1.conf"
  echo "/etc/picket-test/$1.conf" > "$at/DEBIAN/conffiles"
  n=0; while [ $n -lt "$3" ]; do echo "the same" > "$at/usr/bin/$1-$n"; n=$((n + 1)); done
  if [ -n "$4" ]; then printf '#!/bin/sh\nset -e\n%s\n' "$4" > "$at/DEBIAN/postinst"; chmod 755 "$at/DEBIAN/postinst"; fi
  (cd "$at" && find usr -type f -exec md5sum {} + > DEBIAN/md5sums)
  mkdir -p /tmp/repository
  dpkg-deb --root-owner-group -Znone --build "$at" "/tmp/repository/$1_$2_all.deb" > /dev/null
}
index() {
  cd /tmp/repository
  for deb in *.deb; do
    dpkg-deb --field "$deb"
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d ' ' -f 1)"
  done > Packages
}
"#;

/// apt-get with the repository and no other, as it runs from a terminal; it needs no network.
const APT: &str = r#"
apt() {
  apt-get -q -y -o Dir::Etc::sourcelist=/tmp/sources.list -o Dir::Etc::sourceparts=- -o Acquire::Languages=none \
    -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0 "$@" > /tmp/apt.log 2>&1 || { cat /tmp/apt.log >&2; exit 1; }
}
echo 'deb [trusted=yes] file:/tmp/repository ./' > /tmp/sources.list
"#;

fn build(host: &Host, script: &str) {
    host.shell(&format!("{BUILD}\n{script}\nindex"));
}

fn apt(host: &Host, arguments: &str) {
    host.shell(&format!("{APT}\napt update\napt {arguments}"));
}

fn text<'a>(finding: &'a Value, name: &str) -> &'a str {
    finding[name].as_str().unwrap()
}

/// Rule, severity and title, sorted.
fn told(findings: &[Value]) -> Vec<(&str, &str, &str)> {
    let mut told: Vec<_> = findings
        .iter()
        .map(|finding| (text(finding, "rule"), text(finding, "severity"), text(finding, "title")))
        .collect();
    told.sort_unstable();
    told
}

#[test]
fn an_upgrade_of_fifty_packages_by_apt_is_fifty_findings_and_no_other() {
    let mut host = Host::new();
    let names: Vec<String> = (0..50).map(|n| format!("picket-test{n:02}")).collect();
    let all =
        |version: &str| names.iter().map(|name| format!("build {name} {version} 0 ''\n")).collect::<String>();
    build(&host, &all("1.0-1"));
    apt(&host, &format!("install {}", names.join(" ")));
    host.start_agent();
    let known = host.findings().len();
    build(&host, &all("1.1-1"));
    apt(&host, "upgrade");
    let news = host.news(known, 50);
    let titles: Vec<String> =
        names.iter().map(|name| format!("{name} 1.0-1 → 1.1-1, 3 files, all as packaged")).collect();
    let expected: Vec<_> =
        titles.iter().map(|title| ("package.transaction", "info", title.as_str())).collect();
    assert_eq!(told(&news), expected);
    for finding in &news {
        assert_eq!(finding["evidence"]["by_manager"], true, "{finding:#}");
        assert_eq!(finding["evidence"]["digest"], "md5, as dpkg recorded it", "{finding:#}");
    }
}

#[test]
fn a_package_installed_again_by_apt_is_one_finding_and_a_fake_dpkg_explains_nothing() {
    let mut host = Host::new();
    build(&host, "build picket-many 1.0 225 ''");
    host.start_agent();
    let known = host.findings().len();
    apt(&host, "install picket-many");
    let installed = host.news(known, 1);
    assert_eq!(
        told(&installed),
        [("package.transaction", "info", "picket-many 1.0 installed, 229 files, all as packaged")]
    );
    apt(&host, "install --reinstall picket-many");
    let again = host.news(known + 1, 1);
    let title = "picket-many 1.0 installed again, no watched file is another than before";
    assert_eq!(told(&again), [("package.transaction", "info", title)]);
    // It is called dpkg, holds dpkg's lock, and is none.
    let fake = "exec 9<>/var/lib/dpkg/lock; echo x >> /usr/bin/picket-many";
    host.shell(&format!("cp /bin/sh /tmp/dpkg; /tmp/dpkg -c '{fake}'"));
    let faked = host.news(known + 2, 2);
    let expected = [
        ("file.created", "low", "A program was put where anybody may write: /tmp/dpkg"),
        ("file.modified", "medium", "/usr/bin/picket-many was modified"),
    ];
    assert_eq!(told(&faked), expected, "{faked:#?}");
    assert!(faked.iter().all(|finding| finding["explained_by"].is_null()), "{faked:#?}");
}

#[test]
fn a_file_that_differs_from_what_apt_installed_is_high() {
    let mut host = Host::new();
    build(
        &host,
        "build picket-honest 1.0 0 ''\nbuild picket-sly 1.0 0 'echo backdoor >> /usr/bin/picket-honest'",
    );
    host.start_agent();
    let known = host.findings().len();
    apt(&host, "install picket-honest picket-sly");
    let news = host.news(known, 3);
    let told = told(&news);
    let rules: Vec<_> = told.iter().map(|(rule, severity, _)| (*rule, *severity)).collect();
    assert_eq!(
        rules,
        [("package.mismatch", "high"), ("package.transaction", "info"), ("package.transaction", "info")],
        "{told:#?}"
    );
    assert_eq!(told[0].2, "/usr/bin/picket-honest is not what is in package picket-honest 1.0");
    let mismatch = news.iter().find(|finding| finding["rule"] == "package.mismatch").unwrap();
    assert_eq!(mismatch["evidence"]["package"]["digest"], "md5, as dpkg recorded it", "{mismatch:#}");
}

/// Builds a wheel of `picket-wheel` by hand: modules, and a program by its entry point.
const WHEEL: &str = r##"
import base64, hashlib, sys, zipfile
version = sys.argv[1]
info = f"picket_wheel-{version}.dist-info"
files = {f"picket_wheel/module{n}.py": f"# {version}\nvalue = {n}\n" for n in range(6)}
files["picket_wheel/__init__.py"] = "def main(): pass\n"
# Takes pip a second to compile, in which it holds what it has put in place.
files["picket_wheel/large.py"] = "".join(f"a{n} = [{n}, {n} + 1]\n" for n in range(20000)) + f"# {version}\n"
files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: picket-wheel\nVersion: {version}\n"
files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
files[f"{info}/entry_points.txt"] = "[console_scripts]\npicket-wheel = picket_wheel:main\n"
digest = lambda text: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
record = "".join(f"{path},sha256={digest(text)},{len(text)}\n" for path, text in files.items())
files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
with zipfile.ZipFile(f"/tmp/picket_wheel-{version}-py3-none-any.whl", "w") as wheel:
    for path, text in files.items():
        wheel.writestr(path, text)
"##;

#[test]
fn what_pip_installs_is_one_finding_a_distribution_and_what_differs_is_high() {
    let mut host = Host::new();
    host.write("/tmp/wheel.py", WHEEL.as_bytes());
    host.shell("for version in 1.0 2.0 3.0; do python3 /tmp/wheel.py $version; done; python3 -m venv /usr/local/picket-app");
    host.start_agent();
    let mut known = host.findings().len();
    let mut does = |script: &str, count: usize| {
        host.shell(&format!("PATH=/usr/local/picket-app/bin:$PATH; pip() {{ python -m pip --isolated --quiet --disable-pip-version-check \"$@\"; }}; cd /usr/local/picket-app/lib/python3*/site-packages; {script}"));
        // pip sets the former version aside while it works; who looks in that moment is told of files that were there for a second.
        let lasting = |mut news: Vec<Value>| {
            let aside = ["/~icket_wheel", "/tmp/pip-uninstall-"];
            let is_aside = |title: &str| aside.iter().any(|place| title.contains(place));
            news.retain(|finding| !is_aside(finding["title"].as_str().unwrap_or_default()));
            news
        };
        wait_for("what lasts to be told", || {
            (lasting(host.findings().split_off(known)).len() >= count).then_some(())
        });
        let news = host.news(known, count);
        known += news.len();
        lasting(news)
    };
    let install =
        |version| format!("pip install --no-index --no-deps /tmp/picket_wheel-{version}-py3-none-any.whl");
    let installed = does(&install("1.0"), 1);
    let told_first = told(&installed);
    assert!(
        told_first[0].2.starts_with("picket_wheel 1.0 installed, ")
            && told_first[0].2.ends_with(" all as packaged"),
        "{installed:#?}"
    );
    assert_eq!((told_first.len(), told_first[0].1), (1, "info"), "{installed:#?}");
    assert_eq!(installed[0]["evidence"]["digest"], "sha256, as pip recorded it");
    let replaced = does(&install("2.0"), 1);
    assert!(replaced[0]["title"].as_str().unwrap().starts_with("picket_wheel 1.0 → 2.0, "), "{replaced:#?}");
    assert_eq!(replaced.len(), 1, "{replaced:#?}");
    // As soon as pip has recorded what it put in place.
    let tamper = "(until [ -f picket_wheel-3.0.dist-info/RECORD ]; do :; done; echo 'import evil' >> picket_wheel/module1.py) &";
    let differs = does(&format!("{tamper} {}; wait", install("3.0")), 2);
    let rules: Vec<_> = told(&differs).iter().map(|(rule, severity, _)| (*rule, *severity)).collect();
    assert_eq!(rules, [("package.mismatch", "high"), ("package.transaction", "info")], "{differs:#?}");
    // It is called pip, and is a shell.
    let faked = does("cp /bin/sh /tmp/pip; /tmp/pip -c 'echo x > picket_wheel/module9.py'", 2);
    let rules: Vec<_> = told(&faked).iter().map(|(rule, ..)| *rule).collect();
    assert_eq!(rules, ["file.created", "file.created"], "{faked:#?}");
    assert!(faked.iter().all(|finding| finding["explained_by"].is_null()), "{faked:#?}");
    // Nobody but the package itself vouches for what every start of Python runs.
    let startup = does("python -c \"open('picket.pth', 'w').write('import os')\"", 1);
    assert_eq!(told(&startup)[0].0, "persistence.interpreter", "{startup:#?}");
    let removed = does("rm picket_wheel/module9.py picket.pth", 2);
    assert_eq!(removed.len(), 2, "{removed:#?}");
    let removed = does("pip uninstall --yes picket-wheel", 1);
    assert!(removed[0]["title"].as_str().unwrap().starts_with("picket_wheel 3.0 removed, "), "{removed:#?}");
    assert_eq!(removed.len(), 1, "{removed:#?}");
}

/// A configuration management tool as its package lays it out: a script, by an interpreter of the distribution's.
const CHEF: &str = r#"
at=/var/picket-build/chef; mkdir -p $at/DEBIAN $at/usr/bin
printf 'Package: picket-chef\nVersion: 7.0-1\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: t\n' > $at/DEBIAN/control
printf '#!/usr/bin/perl\nsystem("/bin/sh", "-c", $ARGV[0]);\n' > $at/usr/bin/chef-client; chmod 755 $at/usr/bin/chef-client
(cd $at && md5sum usr/bin/chef-client > DEBIAN/md5sums)
dpkg-deb --root-owner-group -Znone --build $at /tmp/chef.deb > /dev/null
dpkg --install /tmp/chef.deb > /dev/null
"#;

#[test]
fn a_known_hand_explains_ordinary_files_and_nothing_weighty_and_a_pretended_one_nothing() {
    let mut host = Host::new();
    host.shell(CHEF);
    host.start_agent();
    let mut known = host.findings().len();
    let mut does = |script: &str| {
        host.shell(script);
        let mut news = host.news(known, 1);
        known += news.len();
        assert_eq!(news.len(), 1, "{script}: {news:#?}");
        news.remove(0)
    };
    let ordinary = does("chef-client 'echo x > /usr/local/bin/picket-a'");
    assert_eq!(
        (text(&ordinary, "rule"), text(&ordinary, "severity")),
        ("file.created", "low"),
        "{ordinary:#}"
    );
    assert_eq!(ordinary["explained_by"], "chef did it (package picket-chef 7.0-1)", "{ordinary:#}");
    assert_eq!(ordinary["evidence"]["hand"]["program"], "/usr/bin/chef-client", "{ordinary:#}");
    let weighty = does("chef-client 'install -m 4755 /bin/true /usr/local/bin/picket-b'");
    assert_eq!(
        (text(&weighty, "rule"), text(&weighty, "severity")),
        ("privilege.setuid", "high"),
        "{weighty:#}"
    );
    assert_eq!(
        (&weighty["explained_by"], &weighty["evidence"]["hand"]["tool"]),
        (&Value::Null, &"chef".into())
    );
    let pretended = [
        "mkdir /var/picket-other; cp /usr/bin/chef-client /var/picket-other; /var/picket-other/chef-client 'echo x > /usr/local/bin/picket-c'",
        "perl -e 'open(F, q(>/usr/local/bin/picket-d)); print F 1; close F' /usr/bin/chef-client",
        "bash -c 'exec -a /usr/bin/chef-client /bin/sh -c \"echo x > /usr/local/bin/picket-e\"'",
    ];
    for script in pretended {
        let finding = does(script);
        assert_eq!(
            (text(&finding, "rule"), text(&finding, "severity")),
            ("file.created", "medium"),
            "{finding:#}"
        );
        assert_eq!(finding["explained_by"], Value::Null, "{finding:#}");
    }
    // The very script, but not as its package holds it any more.
    does("echo '# backdoor' >> /usr/bin/chef-client");
    let tampered = does("chef-client 'echo x > /usr/local/bin/picket-f'");
    assert_eq!(
        (text(&tampered, "severity"), &tampered["explained_by"]),
        ("medium", &Value::Null),
        "{tampered:#}"
    );
}
