//! What a small ledger and its collector say to each other, and the nastiest things that came to mind.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use picket_protocol::action::{Network, Process, Profile, networks};
use picket_protocol::age::{Recipient, identity_text};
use picket_protocol::backup::{self, Name};
use picket_protocol::bundle::{Bundle, FORMAT, HandOver};
use picket_protocol::checkpoint::{Checkpoint, SignedCheckpoint};
use picket_protocol::command::{self, Action, Check, Command, Outcome, Receipt, RestoreFrom};
use picket_protocol::crypto::{Hash, SigningKey, hex, sha256, to_base64};
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::evidence::{self, Chunk, Entry, Head, Held, HeldRefusal, Sealed};
use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text};
use picket_protocol::frame::{Frame, FrameType};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::join::Join;
use picket_protocol::message::{
    Ack, Batch, Bye, Enroll, Enrolled, Hello, Leaf, Renew, Renewed, Welcome, to_frame,
};
use picket_protocol::note::{KeyKind, VerifierKey};
use picket_protocol::playbook::{Condition, Otherwise, Step};
use picket_protocol::record::{Draft, Gap, KeyRotation, Kind, Lifecycle};
use picket_protocol::renewal::Renewal;
use picket_protocol::signer::{COMMAND_NAMESPACE, SignerKey};
use picket_protocol::ssh::{self, SshKey};
use picket_protocol::sshsig::{self, MessageHash, Presence, SshSignature};
use picket_protocol::tar;
use picket_protocol::time::Timestamp;
use picket_protocol::tree::{self, Frontier, Nodes};
use picket_protocol::trust::{self, AudienceBound, OperatorKey, Role, RootRole, TrustRoot};

use super::targets::{
    LOG_SEED, OPERATOR_SEED, SSH_MESSAGE, SSH_SEED, TOKEN_SEED, WITNESS, WITNESS_SEED, ssh_operators,
};

type Seed = (&'static str, String, Vec<u8>);

/// Target, file name, content.
pub fn all() -> Vec<Seed> {
    let ledger = Ledger::new();
    let mut seeds = Vec::new();
    notes(&mut seeds, &ledger);
    records(&mut seeds, &ledger);
    names(&mut seeds);
    frames(&mut seeds, &ledger);
    batches(&mut seeds, &ledger);
    orders(&mut seeds);
    ssh_operators_listed(&mut seeds);
    openssh(&mut seeds);
    proofs(&mut seeds, &ledger);
    evidence(&mut seeds);
    backup(&mut seeds);
    seeds
}

fn add(seeds: &mut Vec<Seed>, target: &'static str, name: &str, content: impl Into<Vec<u8>>) {
    seeds.push((target, name.to_owned(), content.into()));
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_767_323_045 + seconds)
}

fn agent() -> AgentId {
    AgentId::parse("01945d2a-1c00-7000-8000-000000000001").unwrap()
}

fn tenant() -> Tenant {
    Tenant::parse("acme").unwrap()
}

fn operator(n: u8) -> SigningKey {
    SigningKey::from_seed(OPERATOR_SEED.map(|byte| byte + n))
}

fn finding() -> Finding {
    Finding {
        id: uuid::Uuid::parse_str("01945d2a-1c00-7000-8000-0000000000f1").unwrap(),
        rule: "file.modified".to_owned(),
        severity: Severity::High,
        observed: Observed::once(time(0)),
        title: "/etc/passwd was changed".to_owned(),
        entities: vec![
            Entity::File { path: Text::from_bytes(b"/etc/pass\xffwd\n\x1b[31m") },
            Entity::User { name: Text::from_bytes(b"root"), uid: Some(0) },
            Entity::Address { address: "2001:db8::7".parse().unwrap(), port: Some(22) },
            Entity::Process { pid: 7, executable: Some(Text::from_bytes("/usr/bin/v\u{202e}i".as_bytes())) },
            Entity::Interface { name: Text::from_bytes(b"eth0") },
            Entity::Package { name: "openssh-server".to_owned(), version: None },
            Entity::Host { agent: agent() },
        ],
        evidence: serde_json::json!({ "before": { "mode": 420 }, "after": { "mode": 511 } }),
        attack: vec!["T1098".to_owned()],
        explained_by: Some("apt".to_owned()),
        drill: true,
    }
}

fn receipt() -> Receipt {
    Receipt {
        command: Some(uuid::Uuid::parse_str("01945d2a-1c00-7000-8000-0000000000c1").unwrap()),
        outcome: Outcome::Refused,
        step: None,
        check: Some(Check::BlastRadius),
        title: "the audience is too large for one signer".to_owned(),
        signers: vec!["alice".to_owned()],
        envelope_sha256: hex(&sha256(&[b"envelope"])),
        detail: serde_json::Value::Null,
    }
}

/// Six records, the fourth of which hands the key over, and the checkpoint of each size.
struct Ledger {
    records: Vec<Vec<u8>>,
    nodes: HashMap<(u8, u64), Hash>,
    checkpoints: Vec<SignedCheckpoint>,
    rotation: KeyRotation,
}

impl Nodes for Ledger {
    type Error = std::convert::Infallible;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        Ok(self.nodes[&(level, index)])
    }
}

