//! The API over real TLS and a seeded store.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod lab;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use lab::{ADMIN, Host, Lab, RESPONDER, VIEWER, finding, now, token};
use picket_collector::store::{OwnFinding, Role, Store as _};
use picket_protocol::bundle::Bundle;
use picket_protocol::command::{Action, Check, Command, Outcome, PAYLOAD_TYPE, Receipt};
use picket_protocol::crypto::SigningKey;
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::finding::Severity;
use picket_protocol::identity::AgentId;
use picket_protocol::note::VerifierKey;
use picket_protocol::time::Timestamp;
use picket_protocol::trust::{self, OperatorKey, RootRole, TrustRoot};
use serde_json::Value;
use uuid::Uuid;

fn operator_key() -> SigningKey {
    SigningKey::from_seed([7; 32])
}

fn command(hosts: &[&Host], expires: Timestamp) -> Command {
    Command {
        id: Uuid::now_v7(),
        issued: now(),
        not_before: Timestamp::from_seconds(0),
        expires,
        tenant: hosts[0].tenant.clone(),
        hosts: hosts.iter().map(|host| host.agent).collect(),
        action: Action::Advise { message: "patch".to_owned() },
        lease: 60,
        reason: "test".to_owned(),
        ticket: "T-1".to_owned(),
    }
}

fn signed(command: &Command) -> Vec<u8> {
    let mut envelope = Envelope::new(PAYLOAD_TYPE, &serde_json::to_vec(command).unwrap());
    envelope.sign(&operator_key()).unwrap();
    serde_json::to_vec(&envelope).unwrap()
}

fn soon() -> Timestamp {
    now().plus(Duration::from_secs(600))
}

fn trust_root(tenant: &str, version: u64) -> Vec<u8> {
    let key = operator_key();
    let id = KeyId::of(&key.public());
    let root = TrustRoot {
        version,
        tenant: picket_protocol::identity::Tenant::parse(tenant).unwrap(),
        expires: soon(),
        keys: [(id.clone(), OperatorKey { name: "alice".to_owned(), public: key.public().into() })].into(),
        root: RootRole { keys: [id].into(), threshold: 1 },
        roles: std::collections::BTreeMap::new(),
        evidence: BTreeSet::new(),
    };
    let mut envelope = Envelope::new(trust::PAYLOAD_TYPE, &serde_json::to_vec(&root).unwrap());
    envelope.sign(&key).unwrap();
    serde_json::to_vec(&envelope).unwrap()
}

fn receipt(command: Uuid, outcome: Outcome, check: Option<Check>) -> Receipt {
    Receipt {
        step: None,
        command: Some(command),
        outcome,
        check,
        title: "shown to the customer".to_owned(),
        signers: vec!["alice".to_owned()],
        envelope_sha256: "00".repeat(32),
        detail: serde_json::json!({ "stage": 1 }),
    }
}

/// A store with something of everything.
struct Seeded {
    lab: Lab,
    host: Host,
    finding: Uuid,
    own: Uuid,
    command: Uuid,
}

fn seeded() -> Seeded {
    let lab = Lab::start();
    let mut host = lab.host("acme", "web-1");
    let _silent = lab.host("globex", "db-1");
    let findings = [
        finding("file.modified", Severity::High, "/etc/passwd"),
        finding("login.failure", Severity::Low, "/x"),
        finding("login.success", Severity::Info, "/y"),
    ];
    lab.seal(&mut host, &findings);
    let silent = finding("collector.silent", Severity::Medium, "/");
    let own = silent.id;
    lab.store.raise(OwnFinding { agent: host.agent, time: now(), finding: silent }).unwrap();
    let posted = command(&[&host], soon());
    assert_eq!(lab.request("POST", "/commands", Some(&token(RESPONDER)), &signed(&posted)).status, 201);
    lab.seal_receipt(&mut host, &receipt(posted.id, Outcome::Applied, None));
    lab.seal_receipt(&mut host, &receipt(posted.id, Outcome::Refused, Some(Check::Replay)));
    assert_eq!(lab.request("POST", "/trust", Some(&token(ADMIN)), &trust_root("acme", 1)).status, 201);
    Seeded { finding: findings[0].id, own, command: posted.id, lab, host }
}

