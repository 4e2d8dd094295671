//! Web servers and the agent beside them, from a request to the finding that a user reads: attacks by a real client are told, and
//! what people and crawlers do is not.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::lab::{free_port, wait_for, write};
use crate::unpacked::Unpacked;
use crate::{field, lab};

/// The agent reads what its shipped rule files name, below `/var/log`, and nothing else.
const SETTINGS: &str = "state_dir = \"/run/agent/state\"\nrun_dir = \"/run/agent/run\"\n[files]\ntrees = [\"/srv/watched\"]\nlogs = []\n\
                        [logins]\nlogs = [\"/var/log/syslog\"]\njournal = false\naudit = false\nrecords = []\n\
                        [defences]\nenabled = false\n[uplink]\nuser = \"61996\"\n";

/// Ends with the test.
struct Agent<'a> {
    server: &'a Unpacked,
    child: Child,
}

impl<'a> Agent<'a> {
    fn start(server: &'a Unpacked, directory: &Path) -> Self {
        std::fs::create_dir(directory.join("watched")).expect("a directory");
        std::fs::copy(env!("CARGO_BIN_EXE_agent"), directory.join("agent")).expect("the agent");
        write(&directory.join("agent.toml"), SETTINGS);
        let made = server.command("mkdir").args(["-p", "/run/agent"]).status().expect("mkdir");
        assert!(made.success());
        let log = std::fs::File::create(directory.join("agent.log")).expect("a log");
        let mut command = server.command("/srv/agent");
        command.args(["--config", "/srv/agent.toml", "run"]).stdout(Stdio::null()).stderr(log);
        let agent = Self { server, child: command.spawn().expect("the agent") };
        wait_for("the agent to read the logs", || {
            let status = agent.json(&["status"]).into_iter().next()?;
            (status.pointer("/sensors/logins/state")? == "running").then_some(())
        });
        agent
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let mut command = self.server.command("/srv/agent");
        let output = command.args(["--config", "/srv/agent.toml"]).args(arguments).arg("--json").output();
        let text = output.expect("the agent").stdout;
        serde_json::Deserializer::from_slice(&text).into_iter().map_while(Result::ok).collect()
    }

    /// The rules of all findings about `address`.
    fn rules(&self, address: &str) -> Vec<String> {
        let all = self.json(&["findings", "--limit", "1000"]).into_iter();
        let bodies = all.filter_map(|mut record| Some(record.get_mut("body")?.take()));
        let about = bodies.filter(|body| body.to_string().contains(&format!("\"{address}\"")));
        about.map(|body| field(&body, "rule")).collect()
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A client that comes from `address`.
struct Client {
    address: &'static str,
    port: u16,
}

impl Client {
    fn get(&self, path: &str, more: &[&str]) {
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--path-as-is",
            "--max-time",
            "30",
            "--output",
            "/dev/null",
            "--interface",
            self.address,
        ]);
        command.args(more).arg(format!("http://127.0.0.1:{}{path}", self.port));
        let status = command.status().expect("curl: tests/run installs it");
        assert!(status.success(), "{path}: {status}");
    }
}

/// A person who searches and mistypes a password once, a page with some broken links, a crawler.
fn ordinary(client: &Client) {
    let browser = ["--user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"];
    client.get("/index.html?visit=[1-20]", &browser);
    client.get("/search?q=O%27Brien+%26+sons", &browser);
    client.get("/search?q=select+a+plan+from+the+list", &browser);
    client.get("/images/missing-[1-8].png", &browser);
    client.get("/private/index.html", &["--user", "alice:mistyped"]);
    client.get("/private/index.html", &["--user", "alice:secret"]);
    let crawler = ["--user-agent", "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"];
    client.get("/robots.txt", &crawler);
    client.get("/index.html?page=[1-30]", &crawler);
    client.get("/old-article-[1-6].html", &crawler);
}

fn attack(client: &Client) {
    client.get("/item.php?id=1%27%20UNION%20SELECT%20null,password%20FROM%20users--", &[]);
    client.get("/download?file=../../../../etc/passwd", &[]);
    client.get("/admin-[1-60].php", &[]);
    for number in 0..6 {
        client.get("/private/index.html", &["--user", &format!("admin:wrong-{number}")]);
    }
}

#[test]
fn attacks_on_web_servers_are_found_and_ordinary_visitors_are_not() {
    let other = free_port();
    let script = format!(
        "{}{}",
        include_str!("services/web.sh").replace("OTHER", &other.to_string()),
        include_str!("services/apache2-bin.sh")
    );
    let server = Unpacked::start("apache2-bin", &script);
    drop(server.connect());
    wait_for("nginx", || std::net::TcpStream::connect(("127.0.0.1", other)).ok());
    let agent = Agent::start(&server, server.directory());
    for (port, visitor, attacker) in
        [(server.port, "127.0.0.2", "127.0.0.3"), (other, "127.0.0.4", "127.0.0.5")]
    {
        ordinary(&Client { address: visitor, port });
        attack(&Client { address: attacker, port });
        for wanted in ["web.injection", "web.traversal", "web.scan", "login.brute-force"] {
            let begin = std::time::Instant::now();
            while !agent.rules(attacker).iter().any(|rule| rule == wanted) {
                assert!(
                    begin.elapsed() < lab::DEADLINE,
                    "no {wanted} of {attacker}, only {:?}",
                    agent.rules(attacker)
                );
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
        // His requests stand before those of the attacker in the same logs.
        let of_visitor = agent.rules(visitor);
        let alarms = of_visitor.iter().filter(|rule| rule.starts_with("web.") || rule.contains("brute"));
        assert_eq!(alarms.count(), 0, "{of_visitor:?}");
    }
}
