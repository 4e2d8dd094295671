//! People who come over ssh and become others by su and sudo: their sessions as a user sees them, and what an administrator
//! changes of accounts with the real tools, said in words with the program that did it and the session from which it came.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests fail loudly")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use picket_tests::PATIENCE;
use picket_tests::audit::Audit;
use picket_tests::host::Host;
use serde_json::Value;

/// A syslog and an sshd on a loopback of its own. Then one visit a line: how, who, and what is done.
const SERVER: &str = r#"
set -e
ip link set lo up
mount -t tmpfs -o mode=755 none /mnt
for node in null zero full random urandom tty; do touch /mnt/$node; mount --bind /dev/$node /mnt/$node; done
mkdir /mnt/pts /mnt/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /mnt/pts
ln -s pts/ptmx /mnt/ptmx; ln -s /proc/self/fd /mnt/fd
mount --move /mnt /dev
cat >/run/rsyslog.conf <<'CONF'
module(load="imuxsock")
auth,authpriv.* action(type="omfile" file="/var/log/auth.log" template="RSYSLOG_FileFormat")
CONF
rsyslogd -n -f /run/rsyslog.conf -i /run/rsyslogd.pid &
mkdir -p /run/sshd
printf 'Port 22\nListenAddress 127.0.0.1\nHostKey /run/host_key\nPidFile /run/sshd.pid\nUsePAM yes\n' >/run/sshd_config
for i in $(seq 1000); do [ -S /dev/log ] && break; sleep 0.01; done
/usr/sbin/sshd -D -f /run/sshd_config &
for i in $(seq 1000); do (: </dev/tcp/127.0.0.1/22) 2>/dev/null && break; sleep 0.01; done
echo ready
printf '#!/bin/sh\necho Xk3-vv9-p\n' >/run/askpass
chmod 755 /run/askpass
come() {
  ssh -i /run/user_key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "$@" </dev/null >/run/out 2>&1
}
while read -r how user line; do
  result=0
  case $how in
    key) come -o BatchMode=yes "$user@127.0.0.1" "$line" || result=$? ;;
    tty) come -o BatchMode=yes -tt "$user@127.0.0.1" "$line" || result=$? ;;
    password)
      SSH_ASKPASS=/run/askpass SSH_ASKPASS_REQUIRE=force come -o PreferredAuthentications=password "$user@127.0.0.1" "$line" || result=$?
      ;;
    stay) come -o BatchMode=yes "$user@127.0.0.1" "$line" & ;;
    container)
      mkdir "$line"
      sh -c 'echo $$ >"$1/cgroup.procs"; exec /usr/sbin/sshd -D -f /run/sshd_config -p 23 -o ListenAddress=127.0.0.1:23 -o PidFile=none' sh "$line" &
      inner=$!
      for i in $(seq 1000); do (: </dev/tcp/127.0.0.1/23) 2>/dev/null && break; sleep 0.01; done
      come -p 23 -o BatchMode=yes "$user@127.0.0.1" sleep 1 || result=$?
      kill "$inner"
      wait "$inner" || :
      for i in $(seq 1000); do rmdir "$line" 2>/dev/null && break; sleep 0.01; done
      ;;
  esac
  if [ "$result" -eq 0 ]; then echo done; else echo "failed: $(tr '\n' ' ' </run/out)"; fi
done
kill $(jobs -p)
"#;

const PREPARE: &str = "
touch /var/log/wtmp /var/log/btmp /run/utmp
useradd --create-home --shell /bin/bash alice
useradd --create-home --shell /bin/bash bob
useradd --create-home --shell /bin/bash carl
groupadd crew
groupadd ops
printf 'alice:%s\\nbob:%s\\ncarl:Xk3-vv9-p\\n' $(head -c 12 /dev/urandom | base64) $(head -c 12 /dev/urandom | base64) | chpasswd
ssh-keygen -q -t ed25519 -N '' -f /run/host_key
ssh-keygen -q -t ed25519 -N '' -f /run/user_key
ssh-keygen -q -t ed25519 -N '' -C eve@away -f /run/eve
for user in alice carl; do
  install -d -m 700 -o $user -g $user /home/$user/.ssh
  install -m 600 -o $user -g $user /run/user_key.pub /home/$user/.ssh/authorized_keys