impl Ledger {
    fn new() -> Self {
        let (old, new) = (SigningKey::from_seed(LOG_SEED), SigningKey::from_seed([9; 32]));
        let witness = SigningKey::from_seed(WITNESS_SEED);
        let rotation = KeyRotation::new(&agent().origin(), 3, &old, new.public());
        let started = Lifecycle {
            event: "started".to_owned(),
            title: "the agent started".to_owned(),
            detail: serde_json::Value::Null,
        };
        let gap = Gap {
            count: 2,
            first: 0,
            last: 1,
            by_severity: [1, 1, 0, 0, 0],
            reason: "disk-bound".to_owned(),
        };
        let drafts = [
            Draft::new(Kind::Lifecycle, Severity::Info, &started),
            Draft::new(Kind::Finding, Severity::High, &finding()),
            Draft::new(Kind::Receipt, Severity::Info, &receipt()),
            Draft::new(Kind::Key, Severity::Info, &rotation),
            Draft::new(Kind::Gap, Severity::Info, &gap),
            Draft::new(
                Kind::Heartbeat,
                Severity::Info,
                &serde_json::json!({ "cpu": 0.25, "ledger": { "size": 5 } }),
            ),
        ];
        let mut frontier = Frontier::default();
        let mut ledger =
            Self { records: Vec::new(), nodes: HashMap::new(), checkpoints: Vec::new(), rotation };
        for (seq, draft) in (0_i64..).zip(drafts) {
            let record = draft.unwrap().render(frontier.size(), time(seq));
            frontier.append(tree::leaf_hash(&record), |level, index, hash| {
                ledger.nodes.insert((level, index), hash);
            });
            ledger.records.push(record);
            let checkpoint = Checkpoint::new(agent().origin(), frontier.size(), frontier.root(), time(seq));
            let mut signed = checkpoint.sign(if frontier.size() <= 4 { &old } else { &new }).unwrap();
            signed.cosign(WITNESS, &witness, time(seq)).unwrap();
            ledger.checkpoints.push(signed);
        }
        ledger
    }

    /// The checkpoint of `size`.
    fn checkpoint(&self, size: usize) -> String {
        self.checkpoints[size - 1].to_text()
    }

    fn bundle(&self, seq: u64, size: u64) -> Bundle {
        let at = |n: u64| usize::try_from(n).unwrap();
        Bundle {
            format: FORMAT.to_owned(),
            tenant: tenant(),
            agent: agent(),
            seq,
            record: to_base64(&self.records[at(seq)]),
            proof: Bundle::proof_text(&tree::inclusion_proof(seq, size, self).unwrap()),
            checkpoint: self.checkpoint(at(size)),
            enrolled_key: SigningKey::from_seed(LOG_SEED).public(),
            hand_overs: vec![HandOver { seq: 3, rotation: self.rotation.clone() }],
        }
    }
}

fn notes(seeds: &mut Vec<Seed>, ledger: &Ledger) {
    let good = ledger.checkpoint(3);
    for target in ["note", "cosignature"] {
        add(seeds, target, "good-cosigned", good.as_str());
        add(seeds, target, "bad-crlf", good.replace('\n', "\r\n"));
        add(seeds, target, "bad-no-final-newline", good.trim_end());
        add(seeds, target, "bad-hyphen-for-dash", good.replace('\u{2014}', "-"));
        add(seeds, target, "bad-nul", good.replacen("picket", "pic\0ket", 1));
        add(
            seeds,
            target,
            "bad-not-utf8",
            good.replacen("picket", "picket?", 1)
                .into_bytes()
                .iter()
                .map(|b| if *b == b'?' { 0xff } else { *b })
                .collect::<Vec<u8>>(),
        );
        add(
            seeds,
            target,
            "bad-seventeen-lines",
            good.clone() + &good.lines().last().map(|l| format!("{l}\n")).unwrap().repeat(15),
        );
        add(seeds, target, "bad-space-in-name", good.replacen("— picket", "— pic\u{3000}ket", 1));
    }
    add(seeds, "cosignature", "bad-other-size", good.replacen("\n3\n", "\n4\n", 1));
    add(
        seeds,
        "cosignature",
        "bad-uncosigned",
        good.lines().filter(|l| !l.contains(WITNESS)).map(|l| format!("{l}\n")).collect::<String>(),
    );
    add(seeds, "note", "good-text-of-blank-lines", format!("\n\n\n\n{}\n", good.lines().last().unwrap()));
    let text = good.split("\n\n").next().unwrap().to_owned() + "\n";
    add(seeds, "checkpoint", "good-plain", text.as_str());
    add(seeds, "checkpoint", "good-largest", text.replacen("\n3\n", "\n18446744073709551615\n", 1));
    add(
        seeds,
        "checkpoint",
        "bad-larger-than-largest",
        text.replacen("\n3\n", "\n18446744073709551616\n", 1),
    );
    add(seeds, "checkpoint", "bad-leading-zero", text.replacen("\n3\n", "\n03\n", 1));
    add(seeds, "checkpoint", "bad-plus", text.replacen("\n3\n", "\n+3\n", 1));
    add(seeds, "checkpoint", "bad-nine-extensions", text.clone() + &"more\n".repeat(8));
    add(seeds, "checkpoint", "bad-blank-extension", text.clone() + "\n");
    add(seeds, "checkpoint", "bad-root-bits", text.replacen("=\n", "=\n=\n", 1).replacen("=\n=", "==", 1));
    let key = VerifierKey::new(WITNESS, KeyKind::Cosignature, SigningKey::from_seed(WITNESS_SEED).public())
        .unwrap();
    add(seeds, "vkey", "good-witness", key.to_string());
    add(seeds, "vkey", "bad-other-name", key.to_string().replace("example", "exbmple"));
    add(seeds, "vkey", "bad-newline", format!("{key}\n"));
    add(seeds, "vkey", "bad-three-plus", "+++");
}

