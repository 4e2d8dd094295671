//! Signing with keys of OpenSSH, by the real `ssh-keygen` and `ssh-agent`.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use picket_protocol::crypto::{SigningKey, to_base64};
use picket_protocol::dsse::Envelope;
use picket_protocol::ssh::SshKey;
use picket_protocol::sshsig::{self, MessageHash, Presence, SshSignature};
use picket_protocol::trust::TrustRoot;
use picket_protocol::{command, trust};

use super::lab::{err, out, soc, wait_for};
use super::text;

/// A directory with keys, a trust root and a command.
struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An ed25519 key of OpenSSH, with its comment.
    fn key(&self, name: &str, passphrase: &str) -> PathBuf {
        let path = self.path(name);
        let mut command = std::process::Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", passphrase, "-C", &format!("{name}@desk"), "-f"]);
        assert!(command.arg(&path).status().unwrap().success());
        path
    }

    /// A key on a token that is not there, of which only the test can sign.
    fn token(&self, name: &str) -> (SigningKey, SshKey) {
        let secret = SigningKey::from_seed([9; 32]);
        let key = SshKey::of_token(secret.public(), "ssh:").unwrap();
        std::fs::write(self.path(&format!("{name}.pub")), format!("{key} {name}@desk\n")).unwrap();
        std::fs::write(self.path(name), "-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
        (secret, key)
    }

    fn trust_root(&self, arguments: &[&str]) -> PathBuf {
        let path = self.path("root.json");
        self.run(&[&["trust", "new", "--tenant", "acme", "-o", text(&path)], arguments].concat(), 0);
        path
    }

    fn scan(&self) -> PathBuf {
        let path = self.path("scan.json");
        let host = "0192c2ad-5b0e-7cc3-98c4-dc0c0c07398f";
        let new = ["command", "new", "scan", "--host", host, "--tenant", "acme", "--paths", "/etc"];
        self.run(&[&new[..], &["--reason", "r", "--ticket", "t", "-o", text(&path)]].concat(), 0);
        path
    }

    fn run(&self, arguments: &[&str], code: i32) -> Output {
        self.run_with(arguments, code, &[])
    }

    fn run_with(&self, arguments: &[&str], code: i32, variables: &[(&str, &Path)]) -> Output {
        let mut command = soc(None, arguments);
        command.env_remove("SSH_AUTH_SOCK").env_remove("DISPLAY").stdin(Stdio::null());
        command.envs(variables.iter().copied());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {} {}", out(&output), err(&output));
        output
    }

    /// A program named `ssh-keygen` that does what `script` says.
    fn pretend(&self, script: &str) -> PathBuf {
        let directory = self.path("bin");
        std::fs::create_dir_all(&directory).unwrap();
        let program = directory.join("ssh-keygen");
        std::fs::write(&program, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        directory
    }
}

/// Of a file, and those who signed it by the trust root.
fn signers(file: &Path, payload_type: &str, root: &Path) -> Vec<String> {
    let read = |path: &Path| Envelope::parse(&std::fs::read(path).unwrap()).unwrap();
    let root = TrustRoot::peek(&read(root)).unwrap();
    let verified = read(file).verify(payload_type, &root.public_keys()).unwrap();
    let mut names: Vec<String> =
        verified.signers.iter().map(|id| root.keys.get(id).unwrap().name.clone()).collect();
    names.sort();
    names
}

#[test]
fn ssh_keys_sign_trust_roots_and_commands() {
    let desk = Desk::new();
    let (carol, dave) = (desk.key("carol", ""), desk.key("dave", ""));
    desk.token("erin");
    let [carol_pub, dave_pub, erin_pub] = ["carol.pub", "dave.pub", "erin.pub"].map(|name| desk.path(name));
    let root = desk.trust_root(&[
        "--ssh-key",
        text(&carol_pub),
        "--ssh-key",
        &format!("dave={}", text(&dave_pub)),
        "--ssh-key",
        text(&erin_pub),
        "--root-threshold",
        "2",
    ]);
    let shown = out(&desk.run(&["trust", "show", text(&root)], 0));
    assert!(
        shown.contains("carol@desk ssh-ed25519 AAAA") && shown.contains("dave ssh-ed25519 AAAA"),
        "{shown}"
    );
    assert!(
        shown.contains("erin@desk sk-ssh-ed25519@openssh.com AAAA") && shown.contains("application ssh:"),
        "{shown}"
    );
    for who in [&carol, &dave_pub.with_extension("")] {
        desk.run(&["trust", "sign", text(&root), "--ssh-key", text(who), "--yes"], 0);
    }
    let envelope = Envelope::parse(&std::fs::read(&root).unwrap()).unwrap();
    assert!(TrustRoot::open_first(&envelope).is_ok());

    let scan = desk.scan();
    let sign = ["sign", text(&scan), "--ssh-key", text(&carol), "--trust", text(&root)];
    let nobody = desk.run(&sign, 3);
    assert!(err(&nobody).contains("--yes") && out(&nobody).contains("1 host of tenant acme"));
    assert!(signers(&scan, command::PAYLOAD_TYPE, &root).is_empty());
    let plan = out(&desk.run(&[&sign[..], &["--yes"]].concat(), 0));
    assert!(plan.contains("1 signatures suffice") && plan.contains("1 signature now"), "{plan}");
    assert_eq!(signers(&scan, command::PAYLOAD_TYPE, &root), ["carol@desk"]);
    let again = out(&desk.run(&[&sign[..], &["--yes"]].concat(), 0));
    assert!(again.contains("signed this already"), "{again}");
    desk.run(&["sign", text(&scan), "--ssh-key", text(&dave), "--yes", "--json"], 0);
    assert_eq!(signers(&scan, command::PAYLOAD_TYPE, &root), ["carol@desk", "dave"]);
    desk.run(&["sign", text(&scan), "--ssh-key", text(&dave), "--key", text(&carol), "--yes"], 3);
}

struct SshAgent {
    process: Child,
    socket: PathBuf,
}

impl SshAgent {
    fn start(desk: &Desk) -> Self {
        let socket = desk.path("agent.sock");
        let mut command = std::process::Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
        let process = command.spawn().unwrap();
        let agent = Self { process, socket };
        // Its socket is there before it listens.
        wait_for("ssh-agent", || UnixStream::connect(&agent.socket).ok());
        agent
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn a_key_that_only_ssh_agent_holds_signs() {
    let desk = Desk::new();
    let carol = desk.key("carol", "");
    let public = desk.path("carol.pub");
    let root = desk.trust_root(&["--ssh-key", text(&public)]);
    let agent = SshAgent::start(&desk);
    let mut add = std::process::Command::new("ssh-add");
    add.arg("-q").arg(&carol).env("SSH_AUTH_SOCK", &agent.socket);
    assert!(add.status().unwrap().success());
    std::fs::remove_file(&carol).unwrap();
    let scan = desk.scan();
    let sign = ["sign", text(&scan), "--ssh-key", text(&public), "--yes"];
    let without = desk.run(&sign, 1);
    assert!(err(&without).contains("not signed: ssh-keygen refused"), "{}", err(&without));
    desk.run_with(&sign, 0, &[("SSH_AUTH_SOCK", &agent.socket)]);
    assert_eq!(signers(&scan, command::PAYLOAD_TYPE, &root), ["carol@desk"]);
}

#[test]
fn what_ssh_keygen_does_not_sign_is_not_added() {
    let desk = Desk::new();
    let (carol, dave) = (desk.key("carol", ""), desk.key("dave", ""));
    let locked = desk.key("locked", "secret");
    let scan = desk.scan();
    let before = std::fs::read(&scan).unwrap();
    let fails = |key: &Path, code: i32, path: Option<&Path>, expected: &str| {
        let variables: Vec<_> = path.map(|path| ("PATH", path)).into_iter().collect();
        let output = desk.run_with(&["sign", text(&scan), "--ssh-key", text(key), "--yes"], code, &variables);
        assert!(err(&output).contains(expected), "{expected}: {}", err(&output));
        assert_eq!(std::fs::read(&scan).unwrap(), before);
    };
    // Nobody is there to be asked for the passphrase.
    let no_terminal = desk.pretend("exec setsid -w ssh-keygen \"$@\"");
    fails(&locked, 1, Some(&no_terminal), "ssh-keygen refused");
    let empty = desk.path("empty");
    std::fs::create_dir(&empty).unwrap();
    fails(&carol, 2, Some(&empty), "ssh-keygen is missing");
    fails(&carol, 1, Some(&desk.pretend("exit 255")), "refused");
    fails(&carol, 2, Some(&desk.pretend("cat >/dev/null; echo hello")), "something else");
    let other = format!("exec ssh-keygen -q -Y sign -n picket-command -f '{}'", text(&dave));
    fails(&carol, 1, Some(&desk.pretend(&other)), "another key");
    let namespace = format!("exec ssh-keygen -q -Y sign -n git -f '{}'", text(&carol));
    fails(&carol, 1, Some(&desk.pretend(&namespace)), "for \"git\"");
    let altered = format!("{{ cat; echo; }} | ssh-keygen -q -Y sign -n picket-command -f '{}'", text(&carol));
    fails(&carol, 1, Some(&desk.pretend(&altered)), "not of this message");
    let rsa = desk.path("rsa");
    let mut command = std::process::Command::new("ssh-keygen");
    assert!(
        command.args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f"]).arg(&rsa).status().unwrap().success()
    );
    fails(&rsa, 3, None, "only ssh-ed25519 and sk-ssh-ed25519@openssh.com");
}

fn armour(bytes: &[u8]) -> String {
    let mut text = String::from("-----BEGIN SSH SIGNATURE-----\n");
    for line in to_base64(bytes).as_bytes().chunks(70) {
        writeln!(text, "{}", std::str::from_utf8(line).unwrap()).unwrap();
    }
    text + "-----END SSH SIGNATURE-----\n"
}

#[test]
fn a_token_that_nobody_touched_does_not_sign() {
    let desk = Desk::new();
    let (secret, key) = desk.token("erin");
    let root = desk.trust_root(&["--ssh-key", text(&desk.path("erin.pub"))]);
    let sign = |flags: u8, code: i32| {
        let message = Envelope::parse(&std::fs::read(&root).unwrap()).unwrap().to_sign().unwrap();
        let signed = sshsig::to_sign("picket-trust-root", MessageHash::Sha512, &message);
        let presence = Presence { flags, counter: 7 };
        let signature = SshSignature {
            key: key.clone(),
            namespace: "picket-trust-root".to_owned(),
            hash: MessageHash::Sha512,
            signature: secret.sign(&sshsig::token_signs("ssh:", presence, &signed)),
            presence: Some(presence),
        };
        std::fs::write(desk.path("signature"), armour(&signature.encode())).unwrap();
        let program = desk.pretend(&format!("cat >/dev/null; cat '{}'", text(&desk.path("signature"))));
        let erin = desk.path("erin");
        let arguments = ["trust", "sign", text(&root), "--ssh-key", text(&erin), "--yes"];
        err(&desk.run_with(&arguments, code, &[("PATH", &program)]))
    };
    assert!(sign(4, 1).contains("nobody touched the token"));
    assert!(sign(5, 0).contains("touch the token"));
    assert_eq!(signers(&root, trust::PAYLOAD_TYPE, &root), ["erin@desk"]);
}

#[test]
fn trust_roots_name_ssh_operators() {
    let desk = Desk::new();
    desk.key("carol", "");
    let public = desk.path("carol.pub");
    let line = std::fs::read_to_string(&public).unwrap();
    let out_file = desk.path("root.json");
    let new = |arguments: &[&str], code| {
        let base = ["trust", "new", "--tenant", "acme", "-o", text(&out_file)];
        err(&desk.run(&[&base[..], arguments].concat(), code))
    };
    new(&["--operator", &format!("carol={}", line.trim())], 0);
    assert!(new(&["--key", text(&public)], 3).contains("--ssh-key"));
    let twice = ["--ssh-key", text(&public), "--operator", &format!("dave={}", line.trim())];
    assert!(new(&twice, 3).contains("another operator"));
    let rsa = new(&["--operator", "carol=ssh-rsa AAAA al@laptop"], 3);
    assert!(rsa.contains("only ssh-ed25519 and sk-ssh-ed25519@openssh.com"), "{rsa}");
    let words: Vec<&str> = line.split(' ').take(2).collect();
    std::fs::write(&public, words.join(" ")).unwrap();
    assert!(new(&["--ssh-key", text(&public)], 3).contains("no comment"));
}
