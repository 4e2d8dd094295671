//! Operators who sign with keys of OpenSSH: what the real `ssh-keygen` and `ssh-agent` sign, and what a FIDO2 token would,
//! made by hand.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use picket_agent::respond::verify::Refusal;
use picket_protocol::crypto::{from_base64, to_base64};
use picket_protocol::signer::SignerKey;
use picket_protocol::ssh::SshKey;
use picket_protocol::sshsig::{self, MessageHash, Presence, SshSignature};

use super::*;

/// An ed25519 key that `ssh-keygen` made.
struct KeyFile {
    path: PathBuf,
    key: SshKey,
}

fn key_file(directory: &Path, name: &str) -> KeyFile {
    let path = directory.join(name);
    let mut command = std::process::Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&path);
    assert!(command.status().expect("ssh-keygen").success());
    let line = std::fs::read_to_string(path.with_extension("pub")).expect("public half");
    let (key, comment) = SshKey::parse_line(&line).expect("an SSH key");
    assert_eq!(comment, name);
    KeyFile { path, key }
}

/// What `ssh-keygen -Y sign` prints, without its armour.
fn ssh_keygen(path: &Path, namespace: &str, more: &[&str], agent: Option<&Path>, message: &[u8]) -> Vec<u8> {
    let mut command = std::process::Command::new("ssh-keygen");
    command
        .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
        .arg(path)
        .args(more)
        .env_remove("SSH_AUTH_SOCK");
    command.envs(agent.map(|socket| ("SSH_AUTH_SOCK", socket)));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh-keygen");
    child.stdin.take().expect("piped").write_all(message).expect("written");
    let output = child.wait_with_output().expect("ssh-keygen");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    let inner: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    from_base64(&inner).expect("base64")
}

struct SshAgent {
    process: Child,
    socket: PathBuf,
}