fn records(seeds: &mut Vec<Seed>, ledger: &Ledger) {
    for (record, name) in
        ledger.records.iter().zip(["lifecycle", "finding", "receipt", "key", "gap", "heartbeat"])
    {
        add(seeds, "record", &format!("good-{name}"), record.clone());
    }
    let plain = String::from_utf8(ledger.records[0].clone()).unwrap();
    add(seeds, "record", "good-unknown-member", plain.replacen("{", r#"{"later":[{}],"#, 1));
    add(seeds, "record", "bad-two-records", plain.clone() + &plain);
    add(seeds, "record", "bad-newline", plain.replacen(',', ",\n", 1));
    add(seeds, "record", "bad-twice", plain.replacen("{", r#"{"seq":9,"#, 1));
    add(seeds, "record", "bad-array", r#"[1,0,"2026-01-02T03:04:05.000000000Z","finding",{}]"#);
    add(
        seeds,
        "record",
        "bad-deep",
        plain.replacen("{", &format!("{{\"x\":{}{},", "[".repeat(4_000), "]".repeat(4_000)), 1),
    );
    add(seeds, "record", "bad-unclosed", "{\"a\":".repeat(2_000));
    add(
        seeds,
        "record",
        "bad-reserved-member",
        plain.replacen("\"body\":{", r#""body":{"$serde_json::private::RawValue":"{}","#, 1),
    );
    add(seeds, "record", "bad-number", plain.replacen(r#""seq":0"#, r#""seq":18446744073709551616"#, 1));
    add(seeds, "record", "bad-surrogate", plain.replacen("{", r#"{"x":"\ud800","#, 1));
    let good = serde_json::to_string(&finding()).unwrap();
    add(seeds, "finding", "good-every-entity", good.as_str());
    add(
        seeds,
        "finding",
        "good-unknown-entity",
        good.replace(r#""type":"interface""#, r#""type":"satellite""#),
    );
    add(
        seeds,
        "finding",
        "bad-shown-text-is-not-the-bytes",
        good.replace("/etc/pass\u{fffd}wd", "/etc/passwd"),
    );
    add(seeds, "finding", "bad-severity", good.replace("high", "dire"));
    add(
        seeds,
        "text",
        "good-broken-utf8",
        serde_json::to_vec(&Text::from_bytes(b"a\xff\0\xf0\x9f\x98")).unwrap(),
    );
    add(seeds, "text", "bad-bytes-that-are-utf8", r#"{"text":"a","bytes":"YQ=="}"#);
    add(seeds, "text", "bad-other-bytes", r#"{"text":"\ufffd","bytes":"YQ=="}"#);
    add(seeds, "text", "bad-bidi", "\u{202e}gpj.exe\u{2066}\u{1b}[2J\u{9b}31m");
}

fn names(seeds: &mut Vec<Seed>) {
    let good = [
        ("good-time", "2026-01-02T03:04:05.000000006Z"),
        ("good-first-time", "1677-09-21T00:12:43.145224192Z"),
        ("good-agent", "01945d2a-1c00-7000-8000-000000000001"),
        ("good-origin", "picket/01945d2a-1c00-7000-8000-000000000001"),
        ("good-tenant", "acme-2"),
        ("good-address", "[2001:db8::1]:8443"),
        ("good-public-key", "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="),
        ("bad-leap-second", "2016-12-31T23:59:60.000000000Z"),
        ("bad-year", "9999-12-31T23:59:59.999999999Z"),
        ("bad-zone", "2026-01-02T03:04:05+01:00[Europe/Paris]"),
        ("bad-urn", "urn:uuid:01945d2a-1c00-7000-8000-000000000001"),
        ("bad-weak-key", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("bad-tenant", "-rf"),
        ("bad-port", "a:+443"),
        ("bad-digits", "\u{ff12}026-01-02T03:04:05.000000006Z"),
    ];
    for (name, content) in good {
        add(seeds, "names", name, content);
    }
    let join = |trust_root| Join {
        address: "collector.example:443".to_owned(),
        token: zeroize::Zeroizing::new([5; 32]),
        ca: [6; 32],
        trust_root,
    };
    let good = join(None).to_text().unwrap();
    add(seeds, "join", "good-plain", good.as_str());
    add(seeds, "join", "good-trust-root", join(Some([7; 32])).to_text().unwrap());
    add(seeds, "join", "bad-cut", &good[..good.len() - 1]);
    add(seeds, "join", "bad-letter", good.replacen('F', "G", 1));
    add(seeds, "join", "bad-padding", good.clone() + "=");
    add(seeds, "join", "bad-prefix", good.replacen("picket1", "picket2", 1));
}

fn envelope(payload_type: &str, payload: &[u8]) -> Envelope {
    let mut envelope = Envelope::new(payload_type, payload);
    envelope.sign(&operator(0)).unwrap();
    envelope.sign(&operator(1)).unwrap();
    envelope
}

/// One frame of each type.
pub fn each_frame() -> Vec<Frame> {
    frames_of(&Ledger::new())
}

/// One record of each kind, and the other texts and files that people and programs keep.
pub fn each_file() -> Vec<(String, Vec<u8>)> {
    let ledger = Ledger::new();
    let names = ["lifecycle", "finding", "receipt", "key", "gap", "heartbeat"];
    let mut files: Vec<(String, Vec<u8>)> = names
        .iter()
        .zip(&ledger.records)
        .map(|(name, record)| (format!("record-{name}"), record.clone()))
        .collect();
    let witness = SigningKey::from_seed(WITNESS_SEED).public();
    let witness = VerifierKey::new(WITNESS, KeyKind::Cosignature, witness).unwrap();
    let join = Join {
        address: "collector.example:443".to_owned(),
        token: zeroize::Zeroizing::new([5; 32]),
        ca: [6; 32],
        trust_root: Some([7; 32]),
    };
    files.extend([
        ("checkpoint".to_owned(), ledger.checkpoint(6).into_bytes()),
        ("witness-key".to_owned(), witness.to_string().into_bytes()),
        ("join-string".to_owned(), join.to_text().unwrap().into_bytes()),
        ("command-payload".to_owned(), serde_json::to_vec(&order()).unwrap()),
        ("trust-root-payload".to_owned(), serde_json::to_vec(&root()).unwrap()),
        ("proof-file".to_owned(), serde_json::to_vec(&ledger.bundle(1, 6)).unwrap()),
    ]);
    files
}

fn frames_of(ledger: &Ledger) -> Vec<Frame> {
    let checkpoint = ledger.checkpoint(6);
    let batch = Batch {
        from: 4,
        checkpoint: checkpoint.clone(),
        leaves: ledger.records[4..].iter().cloned().map(Leaf::Record).collect(),
    };
    let command = envelope(command::PAYLOAD_TYPE, &serde_json::to_vec(&order()).unwrap());
    let root = envelope(trust::PAYLOAD_TYPE, &serde_json::to_vec(&root()).unwrap());
    let hello = Hello {
        agent: agent(),
        version: "0.1.0".to_owned(),
        size: 6,
        checkpoint: checkpoint.clone(),
        cosigned: ledger.checkpoint(4),
        facts: serde_json::json!({ "kernel": "6.1" }),
    };
    let enrolled = Enrolled {
        tenant: tenant(),
        certificate: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        ca: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        witness: "w".to_owned(),
        trust_root: Some(root.clone()),
    };
    let bye =
        Bye { reason: "shutting-down".to_owned(), detail: "the collector stops".to_owned(), retry_after: 5 };
    vec![
        to_frame(FrameType::Hello, &hello).unwrap(),
        batch.to_frame().unwrap(),
        to_frame(FrameType::Renew, &Renew { csr: "-----BEGIN CERTIFICATE REQUEST-----\n".to_owned() })
            .unwrap(),
        to_frame(FrameType::Enroll, &enroll()).unwrap(),
        to_frame(
            FrameType::Welcome,
            &Welcome { size: 4, checkpoint: ledger.checkpoint(4), time: time(9), evidence: false },
        )
        .unwrap(),
        to_frame(FrameType::Ack, &Ack { checkpoint }).unwrap(),
        to_frame(FrameType::Command, &command).unwrap(),
        to_frame(FrameType::Trust, &root).unwrap(),
        to_frame(FrameType::Bye, &bye).unwrap(),
        to_frame(FrameType::Renewed, &Renewed { certificate: "-----BEGIN CERTIFICATE-----\n".to_owned() })
            .unwrap(),
        to_frame(FrameType::Enrolled, &enrolled).unwrap(),
        chunk().to_frame().unwrap(),
        to_frame(FrameType::Held, &held()).unwrap(),
    ]
}

fn enroll() -> Enroll {
    Enroll {
        token: to_base64(&[5; 32]),
        agent: agent(),
        csr: "-----BEGIN CERTIFICATE REQUEST-----\n".to_owned(),
        ledger_key: SigningKey::from_seed(LOG_SEED).public(),
        hostname: "web-1".to_owned(),
        version: "0.1.0".to_owned(),
        renewal: None,
    }
}

/// As an enrolled host asks for a new certificate.
fn renewing(ledger: &Ledger) -> Enroll {
    let enroll = enroll();
    let message = Renewal::message(&agent().origin(), &[5; 32], &enroll.csr);
    let hand_overs = vec![HandOver { seq: 3, rotation: ledger.rotation.clone() }];
    let renewal = Renewal::new(hand_overs, &SigningKey::from_seed([9; 32]), &message);
    Enroll { renewal: Some(renewal), ..enroll }
}

fn chunk() -> Chunk {
    let evidence = uuid::Uuid::parse_str("01945d2a-1c00-7000-8000-0000000000c1").unwrap();
    Chunk { evidence, offset: 4, total: 9, bytes: b"a pie".to_vec() }
}

fn held() -> Held {
    let refused = HeldRefusal { reason: "there is no room".to_owned(), retry_after: 60 };
    Held { evidence: chunk().evidence, held: 4, complete: false, refused: Some(refused) }
}

fn evidence(seeds: &mut Vec<Seed>) {
    let recipient = Recipient([7; 32]).to_string();
    add(seeds, "age", "good-recipient", recipient.clone());
    add(seeds, "age", "good-identity", identity_text(&[8; 32]).as_str());
    add(seeds, "age", "bad-upper-case-recipient", recipient.to_ascii_uppercase());
    add(seeds, "age", "bad-short-recipient", &recipient[..recipient.len() - 1]);
    let key = to_base64(&[5; 32]).trim_end_matches('=').to_owned();
    let other = "-> grease 1 2\nAAAA\n";
    let header = format!("age-encryption.org/v1\n{other}-> X25519 {key}\n{key}\n--- {key}\n");
    add(seeds, "age", "good-header", format!("{header}0123456789abcdef…"));
    add(seeds, "age", "bad-version", header.replace("/v1", "/v2"));
    add(seeds, "age", "bad-padding", header.replace(&key, &format!("{key}=")));
    add(seeds, "age", "bad-no-end", header.replace("--- ", "-> "));
    let file =
        |name: &str| tar::Header { name: name.to_owned(), size: 3, mtime: 1_767_323_045 }.to_bytes().unwrap();
    add(seeds, "archive", "good-file", file("files/etc/passwd"));
    let long = file(&"x".repeat(120));
    add(seeds, "archive", "good-extended", &long[..tar::BLOCK_BYTES]);
    add(seeds, "archive", "good-long-name", format!("130 path={}\n", "x".repeat(120)));
    add(seeds, "archive", "good-end", tar::end());
    let large = tar::Header { name: "collector.db".to_owned(), size: 1 << 40, mtime: 0 }.to_bytes().unwrap();
    add(seeds, "archive", "good-large", large);
    add(seeds, "archive", "bad-long-name", format!("129 path={}\n", "x".repeat(120)));
    let mut changed = file("a");
    changed[0] = b'b';
    add(seeds, "archive", "bad-checksum", changed);
    let entry = Entry {
        name: evidence::name_of("files", b"/etc/pass\xffwd\n%"),
        size: Some(3),
        sha256: Some(hex(&sha256(&[b"abc"]))),
        whole: Some(4),
        modified: Some(time(0)),
        uid: Some(0),
        note: Some("changed while it was read".to_owned()),
        ..Entry::default()
    };
    let head = Head {
        format: evidence::FORMAT.to_owned(),
        command: chunk().evidence,
        agent: agent(),
        began: time(0),
        profiles: Profile::ALL.into(),
        paths: vec!["/srv".to_owned()],
        process: Some(Process { pid: 7, started: time(-9), sha256: hex(&sha256(&[b"program"])) }),
    };
    let sealed = Sealed {
        format: evidence::FORMAT.to_owned(),
        root: hex(&sha256(&[b"root"])),
        lines: 3,
        entries: 1,
        plain_bytes: 3,
        sealed_bytes: 600,
        sealed_sha256: hex(&sha256(&[b"sealed"])),
        recipients: vec![Recipient([7; 32])],
        skipped: BTreeMap::from([("fifo".to_owned(), 1)]),
        began: time(0),
        ended: time(4),
    };
    add(seeds, "manifest", "good-entry", serde_json::to_vec(&entry).unwrap());
    add(seeds, "manifest", "good-head", serde_json::to_vec(&head).unwrap());
    add(seeds, "manifest", "good-sealed", serde_json::to_vec(&sealed).unwrap());
    add(seeds, "manifest", "bad-no-name", "{\"size\":3}");
    add(seeds, "manifest", "bad-recipient", serde_json::to_string(&sealed).unwrap().replace("age1", "agf1"));
}

fn backup(seeds: &mut Vec<Seed>) {
    let digest = hex(&sha256(&[b"content"]));
    let entry = |name| backup::Entry { name, size: 7, sha256: digest.clone() };
    let bundle = chunk().evidence;
    let more = [Name::EvidenceDescription(agent(), bundle), Name::Evidence(agent(), bundle)];
    let manifest = backup::Manifest {
        format: backup::FORMAT.to_owned(),
        taken: time(0),
        collector: "0.1.0".to_owned(),
        ca_sha256: digest.clone(),
        hosts: 1,
        records: 9,
        files: Name::NEEDED.into_iter().chain(more).map(entry).collect(),
    };
    let text = serde_json::to_string(&manifest).unwrap();
    add(seeds, "backup", "good-manifest", text.clone());
    add(seeds, "backup", "bad-name", text.replace("\"ca.key\"", "\"../ca.key\""));
    add(seeds, "backup", "bad-later-format", text.replace(backup::FORMAT, "picket-collector-backup/2"));
    add(seeds, "backup", "bad-digest", text.replace(&digest, "00"));
}

fn frames(seeds: &mut Vec<Seed>, ledger: &Ledger) {
    let mut stream = vec![7];
    for frame in &frames_of(ledger) {
        let name = frame.frame_type.name();
        add(seeds, "message", &format!("good-{name}"), [&[frame.frame_type as u8], &frame.body[..]].concat());
        add(
            seeds,
            "message",
            &format!("bad-array-{name}"),
            [&[frame.frame_type as u8], &b"["[..], &frame.body, b"]"].concat(),
        );
        stream.extend(frame.to_bytes());
    }
    let renewing = serde_json::to_vec(&renewing(ledger)).unwrap();
    add(seeds, "message", "good-enroll-renewing", [&[FrameType::Enroll as u8], &renewing[..]].concat());
    add(
        seeds,
        "message",
        "bad-twice",
        [&[FrameType::Ack as u8][..], br#"{"checkpoint":"a","checkpoint":"a"}"#].concat(),
    );
    add(seeds, "message", "bad-type", [6_u8]);
    add(
        seeds,
        "message",
        "bad-facts-bomb",
        [&[FrameType::Hello as u8][..], br#"{"facts":"#, &b"[".repeat(4_000)].concat(),
    );
    add(seeds, "frame", "good-every-type", stream.clone());
    add(seeds, "frame", "bad-torn", &stream[..stream.len() - 1]);
    add(seeds, "frame", "good-empty-bodies", [&[1_u8][..], &[0, 0, 0, 1, 20].repeat(40)].concat());
    add(seeds, "frame", "bad-length-0", [1, 0, 0, 0, 0, 1]);
    add(seeds, "frame", "bad-length-max", [1, 0xff, 0xff, 0xff, 0xff, 2]);
    add(seeds, "frame", "bad-long-bye", [1, 0, 0, 0x20, 2, 20]);
    add(seeds, "frame", "bad-type", [1, 0, 0, 0, 1, 6]);
}

fn batches(seeds: &mut Vec<Seed>, ledger: &Ledger) {
    let mut leaves: Vec<Leaf> = ledger.records.iter().cloned().map(Leaf::Record).collect();
    let body = |leaves: &[Leaf]| {
        Batch { from: 0, checkpoint: ledger.checkpoint(6), leaves: leaves.to_vec() }.to_frame().unwrap().body
    };
    add(seeds, "batch", "good-records", body(&leaves));
    leaves[1] = Leaf::Forgotten(leaves[1].hash());
    let good = body(&leaves);
    add(seeds, "batch", "good-forgotten", good.clone());
    add(seeds, "batch", "bad-trailing-byte", [&good[..], b"\0"].concat());
    add(seeds, "batch", "bad-cut", &good[..good.len() - 1]);
    add(seeds, "batch", "bad-header-length", [&[0xff; 4], &good[4..]].concat());
    let with = |packed: &[u8]| [&26_u32.to_be_bytes()[..], br#"{"from":0,"checkpoint":""}"#, packed].concat();
    let pack = |content: &[u8]| zstd::bulk::compress(content, 19).unwrap();
    add(seeds, "batch", "good-one-line", with(&pack(b"{}\n")));
    add(seeds, "batch", "bad-bomb", with(&pack(&vec![b'{'; 32 * 1024 * 1024])));
    add(seeds, "batch", "bad-line-bomb", with(&pack(&b"{\n".repeat(1_025))));
    add(seeds, "batch", "bad-two-frames", with(&[pack(b"{}\n"), pack(b"{}\n")].concat()));
    add(
        seeds,
        "batch",
        "bad-skippable",
        with(&[&pack(b"{}\n")[..], b"\x50\x2a\x4d\x18\x04\0\0\0hide"].concat()),
    );
    add(seeds, "batch", "bad-no-size", with(&zstd::stream::encode_all(&b"{}\n"[..], 1).unwrap()));
    add(seeds, "batch", "bad-blank-line", with(&pack(b"{}\n\n{}\n")));
    add(seeds, "batch", "bad-hash", with(&pack(b"#AAAA\n")));
    add(
        seeds,
        "batch",
        "bad-from",
        [&45_u32.to_be_bytes()[..], br#"{"from":18446744073709551615,"checkpoint":""}"#, &pack(b"{}\n")]
            .concat(),
    );
}

fn order() -> Command {
    Command {
        id: uuid::Uuid::parse_str("01945d2a-1c00-7000-8000-0000000000c1").unwrap(),
        issued: time(0),
        not_before: time(0),
        expires: time(3_600),
        tenant: tenant(),
        hosts: vec![agent()],
        action: Action::Scan { paths: vec!["/etc".to_owned()] },
        lease: 0,
        reason: "a look after the change".to_owned(),
        ticket: "CASE-7".to_owned(),
    }
}

fn root() -> TrustRoot {
    let keys: BTreeMap<KeyId, OperatorKey> = [(0, "alice"), (1, "bob")]
        .into_iter()
        .map(|(n, name)| {
            let public = operator(n).public();
            (KeyId::of(&public), OperatorKey { name: name.to_owned(), public: public.into() })
        })
        .collect();
    let ids: BTreeSet<KeyId> = keys.keys().cloned().collect();
    let role = Role {
        keys: ids.clone(),
        threshold: 1,
        actions: ["advise", "scan"].map(str::to_owned).into(),
        audience: vec![
            AudienceBound { signatures: 1, hosts: 1 },
            AudienceBound { signatures: 2, hosts: 500 },
        ],
        lease_seconds_max: 3_600,
    };
    TrustRoot {
        version: 1,
        tenant: tenant(),
        expires: time(1_000_000),
        keys,
        root: RootRole { keys: ids, threshold: 2 },
        roles: BTreeMap::from([("responder".to_owned(), role)]),
        evidence: BTreeSet::new(),
    }
}

/// Sequences of several actions.
fn sequences(seeds: &mut Vec<Seed>) {
    let steps = [
        ("contain", Condition::Always {}),
        ("look", Condition::Found { rule: "file.*".to_owned(), seconds: 60 }),
    ];
    let steps = steps.map(|(name, when)| Step {
        name: name.to_owned(),
        action: if name == "look" { order().action } else { Action::Isolate {} },
        lease: 60,
        when,
        timeout: 30,
        otherwise: Otherwise::GoOn,
    });
    let playbook = Action::Playbook { name: "contain-ransomware".to_owned(), steps: steps.to_vec() };
    let playbook = serde_json::to_string(&Command { action: playbook, lease: 0, ..order() }).unwrap();
    add(seeds, "command", "good-playbook", playbook.as_str());
    add(
        seeds,
        "command",
        "bad-playbook-step-twice",
        playbook.replace(r#""name":"look""#, r#""name":"contain""#),
    );
    let within = r#"{"type":"playbook","name":"x","steps":[]}"#;
    add(seeds, "command", "bad-playbook-within", playbook.replacen(r#"{"type":"isolate"}"#, within, 1));
    let services = vec!["tcp/443".parse().unwrap(), "udp/53".parse().unwrap()];
    let accept = vec!["account.changed /etc/shadow".to_owned()];
    let restore = Action::Restore { command: order().id, services, pause: 60, accept };
    let restore = serde_json::to_string(&Command { action: restore, lease: 60, ..order() }).unwrap();
    add(seeds, "command", "good-restore", restore.as_str());
    add(seeds, "command", "bad-restore-port", restore.replace("\"port\":443", "\"port\":0"));
    let file = Action::RestoreFile(RestoreFrom::Finding(order().id));
    let file = serde_json::to_string(&Command { action: file, ..order() }).unwrap();
    add(seeds, "command", "good-restore-file", file.as_str());
    let both = format!(r#""type":"restore-file","command":"{}","#, order().id);
    add(seeds, "command", "bad-restore-file-both", file.replace(r#""type":"restore-file","#, &both));
}

/// Blocks of few networks and of many.
fn blocks(seeds: &mut Vec<Seed>) {
    let mut few: Vec<Network> =
        ["10.0.0.0/8", "192.0.2.7", "198.51.100.0/24", "2001:db8::/32", "2001:db8:1::7"]
            .map(|text| text.parse().unwrap())
            .into();
    few.sort_unstable();
    let packed = networks::pack(&few);
    add(seeds, "networks", "good-of-both-families", packed.as_slice());
    add(seeds, "networks", "bad-cut", &packed[..packed.len() - 1]);
    add(seeds, "networks", "bad-group-twice", [&packed[..], &packed[..]].concat());
    add(seeds, "networks", "bad-number-of-two-forms", [4, 32, 1, 0x81, 0]);
    let many = (0..1_200_u32).map(|n| Network::host(std::net::Ipv4Addr::from(0x0b00_0000 + n * 7).into()));
    let block = |networks| {
        let command = Command { action: Action::Block { networks }, lease: 60, ..order() };
        serde_json::to_string(&command).unwrap()
    };
    let many: Vec<Network> = many.collect();
    add(seeds, "command", "good-block", block(few.clone()));
    add(seeds, "command", "good-block-of-many", block(many.clone()));
    let listed = serde_json::to_string(&few).unwrap();
    let too_few = serde_json::to_string(&to_base64(&packed)).unwrap();
    add(seeds, "command", "bad-block-packed-for-few", block(few).replace(&listed, &too_few));
}

fn orders(seeds: &mut Vec<Seed>) {
    sequences(seeds);
    blocks(seeds);
    let command = serde_json::to_string(&order()).unwrap();
    add(seeds, "command", "good-scan", command.as_str());
    add(
        seeds,
        "command",
        "good-advise",
        serde_json::to_vec(&Command { action: Action::Advise { message: "call us".to_owned() }, ..order() })
            .unwrap(),
    );
    add(
        seeds,
        "command",
        "good-drill",
        serde_json::to_vec(&Command { action: Action::Drill { findings: 3 }, ..order() }).unwrap(),
    );
    add(seeds, "command", "bad-unknown-member", command.replacen('{', r#"{"force":true,"#, 1));
    add(
        seeds,
        "command",
        "bad-host-twice",
        command.replacen(r#""hosts":["#, &format!(r#""hosts":["{}","#, agent()), 1),
    );
    add(seeds, "command", "bad-relative-path", command.replace("/etc", "etc"));
    add(
        seeds,
        "command",
        "bad-action-array",
        command.replace(r#"{"type":"scan","paths":["/etc"]}"#, r#"["scan",["/etc"]]"#),
    );
    let trust_root = serde_json::to_string(&root()).unwrap();
    add(seeds, "trust", "good-two-of-two", trust_root.as_str());
    add(seeds, "trust", "bad-threshold", trust_root.replacen(r#""threshold":2"#, r#""threshold":3"#, 1));
    add(seeds, "trust", "bad-version", trust_root.replacen(r#""version":1"#, r#""version":0"#, 1));
    add(
        seeds,
        "trust",
        "bad-role-twice",
        trust_root.replacen(r#""roles":{"#, r#""roles":{"responder":{},"#, 1),
    );
    let good = serde_json::to_string(&envelope(command::PAYLOAD_TYPE, command.as_bytes())).unwrap();
    add(seeds, "envelope", "good-command", good.as_str());
    add(
        seeds,
        "envelope",
        "good-trust-root",
        serde_json::to_vec(&envelope(trust::PAYLOAD_TYPE, trust_root.as_bytes())).unwrap(),
    );
    add(seeds, "envelope", "good-without-key-ids", good.replace("keyid", "hint"));
    add(
        seeds,
        "envelope",
        "bad-sixty-five-signatures",
        format!(r#"{{"payload":"","payloadType":"t","signatures":[{}]}}"#, [r#"{"sig":""}"#; 65].join(",")),
    );
    add(seeds, "envelope", "bad-payload-twice", good.replacen('{', r#"{"payload":"","#, 1));
    add(seeds, "envelope", "bad-not-base64", good.replacen(r#""payload":""#, r#""payload":"!"#, 1));
}

/// Trust roots that list keys of OpenSSH.
fn ssh_operators_listed(seeds: &mut Vec<Seed>) {
    let [file, token] = ssh_operators().map(SignerKey::from);
    let listed = |keys: &[SignerKey]| {
        let mut root = root();
        let named =
            keys.iter().map(|key| (key.id(), OperatorKey { name: "carol".to_owned(), public: key.clone() }));
        root.keys.extend(named);
        serde_json::to_string(&root).unwrap()
    };
    let twice = SshKey::of_file(operator(0).public()).unwrap().into();
    add(seeds, "trust", "good-ssh-keys", listed(&[file.clone(), token]));
    add(seeds, "trust", "bad-two-forms", listed(&[twice]));
    add(
        seeds,
        "trust",
        "bad-ssh-comment",
        listed(std::slice::from_ref(&file)).replacen(&file.to_string(), &format!("{file} a@b"), 1),
    );
}

/// Keys and signatures in the encoding of OpenSSH.
fn openssh(seeds: &mut Vec<Seed>) {
    let [file, token] = ssh_operators();
    add(seeds, "ssh-key", "good-file", format!("{file} alice@laptop\n"));
    add(seeds, "ssh-key", "good-token", token.to_string());
    add(seeds, "ssh-key", "good-encoded", token.encode());
    add(seeds, "ssh-key", "bad-left-over", [file.encode(), vec![0]].concat());
    add(seeds, "ssh-key", "bad-type", file.to_string().replacen("ssh-ed25519", "ssh-rsa", 1));
    add(seeds, "ssh-key", "bad-two-types", file.to_string().replacen(ssh::ED25519, ssh::SK_ED25519, 1));
    let encoded = token.encode();
    add(seeds, "ssh-key", "bad-cut", &encoded[..encoded.len() - 1]);

    let signed = sshsig::to_sign(COMMAND_NAMESPACE, MessageHash::Sha512, SSH_MESSAGE);
    let by_file = SshSignature {
        key: file,
        namespace: COMMAND_NAMESPACE.to_owned(),
        hash: MessageHash::Sha512,
        signature: SigningKey::from_seed(SSH_SEED).sign(&signed),
        presence: None,
    };
    let presence = Presence { flags: 1, counter: 7 };
    let by_token = SshSignature {
        key: token,
        signature: SigningKey::from_seed(TOKEN_SEED).sign(&sshsig::token_signs("ssh:", presence, &signed)),
        presence: Some(presence),
        ..by_file.clone()
    };
    let good = by_file.encode();
    add(seeds, "sshsig", "good-file", good.clone());
    add(seeds, "sshsig", "good-token", by_token.encode());
    add(seeds, "sshsig", "bad-cut", &good[..good.len() - 1]);
    add(seeds, "sshsig", "bad-left-over", [good.clone(), vec![0]].concat());
    add(seeds, "sshsig", "bad-version", [&good[..9], &[2], &good[10..]].concat());
    let token = by_token.encode();
    add(seeds, "sshsig", "bad-no-flags", SshSignature { presence: None, ..by_token }.encode());
    add(seeds, "sshsig", "bad-magic", [&token[..5], b"X", &token[6..]].concat());
}

fn proofs(seeds: &mut Vec<Seed>, ledger: &Ledger) {
    let bundle = |seq, size| serde_json::to_string(&ledger.bundle(seq, size)).unwrap();
    let good = bundle(1, 6);
    add(seeds, "bundle", "good-after-hand-over", good.as_str());
    add(seeds, "bundle", "good-before-hand-over", bundle(1, 3));
    add(seeds, "bundle", "good-key-record", bundle(3, 4));
    add(seeds, "bundle", "bad-other-place", good.replacen(r#""seq":1"#, r#""seq":2"#, 1));
    add(seeds, "bundle", "bad-format", good.replacen("picket-proof/1", "picket-proof/2", 1));
    add(
        seeds,
        "bundle",
        "bad-no-proof",
        serde_json::to_vec(&Bundle { proof: Vec::new(), ..ledger.bundle(1, 6) }).unwrap(),
    );
    let proof = |first: u64, size: u64, leaf: &Hash, root: &Hash, path: &[Hash]| {
        [&first.to_be_bytes()[..], &size.to_be_bytes(), leaf, root, path.as_flattened()].concat()
    };
    let root = tree::root(6, ledger).unwrap();
    let leaf = tree::leaf_hash(&ledger.records[4]);
    let path = tree::inclusion_proof(4, 6, ledger).unwrap();
    add(seeds, "proof", "good-inclusion", proof(4, 6, &leaf, &root, &path));
    let old = tree::root(3, ledger).unwrap();
    let path = tree::consistency_proof(3, 6, ledger).unwrap();
    add(seeds, "proof", "good-consistency", proof(3, 6, &old, &root, &path));
    add(seeds, "proof", "bad-edge-of-the-range", proof(u64::MAX - 1, u64::MAX, &leaf, &root, &[leaf; 64]));
    add(seeds, "proof", "bad-huge", proof(1 << 63, u64::MAX, &leaf, &root, &[leaf; 130]));
    add(seeds, "proof", "bad-empty-tree", proof(0, 0, &leaf, &leaf, &[leaf]));
}