fn document(lab: &Lab) -> Value {
    let answer = lab.request("GET", "/openapi.json", None, &[]);
    assert_eq!(answer.status, 200);
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    document
}

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

#[test]
fn the_document_has_every_route_and_the_router_every_operation() {
    let Seeded { lab, host, finding, command, .. } = seeded();
    let document = document(&lab);
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let id = if path.contains("/commands/") { command } else { finding };
        let real = path.replace("{agent}", &host.agent.to_string()).replace("{id}", &id.to_string());
        let real = real.strip_prefix("/api/v1").unwrap();
        for method in METHODS {
            if real == "/findings/stream" && method == "get" {
                operations += 1;
                continue;
            }
            let answer = lab.request(&method.to_uppercase(), real, Some(&token(ADMIN)), b"{}");
            let documented = item.get(method).is_some();
            assert_eq!(answer.status != 405, documented, "{method} {path}: {}", answer.status);
            // There is no evidence here: tests/tests/evidence.rs has some.
            assert!(answer.status != 404 || path.contains("/evidence/{"), "{method} {path}");
            operations += usize::from(documented);
        }
    }
    assert_eq!(operations, 22);
    let answer = lab.get("/nothing");
    assert_eq!((answer.status, answer.code().as_str()), (404, "not-found"));
}

/// The subset of JSON Schema that the document uses. Members that are not described are errors: they are what
/// drifts.
fn validate(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(&reference[1..]).ok_or(format!("{at}: {reference} leads nowhere"))?;
        return validate(document, schema, value, at);
    }
    if let Some(choices) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        let fits = choices.iter().any(|choice| validate(document, choice, value, at).is_ok());
        return fits.then_some(()).ok_or(format!("{at}: {value} fits no choice"));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !types.is_empty() && !types.contains(&kind) {
        return Err(format!("{at}: {kind} instead of {types:?}"));
    }
    match (value, schema["format"].as_str()) {
        (Value::String(text), Some("date-time")) if Timestamp::parse(text).is_none() => {
            return Err(format!("{at}: {text} is no time"));
        }
        (Value::String(text), Some("uuid")) if Uuid::try_parse(text).is_err() => {
            return Err(format!("{at}: {text} is no UUID"));
        }
        _ => {}
    }
    if let (Value::Object(members), Some(described)) = (value, schema["properties"].as_object()) {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            members.get(name).ok_or(format!("{at}: {name} is missing"))?;
        }
        for (name, member) in members {
            let schema = described.get(name).ok_or(format!("{at}: {name} is not described"))?;
            validate(document, schema, member, &format!("{at}.{name}"))?;
        }
    }
    if let (Value::Array(items), Some(schema)) = (value, schema.get("items")) {
        items
            .iter()
            .enumerate()
            .try_for_each(|(n, item)| validate(document, schema, item, &format!("{at}[{n}]")))?;
    }
    Ok(())
}

fn check_answer(document: &Value, method: &str, template: &str, answer: &lab::Answer) {
    let operation = &document["paths"][format!("/api/v1{template}")][method];
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{method} {template}: {} is not documented", answer.status);
    let schema = &response["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{method} {template}: {} has no schema", answer.status);
    let body = answer.json();
    validate(document, schema, &body, template).unwrap_or_else(|why| panic!("{why}\n{body:#}"));
}