impl SshAgent {
    fn start(directory: &Path) -> Self {
        let socket = directory.join("agent.sock");
        let mut command = std::process::Command::new("ssh-agent");
        // It prints its variables once it listens.
        let mut process =
            command.arg("-D").arg("-a").arg(&socket).stdout(Stdio::piped()).spawn().expect("ssh-agent");
        let mut line = String::new();
        let output = process.stdout.as_mut().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("a line");
        Self { process, socket }
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A trust root whose responders have exactly these keys, two of whom must sign.
fn root_of(keys: &[SignerKey]) -> TrustRoot {
    let mut root = trust_root(1);
    root.keys = keys
        .iter()
        .enumerate()
        .map(|(n, key)| (key.id(), OperatorKey { name: format!("operator-{n}"), public: key.clone() }))
        .collect();
    let ids: BTreeSet<KeyId> = root.keys.keys().cloned().collect();
    root.root = RootRole { keys: ids.clone(), threshold: 2 };
    root.roles.remove("trainers");
    root.roles.get_mut("responders").expect("a role").keys = ids;
    root
}

fn judged(root: &TrustRoot, signatures: &[(KeyId, Vec<u8>)]) -> Result<Vec<String>, Box<Refusal>> {
    let mut envelope = Envelope::new(command::PAYLOAD_TYPE, &serde_json::to_vec(&advise(1)).expect("JSON"));
    for (id, signature) in signatures {
        envelope.add(id.clone(), signature).expect("room");
    }
    let (acme, allowed) = (tenant("acme"), ["advise".to_owned()]);
    let bytes = serde_json::to_vec(&envelope).expect("JSON");
    let verdict = verify(&bytes, &situation(root, &acme, &allowed, &|_| Ok(false)));
    verdict.map(|authorised| authorised.signers().to_vec())
}

fn refused_at(root: &TrustRoot, signatures: &[(KeyId, Vec<u8>)], check: Check) {
    assert_eq!(judged(root, signatures).expect_err("refused").check, check);
}

fn message() -> Vec<u8> {
    let payload = serde_json::to_vec(&advise(1)).expect("JSON");
    Envelope::new(command::PAYLOAD_TYPE, &payload).to_sign().expect("to sign")
}

/// What a token with the key of `number` would sign.
fn token(number: u8, flags: u8, message: &[u8]) -> (SignerKey, SshSignature) {
    let secret = key(number);
    let ssh = SshKey::of_token(secret.public(), "ssh:").expect("a key");
    let presence = Presence { flags, counter: 1 };
    let signed = sshsig::to_sign("picket-command", MessageHash::Sha512, message);
    let signature = SshSignature {
        key: ssh.clone(),
        namespace: "picket-command".to_owned(),
        hash: MessageHash::Sha512,
        signature: secret.sign(&sshsig::token_signs("ssh:", presence, &signed)),
        presence: Some(presence),
    };
    (ssh.into(), signature)
}

#[test]
fn what_openssh_signs_is_obeyed() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (carol, dave) = (key_file(directory.path(), "carol"), key_file(directory.path(), "dave"));
    let (carol_key, dave_key): (SignerKey, SignerKey) = (carol.key.clone().into(), dave.key.clone().into());
    let agent = SshAgent::start(directory.path());
    let mut add = std::process::Command::new("ssh-add");
    assert!(
        add.arg("-q")
            .arg(&dave.path)
            .env("SSH_AUTH_SOCK", &agent.socket)
            .status()
            .expect("ssh-add")
            .success()
    );
    std::fs::remove_file(&dave.path).expect("removed");
    let root = root_of(&[carol_key.clone(), dave_key.clone()]);
    let by_file = |more: &[&str], message: &[u8]| {
        (carol_key.id(), ssh_keygen(&carol.path, "picket-command", more, None, message))
    };
    let public = dave.path.with_extension("pub");
    let held = (dave_key.id(), ssh_keygen(&public, "picket-command", &[], Some(&agent.socket), &message()));

    for more in [&[][..], &["-O", "hashalg=sha256"], &["-O", "hashalg=sha512"]] {
        let signers = judged(&root, &[by_file(more, &message()), held.clone()]).expect("obeyed");
        assert_eq!(BTreeSet::from_iter(signers).len(), 2);
    }
    let mine = by_file(&[], &message());
    refused_at(&root, std::slice::from_ref(&mine), Check::Threshold);
    // Signed for another purpose, of other bytes, under the id of another key.
    for namespace in ["picket-trust-root", "git", "file"] {
        let signature = ssh_keygen(&carol.path, namespace, &[], None, &message());
        refused_at(&root, &[(carol_key.id(), signature), held.clone()], Check::Threshold);
    }
    refused_at(&root, &[by_file(&[], &[&message()[..], b"\n"].concat()), held.clone()], Check::Threshold);
    refused_at(&root, &[(dave_key.id(), mine.1.clone())], Check::Signatures);
    refused_at(&root, &[(carol_key.id(), [&mine.1[..], &[0]].concat()), held.clone()], Check::Threshold);
    let swapped = SshSignature::decode(&mine.1).expect("a signature");
    let swapped = SshSignature { hash: MessageHash::Sha256, ..swapped };
    refused_at(&root, &[(carol_key.id(), swapped.encode()), held.clone()], Check::Threshold);
    // Not the armour: the field holds the binary form.
    let armour =
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", to_base64(&mine.1));
    refused_at(&root, &[(carol_key.id(), armour.into_bytes()), held], Check::Threshold);
}

#[test]
fn what_a_token_signs_is_obeyed_when_it_was_touched() {
    let (erin, touched) = token(11, 1, &message());
    let raw = key(12);
    let root = root_of(&[erin.clone(), raw.public().into()]);
    let other = (KeyId::of(&raw.public()), raw.sign(&message()).to_vec());
    let with = |signature: &SshSignature| [(erin.id(), signature.encode()), other.clone()];
    assert_eq!(judged(&root, &with(&touched)).expect("obeyed").len(), 2);
    assert!(judged(&root, &with(&token(11, 5, &message()).1)).is_ok(), "with a PIN");
    for flags in [0, 4] {
        refused_at(&root, &with(&token(11, flags, &message()).1), Check::Threshold);
    }
    let lie =
        SshSignature { presence: Some(Presence { flags: 1, counter: 1 }), ..token(11, 0, &message()).1 };
    refused_at(&root, &with(&lie), Check::Threshold);
    refused_at(&root, &with(&token(11, 1, b"other").1), Check::Threshold);
}

/// The same Ed25519 key used as it is, by OpenSSH and on a token: never two of the signers that it takes.
#[test]
fn one_key_in_three_forms_is_one_signer() {
    let point = key(11).public();
    let ssh = SshKey::of_file(point).expect("a key");
    let signed = sshsig::to_sign("picket-command", MessageHash::Sha512, &message());
    let by_file = SshSignature {
        key: ssh.clone(),
        namespace: "picket-command".to_owned(),
        hash: MessageHash::Sha512,
        signature: key(11).sign(&signed),
        presence: None,
    };
    let (on_token, by_token) = token(11, 1, &message());
    let raw = (KeyId::of(&point), key(11).sign(&message()).to_vec());
    let file_id = SignerKey::from(ssh.clone()).id();
    // No trust root that lists it twice is taken; were one in force all the same, it counts once.
    let root = root_of(&[point.into(), ssh.into(), on_token.clone()]);
    let payload = serde_json::to_vec(&root).expect("JSON");
    assert!(TrustRoot::peek(&Envelope::new(trust::PAYLOAD_TYPE, &payload)).is_err());
    let all = [raw, (file_id, by_file.encode()), (on_token.id(), by_token.encode())];
    for one in &all {
        refused_at(&root, std::slice::from_ref(one), Check::Threshold);
    }
    refused_at(&root, &all, Check::Threshold);
}