done
install -d -m 700 -o bob -g bob /home/bob/.ssh
rm -f /etc/ssh/ssh_host_ed25519_key /etc/ssh/ssh_host_ed25519_key.pub
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
printf 'alice ALL=(ALL) NOPASSWD: ALL\\n' >/etc/sudoers.d/alice
chmod 440 /etc/sudoers.d/alice
cat >/run/editor <<'EDITOR'
#!/bin/sh
for file; do :; done
echo '%ops ALL=(ALL) ALL' >>$file
EDITOR
chmod 755 /run/editor
";

struct Admin {
    host: Host,
    server: Child,
    input: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Admin {
    fn new() -> Self {
        let mut host = Host::new();
        host.shell(PREPARE);
        let mut command = host.command("unshare");
        command.args(["--net", "/bin/bash", "-c", SERVER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let mut answers = BufReader::new(server.stdout.take().unwrap());
        let input = server.stdin.take();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        host.start_agent();
        Self { host, server, input, answers }
    }

    /// Somebody comes, by `key`, on a `tty` …; what came of his command.
    fn visit(&mut self, how: &str, user: &str, command: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "{how} {user} {command}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Alice logs in and runs `command`, which must succeed.
    fn does(&mut self, command: &str) {
        assert_eq!(self.visit("key", "alice", command), "done", "{command}");
    }

    /// The newest session that fits, as `agent sessions --json` tells.
    fn session(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sessions = self.host.json(&["sessions"]);
            if let Some(session) = sessions.iter().rev().find(|session| fits(session)) {
                return session.clone();
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}: {sessions:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The finding of `rule` with `words` in its title that is not among the first `known`.
    fn told(&self, known: usize, rule: &str, words: &str, after: &str) -> Result<Value, String> {
        let fits = |finding: &Value| {
            finding["rule"] == rule && finding["title"].as_str().is_some_and(|title| title.contains(words))
        };
        let deadline = Instant::now() + PATIENCE / 2;
        loop {
            let findings = self.host.findings();
            if let Some(told) = findings.iter().skip(known).find(|finding| fits(finding)) {
                return Ok(told.clone());
            }
            let titles: Vec<_> =
                findings.iter().skip(known).map(|told| (&told["rule"], &told["title"])).collect();
            if Instant::now() >= deadline {
                return Err(format!("no {rule} with {words:?} after {after}: {titles:#?}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ended = self.server.wait().is_ok();
    }
}

/// Command, rule, words of the title, program.
const ACTS: [(&str, &str, &str, &str); 21] = [
    (
        "printf 'Xk3-vv9-p\\nXk3-vv9-p\\n' | sudo -n passwd bob",
        "account.changed",
        "The password of bob was changed",
        "/usr/bin/passwd",
    ),
    (
        "sudo -n chage --maxdays 90 bob",
        "account.changed",
        "When the password of bob expires was changed",
        "/usr/bin/chage",
    ),
    (
        "sudo -n chage --expiredate 2031-01-31 bob",
        "account.changed",
        "Account bob expires on 2031-01-31 now",
        "/usr/bin/chage",
    ),
    ("sudo -n usermod -L bob", "account.locked", "The password of bob was locked", "/usr/sbin/usermod"),
    ("sudo -n usermod -U bob", "account.locked", "The password of bob was unlocked", "/usr/sbin/usermod"),
    (
        "sudo -n gpasswd -a bob sudo",
        "account.changed",
        "bob was added to group sudo, whose members are as good as root",
        "/usr/bin/gpasswd",
    ),
    ("sudo -n gpasswd -d bob sudo", "account.changed", "bob was taken out of group sudo", "/usr/bin/gpasswd"),
    ("sudo -n chsh -s /bin/sh bob", "account.changed", "The shell of bob is /bin/sh now", "/usr/bin/chsh"),
    (
        "sudo -n chsh -s /usr/sbin/nologin bob",
        "account.locked",
        "Account bob may no longer log in",
        "/usr/bin/chsh",
    ),
    ("sudo -n chfn -f Robert bob", "account.changed", "The description of bob was changed", "/usr/bin/chfn"),
    (
        "echo '%crew ALL=(ALL) ALL' | sudo -n tee /etc/sudoers.d/crew",
        "privilege.sudoers",
        "Every member of group crew may run anything as root",
        "/usr/bin/tee",
    ),
    // visudo has an editor write a copy, checks it, and puts it in place.
    (
        "sudo -n EDITOR=/run/editor visudo -f /etc/sudoers.d/ops",
        "privilege.sudoers",
        "Every member of group ops may run anything as root",
        "/usr/sbin/visudo",
    ),
    (
        "sudo -n useradd --uid 4711 carol",
        "account.created",
        "Account carol was created with uid 4711",
        "/usr/sbin/useradd",
    ),
    (
        "sudo -n usermod -l karl carol",
        "account.changed",
        "Account carol was renamed: it is karl now",
        "/usr/sbin/usermod",
    ),
    ("sudo -n usermod -o -u 0 karl", "account.uid0", "Account karl is root now", "/usr/sbin/usermod"),
    (
        "sudo -n useradd -o -u 0 -M toor",
        "account.uid0",
        "Account toor was created with uid 0",
        "/usr/sbin/useradd",
    ),
    (
        "sudo -n cp /run/eve.pub /home/bob/.ssh/authorized_keys",
        "account.key-added",
        "(eve@away) was added to bob's authorized_keys",
        "/usr/bin/cp",
    ),
    (
        "sudo -n truncate -s 0 /home/bob/.ssh/authorized_keys",
        "account.key-removed",
        "(eve@away) was removed from bob's authorized_keys",
        "/usr/bin/truncate",
    ),
    ("sudo -n cp /run/eve /etc/ssh/ssh_host_ed25519_key", "trust.ssh-host-key", "host key", "/usr/bin/cp"),
    (
        "sudo -n sed -i '1i auth sufficient pam_permit.so' /etc/pam.d/common-auth",
        "persistence.pam",
        "pam_permit.so",
        "/usr/bin/sed",
    ),
    ("sudo -n deluser bob", "account.removed", "Account bob was removed", "userdel"),
];

#[test]
fn every_change_of_accounts_names_the_program_and_the_session_that_made_it() {
    let _alone = Audit::keep_as_it_is().unwrap();
    let mut admin = Admin::new();
    let mut missed = Vec::new();
    for (command, rule, words, program) in ACTS {
        let known = admin.host.findings().len();
        // As people do: what the log says of a login may be a moment late.
        admin.does(&format!("sleep 2; {command}"));
        let told = match admin.told(known, rule, words, command) {
            Ok(told) => told,
            Err(why) => {
                missed.push(why);
                continue;
            }
        };
        let title = told["title"].as_str().unwrap();
        let by = told.pointer("/evidence/session/by").and_then(Value::as_str).unwrap_or_default();
        let session = ["root by sudo of alice, ssh from 127.0.0.1, key SHA256:", " after log"];
        let executable =
            told.pointer("/evidence/actor/executable/text").and_then(Value::as_str).unwrap_or_default();
        let pid = told.pointer("/evidence/actor/pid").map(ToString::to_string).unwrap_or_default();
        let said = title.contains(&format!(
            " (by {executable}, process {pid}, root by sudo of alice, ssh from 127.0.0.1"
        ));
        if !said || !session.iter().all(|words| by.contains(words)) || !executable.ends_with(program) {
            missed.push(format!("{command}: {title} [{executable}] [{by}]"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a change of privilege of the session is so.
fn became(session: &Value, service: &str, target: &str, command: &str, allowed: bool) -> bool {
    let all = session.get("privileges").and_then(Value::as_array);
    all.into_iter().flatten().any(|told| {
        text(told, "/service") == service
            && text(told, "/target/text") == target
            && text(told, "/command/text").contains(command)
            && told["allowed"] == allowed
    })
}

#[test]
fn sessions_show_how_somebody_came_what_he_became_and_how_he_went() {
    // Debian's sudo names no process in a text log: what was asked of it is known by audit (or the journal) only.
    let audit = Audit::switch_on();
    if let Err(error) = &audit {
        println!("NOT TESTED with the kernel's audit, which cannot be used on this machine: {error}");
        return;
    }
    let mut admin = Admin::new();
    // By key, on a terminal, with rights that he does not get.
    admin.visit(
        "tty",
        "carl",
        "printf 'a\\nb\\nc\\n' | sudo -S /usr/bin/id; su bob -c true </dev/null; sleep 1",
    );
    let carl = admin.session("carl's session with its end", |session| {
        text(session, "/user/text") == "carl"
            && session["end"] == "logout"
            && became(session, "su", "bob", "", false)
            && became(session, "sudo", "root", "/usr/bin/id", false)
    });
    assert_eq!((text(&carl, "/service"), text(&carl, "/address")), ("sshd", "127.0.0.1"), "{carl}");
    assert!(
        text(&carl, "/key/text").contains("SHA256:") && text(&carl, "/method/text") == "publickey",
        "{carl}"
    );
    assert!(
        carl["port"].is_number() && carl["audit_session"].is_number() && carl["login_uid"].is_number(),
        "{carl}"
    );
    assert!(text(&carl, "/tty/text").starts_with("pts/"), "{carl}");

    // Others, one after the other.
    admin.does("sudo -n su bob -c /usr/bin/id; sleep 1");
    let alice = admin.session("alice's session", |session| {
        text(session, "/user/text") == "alice"
            && became(session, "su", "bob", "", true)
            && became(session, "sudo", "root", "su bob -c /usr/bin/id", true)
    });
    assert_eq!(text(&alice, "/service"), "sshd", "{alice}");

    assert_eq!(admin.visit("password", "carl", "sleep 1"), "done");
    let typed =
        admin.session("the session by password", |session| text(session, "/method/text") == "password");
    assert!(text(&typed, "/user/text") == "carl" && typed.get("key").is_none(), "{typed}");

    // Who is killed does not log out.
    admin.visit("stay", "alice", "sleep 600");
    let living = admin.session("the session that lasts", |session| {
        text(session, "/user/text") == "alice"
            && session.get("ended").is_none()
            && session["leader"].is_number()
    });
    admin.host.shell(&format!("kill -9 {}", living["leader"]));
    admin.session("its loss", |session| session["id"] == living["id"] && session["end"] == "lost");

    let table = admin.host.agent_run(&["sessions"]);
    for words in [
        "carl sshd from 127.0.0.1 port ",
        " by ED25519 SHA256:",
        " on pts/",
        "was refused the rights of root by sudo: /usr/bin/id",
        "became bob by su",
        " by password",
        "gone ",
    ] {
        assert!(table.contains(words), "{words:?} is not in\n{table}");
    }

    let groups = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let group = groups.into_iter().find(|group| std::path::Path::new(group).join("cgroup.procs").exists());
    let Some(group) = group else {
        println!("NOT TESTED in a container: no control groups of version 2 here");
        return;
    };
    let name = format!("{:0>64x}", std::process::id());
    assert_eq!(admin.visit("container", "alice", &format!("{group}/docker-{name}.scope")), "done");
    admin.session("the session in a container", |session| {
        text(session, "/container").starts_with("docker:000")
    });
}