#[test]
fn real_answers_fit_the_documented_schemas() {
    let seeded = seeded();
    let (lab, document) = (&seeded.lab, document(&seeded.lab));
    let (host, finding, own, id) = (seeded.host.agent, seeded.finding, seeded.own, seeded.command);
    let receipt = lab.get("/receipts?limit=1").json()["items"][0]["seq"].clone();
    let cases = [
        ("/health", "/health".to_owned()),
        ("/openapi.json", "/openapi.json".to_owned()),
        ("/whoami", "/whoami".to_owned()),
        ("/hosts", "/hosts?limit=1".to_owned()),
        ("/hosts/{agent}", format!("/hosts/{host}")),
        ("/findings", "/findings?limit=2".to_owned()),
        ("/findings", "/findings?full=true".to_owned()),
        ("/findings/{id}", format!("/findings/{finding}")),
        ("/findings/{id}", format!("/findings/{own}")),
        ("/findings/{id}/bundle", format!("/findings/{finding}/bundle")),
        ("/commands", "/commands?limit=1".to_owned()),
        ("/commands/{id}", format!("/commands/{id}")),
        ("/receipts", "/receipts?limit=1".to_owned()),
        ("/receipts", format!("/receipts?full=true&host={host}&command={id}")),
        ("/receipts/{host}/{seq}/bundle", format!("/receipts/{host}/{receipt}/bundle")),
        ("/trust", "/trust".to_owned()),
        ("/audit", "/audit?limit=1".to_owned()),
    ];
    for (template, path) in &cases {
        let answer = lab.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        check_answer(&document, "get", template, &answer);
    }
    let again = command(&[&seeded.host], soon());
    let answer = lab.request("POST", "/commands", Some(&token(ADMIN)), &signed(&again));
    check_answer(&document, "post", "/commands", &answer);
    let answer = lab.request("POST", "/trust", Some(&token(ADMIN)), &trust_root("acme", 2));
    assert_eq!(answer.status, 201);
    check_answer(&document, "post", "/trust", &answer);
    refusals_fit(lab, &document, &cases);
}

fn refusals_fit(lab: &Lab, document: &Value, cases: &[(&str, String)]) {
    let nobody = Uuid::from_u128(1);
    for (template, path, status) in [
        ("/hosts/{agent}", format!("/hosts/{nobody}"), 404),
        ("/hosts/{agent}", "/hosts/x".to_owned(), 400),
        ("/findings/{id}", format!("/findings/{nobody}"), 404),
        ("/findings/{id}/bundle", format!("/findings/{nobody}/bundle"), 404),
        ("/commands/{id}", format!("/commands/{nobody}"), 404),
        ("/receipts/{host}/{seq}/bundle", format!("/receipts/{nobody}/0/bundle"), 404),
        ("/receipts/{host}/{seq}/bundle", "/receipts/x/0/bundle".to_owned(), 400),
        ("/findings", "/findings?limit=1001".to_owned(), 400),
        ("/audit", "/audit?cursor=x".to_owned(), 400),
    ] {
        let answer = lab.get(&path);
        assert_eq!(answer.status, status, "{path}");
        check_answer(document, "get", template, &answer);
    }
    let answer = lab.request("POST", "/commands", Some(&token(VIEWER)), b"{}");
    assert_eq!(answer.status, 403);
    check_answer(document, "post", "/commands", &answer);
    // Last, since they use up what this address may fail; 401 and 429 are both documented.
    for (template, path) in cases.iter().skip(2) {
        check_answer(document, "get", template, &lab.request("GET", path, None, &[]));
    }
}

#[test]
fn pages_stay_stable_while_findings_arrive() {
    let lab = Lab::start();
    let mut host = lab.host("acme", "web-1");
    let batch = |n: usize| {
        (0..n).map(|n| finding("file.created", Severity::Info, &format!("/{n}"))).collect::<Vec<_>>()
    };
    let first = batch(250);
    lab.seal(&mut host, &first);
    let (mut seen, mut path, mut live) = (Vec::new(), "/findings?limit=100".to_owned(), String::new());
    loop {
        let page = lab.get(&path).json();
        if live.is_empty() {
            live = page["live"].as_str().unwrap().to_owned();
        }
        seen.extend(
            page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()),
        );
        lab.seal(&mut host, &batch(30));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/findings?limit=100&cursor={next}");
    }
    let mut expected: Vec<String> = first.iter().map(|finding| finding.id.to_string()).collect();
    expected.reverse();
    assert_eq!(seen, expected);
    let missed = read_stream(&lab, &format!("/findings/stream?cursor={live}"), 90);
    let missed: BTreeSet<_> = missed.iter().map(|(_, finding)| finding["id"].to_string()).collect();
    assert_eq!(missed.len(), 90);
    assert!(seen.iter().all(|id| !missed.contains(&format!("\"{id}\""))));
}

