//! Honest traffic of real programs is no flood, however fast it goes; and after all of it a real flood is told.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::path::PathBuf;

use picket_tests::agent::Agent;
use picket_tests::cable::{Cable, counter, findings, start_agent};
use picket_tests::process::{Running, stdout_of};
use picket_tests::wait_for;
use serde_json::Value;

const NEAR: &str = Cable::ADDRESSES[0];
const FAR: &str = Cable::ADDRESSES[1];

/// A host with an agent and services at the near end, and whoever uses them at the far end.
struct Host {
    agent: Agent,
    servers: Vec<Running>,
    cable: Cable,
    directory: tempfile::TempDir,
}

/// Which end.
#[derive(Clone, Copy)]
enum End {
    Near,
    Far,
}

impl Host {
    fn new(network: &str) -> Self {
        let (cable, directory) = (Cable::new(), tempfile::tempdir().unwrap());
        let agent = start_agent(directory.path(), &cable, network, &[]);
        Self { agent, servers: Vec::new(), cable, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn namespace(&self, end: End) -> String {
        match end {
            End::Near => self.cable.near(),
            End::Far => self.cable.far(),
        }
    }

    /// Starts a server and waits until it has a socket at `place`.
    fn serve(&mut self, end: End, command: &str, place: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let mut command = Cable::command(&self.namespace(end), &words);
        let log = self.path("servers.log");
        self.servers.push(Running::start(words.first().unwrap(), &mut command, &log));
        wait_for(&format!("{words:?}, which says {:?}", std::fs::read_to_string(&log)), || {
            self.run(end, "ss -Hlntu").split_whitespace().any(|word| word == place).then_some(())
        });
    }

    /// Runs a program to its end, which must be a good one.
    fn run(&self, end: End, command: &str) -> String {
        stdout_of(&mut Cable::command(&self.namespace(end), &command.split_whitespace().collect::<Vec<_>>()))
    }

    /// Nothing is told of what a program does, by which at least `packets` go over the cable.
    #[track_caller]
    fn check_quiet(&self, end: End, command: &str, packets: u64) {
        let before = counter(&self.agent, "packets");
        self.run(end, command);
        wait_for(&format!("{packets} packets of {command}"), || {
            (counter(&self.agent, "packets") >= before + packets).then_some(())
        });
        let told = findings(&self.agent);
        assert_eq!(titles(&told), [""; 0], "{command}: {told:#?}");
    }

    /// nginx at this address; what it serves is in the directory `www`.
    fn serve_web(&mut self, end: End, address: &str) {
        std::fs::create_dir_all(self.path("www")).unwrap();
        std::fs::write(self.path("www/index.html"), "hello\n".repeat(100)).unwrap();
        let at = self.directory.path().display();
        let settings = format!(
            "daemon off;\nmaster_process off;\nuser root;\npid {at}/{address}.pid;\nerror_log {at}/nginx.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n access_log off;\n client_body_temp_path {at}/body;\n proxy_temp_path {at}/proxy;\n\
             fastcgi_temp_path {at}/fastcgi;\n uwsgi_temp_path {at}/uwsgi;\n scgi_temp_path {at}/scgi;\n\
             server {{ listen {address}:80 backlog=4096; root {at}/www; }}\n}}\n"
        );
        let file = self.path(&format!("{address}.conf"));
        std::fs::write(&file, settings).unwrap();
        self.serve(end, &format!("nginx -e {at}/nginx.log -c {}", file.display()), &format!("{address}:80"));
    }

    fn measure_the_line(&mut self) {
        self.serve(End::Near, &format!("iperf3 -s -B {NEAR}"), &format!("{NEAR}:5201"));
        // So many bytes of TCP are more than 65,000 packets however large they are and however long it takes.
        for how in ["-n 4G", "-n 4G -R", "-t 3 -u -b 1G", "-t 3 -u -b 1G -R", "-t 3 -u -b 0"] {
            self.check_quiet(End::Far, &format!("iperf3 -c {NEAR} {how}"), 10_000);
        }
        for end in [End::Far, End::Near] {
            let other = if matches!(end, End::Far) { NEAR } else { FAR };
            // 40,000 of them; an agent that still samples, after what went before, has an estimate.
            self.check_quiet(end, &format!("ping -f -q -c 20000 {other}"), 30_000);
        }
    }

    fn load_the_web_server(&mut self) {
        self.serve_web(End::Near, NEAR);
        self.check_quiet(End::Far, &format!("ab -q -t 3 -n 1000000 -c 50 http://{NEAR}/"), 10_000);
        self.check_quiet(End::Far, &format!("ab -q -k -t 3 -n 1000000 -c 50 http://{NEAR}/"), 10_000);
        self.check_quiet(End::Far, &format!("wrk -t 1 -c 50 -d 3s http://{NEAR}/"), 10_000);
    }

    /// 200 MB in large files and small ones go to a server of backups.
    fn back_up(&mut self) {
        for directory in ["data", "backup"] {
            std::fs::create_dir(self.path(directory)).unwrap();
        }
        for number in 0..400u64 {
            let file = std::fs::File::create(self.path(&format!("data/{number}"))).unwrap();
            file.set_len(if number < 4 { 50_000_000 } else { 100 * number }).unwrap();
        }
        let at = self.directory.path().display().to_string();
        let settings = format!(
            "use chroot = no\npid file = {at}/rsync.pid\n[backup]\npath = {at}/backup\nread only = no\nuid = root\ngid = root\n"
        );
        std::fs::write(self.path("rsyncd.conf"), settings).unwrap();
        let daemon = format!("rsync --daemon --no-detach --address={FAR} --config={at}/rsyncd.conf");
        self.serve(End::Far, &daemon, &format!("{FAR}:873"));
        self.check_quiet(End::Near, &format!("rsync -a {at}/data rsync://{FAR}/backup"), 1_000);
    }

    /// A resolver that asks another one for each name.
    fn resolve(&mut self) {
        let usual = "dnsmasq --conf-file=/dev/null --keep-in-foreground --user=root --no-resolv --no-hosts --bind-interfaces \
                     --cache-size=0 --pid-file=";
        let server = format!("{usual} --listen-address={FAR} --address=/#/192.0.2.9");
        self.serve(End::Far, &server, &format!("{FAR}:53"));
        let server = format!("{usual} --listen-address={NEAR} --server={FAR} --dns-forward-max=2000");
        self.serve(End::Near, &server, &format!("{NEAR}:53"));
        let names: String = (0..20_000).map(|number| format!("host{number}.example A\n")).collect();
        std::fs::write(self.path("names"), names).unwrap();
        let load = format!("dnsperf -s {NEAR} -d {} -l 3 -c 20 -q 200", self.path("names").display());
        self.check_quiet(End::Far, &load, 10_000);
    }

    /// `apt-get upgrade` of forty packages, as far as it goes over the network.
    fn upgrade(&mut self) {
        self.serve_web(End::Far, FAR);
        let (mut index, mut status) = (String::new(), String::new());
        for number in 0..40 {
            let entry = |version| {
                format!(
                    "Package: picket-test{number}\nVersion: {version}\nArchitecture: all\nMaintainer: t <t@example.org>\n\
                     Description: t\n"
                )
            };
            let file = self.path(&format!("www/{number}.deb"));
            std::fs::write(&file, vec![number; 2_000_000]).unwrap();
            let sum = stdout_of(std::process::Command::new("sha256sum").arg(&file));
            let sum = sum.split_whitespace().next().unwrap();
            index += &format!("{}Filename: ./{number}.deb\nSize: 2000000\nSHA256: {sum}\n\n", entry("2.0"));
            status += &format!("{}Status: install ok installed\n\n", entry("1.0"));
        }
        std::fs::write(self.path("www/Packages"), index).unwrap();
        std::fs::write(self.path("status"), status).unwrap();
        std::fs::write(self.path("sources.list"), format!("deb [trusted=yes] http://{FAR}/ ./\n")).unwrap();
        for directory in ["lists/partial", "archives/partial"] {
            std::fs::create_dir_all(self.path(directory)).unwrap();
        }
        let at = self.directory.path().display();
        let apt = format!(
            "apt-get -q -y -o Dir::Etc::sourcelist={at}/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::status={at}/status \
             -o Dir::State::lists={at}/lists -o Dir::Cache={at} -o Acquire::Languages=none -o APT::Sandbox::User=root \
             -o Debug::NoLocking=1"
        );
        self.run(End::Near, &format!("{apt} update"));
        self.check_quiet(End::Near, &format!("{apt} --download-only upgrade"), 1_000);
        assert_eq!(std::fs::read_dir(self.path("archives")).unwrap().count(), 41, "all of them");
    }

    /// The one thing that is told is a flood, from its begin to its end.
    fn flood(&mut self) {
        let command = format!("hping3 --flood --rand-source -S -p 80 {NEAR}");
        let words: Vec<&str> = command.split_whitespace().collect();
        let log = self.path("hping3.log");
        let hping = Running::start("hping3", &mut Cable::command(&self.cable.far(), &words), &log);
        wait_for("the flood to be told", || (!findings(&self.agent).is_empty()).then_some(()));
        hping.kill();
        let told = wait_for("the flood's end to be told", || {
            let told = findings(&self.agent);
            (told.last()?.pointer("/body/evidence/state")? == "ended").then_some(told)
        });
        let of = |name: &str| {
            let all = told.iter().filter_map(|record| record.pointer(name)?.as_str()).map(str::to_owned);
            all.collect::<std::collections::BTreeSet<_>>()
        };
        let only = |text: &str| std::iter::once(text.to_owned()).collect();
        assert_eq!(
            (of("/body/rule"), of("/body/id").len()),
            (only("net.flood.syn"), 1),
            "{:#?}",
            titles(&told)
        );
    }
}

fn titles(records: &[Value]) -> Vec<&str> {
    records.iter().filter_map(|record| record.pointer("/body/title")?.as_str()).collect()
}

fn check(network: &str) {
    let mut host = Host::new(network);
    host.measure_the_line();
    host.load_the_web_server();
    host.back_up();
    host.resolve();
    host.upgrade();
    host.flood();
}

#[test]
fn honest_traffic_is_no_flood_where_the_kernel_counts() {
    check("");
}

#[test]
fn honest_traffic_is_no_flood_where_the_agent_counts() {
    check("rung = \"ring\"");
}