#[test]
fn filters_choose() {
    let Seeded { lab, host, .. } = seeded();
    let rules = |query: &str| -> Vec<String> {
        let items = lab.get(&format!("/findings?{query}")).json()["items"].clone();
        items.as_array().unwrap().iter().map(|item| item["rule"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(rules("rule=login.*"), ["login.success", "login.failure"]);
    assert_eq!(rules("rule=login.failure"), ["login.failure"]);
    assert_eq!(rules("severity=medium"), ["collector.silent", "file.modified"]);
    assert_eq!(rules(&format!("host={}&severity=high", host.agent)), ["file.modified"]);
    assert_eq!(rules("tenant=globex"), Vec::<String>::new());
    assert_eq!(rules("until=2026-01-01T00:00:00Z"), Vec::<String>::new());
    assert_eq!(rules("since=2026-01-01T00:00:00Z&limit=1"), ["collector.silent"]);
    for bad in
        ["rule=log*", "severity=bad", "since=1h", "tenant=A", "host=x", "limit=0", "colour=red", "limit=-1"]
    {
        let answer = lab.get(&format!("/findings?{bad}"));
        let name = bad.split('=').next().unwrap();
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(answer.status == 400 && message.contains(name), "{bad}: {message}");
    }
    let by_name =
        |text: &str| lab.get(&format!("/hosts?match={text}")).json()["items"].as_array().unwrap().len();
    assert_eq!((by_name("web-1"), by_name("web"), by_name("zz")), (1, 0, 0));
    assert_eq!(by_name(&host.agent.to_string()[..30]), 1);
}

#[test]
fn only_known_operators_in_their_role() {
    let lab = Lab::start();
    let host = lab.host("acme", "web-1");
    lab.operator("late", Role::Admin, Some(Timestamp::from_seconds(1_000)));
    let status = |method: &str, path: &str, name: &str, body: &[u8]| {
        lab.request(method, path, Some(&token(name)), body).status
    };
    assert_eq!(status("GET", "/hosts", VIEWER, &[]), 200);
    assert_eq!(status("GET", "/audit", RESPONDER, &[]), 403);
    assert_eq!(status("GET", "/audit", ADMIN, &[]), 200);
    let envelope = signed(&command(&[&host], soon()));
    assert_eq!(status("POST", "/commands", VIEWER, &envelope), 403);
    assert_eq!(status("POST", "/commands", RESPONDER, &envelope), 201);
    assert_eq!(status("POST", "/trust", RESPONDER, &trust_root("acme", 1)), 403);
    let late = lab.request("GET", "/hosts", Some(&token("late")), &[]);
    assert!(late.status == 401 && late.json()["error"]["message"].as_str().unwrap().contains("expired"));
    assert!(late.head.to_lowercase().contains("www-authenticate: bearer"), "{}", late.head);
    assert_eq!(lab.request("GET", "/health", None, &[]).status, 200);
    lab.store.remove_operator(VIEWER).unwrap();
    assert_eq!(status("GET", "/hosts", VIEWER, &[]), 401);
    // No further than to the first refusal: who goes on is let in again after a while.
    assert!((0..30).any(|_| status("GET", "/hosts", "guess", &[]) == 429));
    // Whoever guesses from this address is slowed down, whatever is guessed.
    assert_eq!(status("GET", "/hosts", ADMIN, &[]), 429);
    assert_eq!(lab.request("GET", "/health", None, &[]).status, 200);
}

#[test]
fn commands_are_read_bounded_and_noted() {
    let lab = Lab::start();
    let (host, foreign) = (lab.host("acme", "web-1"), lab.host("globex", "db-1"));
    let post = |body: &[u8]| lab.request("POST", "/commands", Some(&token(RESPONDER)), body);
    let good = command(&[&host], soon());
    assert_eq!(post(&signed(&good)).status, 201);
    assert_eq!(post(&signed(&good)).json()["id"], good.id.to_string());
    let unsigned = Envelope::new(PAYLOAD_TYPE, &serde_json::to_vec(&good).unwrap());
    let other_type = Envelope::new("text/plain", b"x");
    let mut unknown = command(&[&host], soon());
    unknown.hosts = vec![AgentId(Uuid::now_v7())];
    let huge = vec![b' '; 700 * 1024];
    let cases: [(&str, Vec<u8>, u16); 9] = [
        ("nonsense", b"{".to_vec(), 400),
        ("empty", Vec::new(), 400),
        ("bomb", [vec![b'['; 100_000], b"1".to_vec()].concat(), 400),
        ("unsigned", serde_json::to_vec(&unsigned).unwrap(), 400),
        ("other type", serde_json::to_vec(&other_type).unwrap(), 400),
        ("huge", huge, 413),
        ("expired", signed(&command(&[&host], now())), 400),
        ("foreign host", signed(&command(&[&host, &foreign], soon())), 409),
        ("unknown host", signed(&unknown), 409),
    ];
    for (name, body, status) in cases {
        let answer = post(&body);
        assert_eq!(answer.status, status, "{name}: {}", String::from_utf8_lossy(&answer.body));
        assert!(!answer.code().is_empty(), "{name}");
    }
    let mut changed = good.clone();
    changed.reason = "another".to_owned();
    assert_eq!(post(&signed(&changed)).status, 409);
    let listed = lab.get("/commands").json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["posted_by"], RESPONDER);
    let audit = lab.get("/audit").json();
    let subjects: Vec<_> =
        audit["items"].as_array().unwrap().iter().map(|e| e["subject"].to_string()).collect();
    assert!(subjects.iter().any(|s| s.contains(&good.id.to_string())) && subjects.len() >= 4, "{subjects:?}");
}

#[test]
fn trust_roots_go_up_by_the_rules() {
    let lab = Lab::start();
    let post = |path: &str, body: &[u8]| lab.request("POST", path, Some(&token(ADMIN)), body).status;
    assert_eq!(post("/trust?tenant=globex", &trust_root("acme", 1)), 400);
    assert_eq!(post("/trust?tenant=acme", &trust_root("acme", 1)), 201);
    assert_eq!(post("/trust", &trust_root("acme", 1)), 409);
    assert_eq!(post("/trust", b"{}"), 400);
    assert_eq!(post("/trust", &trust_root("acme", 5)), 201);
    let list = lab.get("/trust?tenant=acme").json();
    assert_eq!(list["items"][0]["version"], 5);
    assert_eq!(lab.get("/trust?tenant=globex").json()["items"], serde_json::json!([]));
}

#[test]
fn bundles_verify_and_own_findings_have_none() {
    let Seeded { lab, host, finding, own, .. } = seeded();
    let bundle = Bundle::parse(&lab.get(&format!("/findings/{finding}/bundle")).body).unwrap();
    let witness = lab.get("/whoami").json()["witness"].as_str().unwrap().to_owned();
    let proven = bundle.verify(&host.key.public(), &VerifierKey::parse(&witness).unwrap()).unwrap();
    assert!(String::from_utf8(proven.record).unwrap().contains(&finding.to_string()));
    assert_eq!(lab.get(&format!("/findings/{own}/bundle")).status, 404);
}

/// Reads `count` findings from a live stream: cursor and data.
fn read_stream(lab: &Lab, path: &str, count: usize) -> Vec<(String, Value)> {
    let mut stream = open_stream(lab, path, None);
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while text.matches("event: finding").count() < count || !text.ends_with("\n\n\r\n") {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "{text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    let events = text.split("id: ").skip(1).filter(|event| event.contains("event: finding"));
    let event = |event: &str| {
        let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        (event.lines().next().unwrap().to_owned(), serde_json::from_str(data).unwrap())
    };
    events.map(event).collect()
}

fn open_stream(lab: &Lab, path: &str, last: Option<&str>) -> impl std::io::Read + use<> {
    let mut stream = lab.connect();
    let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
    let head = format!(
        "GET /api/v1{path} HTTP/1.1\r\nHost: x\r\n{last}Authorization: Bearer {}\r\n\r\n",
        token(VIEWER)
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[test]
fn the_stream_goes_on_behind_any_event() {
    let lab = Lab::start();
    let mut host = lab.host("acme", "web-1");
    let all: Vec<_> = (0..20).map(|n| finding("file.created", Severity::Info, &format!("/{n}"))).collect();
    let start = lab.get("/findings").json()["live"].as_str().unwrap().to_owned();
    lab.seal(&mut host, &all);
    let ids: Vec<String> = all.iter().map(|finding| finding.id.to_string()).collect();
    let whole = read_stream(&lab, &format!("/findings/stream?cursor={start}"), 20);
    assert_eq!(whole.iter().map(|(_, f)| f["id"].as_str().unwrap()).collect::<Vec<_>>(), ids);
    let rest = read_stream(&lab, &format!("/findings/stream?cursor={}", whole[12].0), 7);
    assert_eq!(rest.iter().map(|(_, f)| f["id"].as_str().unwrap()).collect::<Vec<_>>(), ids[13..]);
    assert_eq!(lab.get("/findings/stream?cursor=fAAAAAAAAA").status, 400);
    // A store that was restored from a backup is behind what its clients have seen.
    let restored = Lab::start();
    let ahead = restored.get(&format!("/findings/stream?cursor={}", whole[12].0));
    assert_eq!((ahead.status, ahead.code().as_str()), (410, "cursor-gone"));
}

/// What `promtool check metrics` asks for: each family's HELP and TYPE once and before its samples, which are numbers.
#[test]
fn figures_are_in_the_format_of_prometheus_and_for_operators_only() {
    let seeded = seeded();
    let lab = &seeded.lab;
    assert_eq!(lab.request("GET", "/metrics", None, b"").status, 401);
    let answer = lab.request("GET", "/metrics", Some(&token(VIEWER)), b"");
    assert_eq!(answer.status, 200);
    let kind = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(answer.head.to_lowercase().contains(kind), "{}", answer.head);
    let text = String::from_utf8(answer.body).unwrap();
    let (mut families, mut current) = (BTreeSet::new(), "");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            current = help.split(' ').next().unwrap();
            assert!(families.insert(current), "{current} twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let counts = if current.ends_with("_total") { "counter" } else { "gauge" };
            assert_eq!(kind, format!("{current} {counts}"));
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(name.split('{').next(), Some(current), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    for line in [
        "picket_collector_hosts{state=\"active\"} 2",
        "picket_collector_hosts{state=\"revoked\"} 0",
        "picket_collector_records 5",
        "picket_collector_agents_connected 0",
        // Its receipt `refused` was the last word.
        "picket_collector_commands_pending 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("web-1") && !text.contains("acme"), "{text}");
    let pending = command(&[&seeded.host], soon());
    assert_eq!(lab.request("POST", "/commands", Some(&token(RESPONDER)), &signed(&pending)).status, 201);
    let text = lab.request("GET", "/metrics", Some(&token(VIEWER)), b"").body;
    assert!(String::from_utf8(text).unwrap().contains("\npicket_collector_commands_pending 1\n"));
}
