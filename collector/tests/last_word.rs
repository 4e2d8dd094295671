//! What becomes of commands that contain hosts, up to the last word: the real `soc` and a collector's API, agents played
//! by the test.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod lab;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use lab::orders::{isolation, post, posted, receipt, signed, signed_by, soon, trust_root};
use lab::{ADMIN, Host, Lab, PATIENCE, RESPONDER, VIEWER, err, now, out, soc, soc_code, token, wait_for};
use picket_collector::store::Store as _;
use picket_protocol::command::{Action, Check, Command, Outcome, Receipt, ReceiptStep};
use picket_protocol::playbook::{Condition, Otherwise, Step, act_id};
use picket_protocol::time::Timestamp;
use serde_json::Value;
use uuid::Uuid;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A `soc` that goes on by itself, its JSON lines as they come.
struct Following {
    child: Child,
    lines: Receiver<Value>,
}

impl Drop for Following {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Following {
    fn start(config: &Path, args: &[&str]) -> Self {
        let args = [args, &["--json"]].concat();
        let mut child =
            soc(Some(config), &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, receiver) = sync_channel(10_000);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                drop(sender.send(serde_json::from_str(&line).unwrap()));
            }
        });
        Self { child, lines: receiver }
    }

    /// The next line's outcome.
    fn outcome(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE).unwrap();
        line["outcome"].as_str().unwrap_or_default().to_owned()
    }

    fn code(&mut self) -> i32 {
        wait_for("the end", || self.child.try_wait().unwrap()).code().unwrap()
    }

    fn goes_on(&mut self) {
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(self.child.try_wait().unwrap(), None, "it ended before the last word");
    }
}

#[test]
fn waiting_ends_with_the_last_word_of_every_host() {
    let lab = Lab::start();
    let (mut one, mut two) = (lab.host("acme", "web-1"), lab.host("acme", "web-2"));
    let config = lab.soc_config(RESPONDER);
    for (last, code) in [
        (Outcome::Confirmed, 0),
        (Outcome::Reverted, 1),
        (Outcome::Failed, 1),
        (Outcome::Refused, 1),
        (Outcome::Released, 0),
    ] {
        let command = isolation(&[&one, &two], soon());
        let file = lab.path("isolate.json");
        std::fs::write(&file, signed(&command)).unwrap();
        let mut waiting = Following::start(&config, &["send", text(&file), "--wait"]);
        assert_eq!(waiting.lines.recv_timeout(PATIENCE).unwrap()["hosts"], 2);
        lab.seal_receipt(&mut one, &receipt(command.id, Outcome::Received));
        assert_eq!(waiting.outcome(), "received");
        lab.seal_receipt(&mut one, &receipt(command.id, Outcome::Applied));
        lab.seal_receipt(&mut two, &receipt(command.id, last));
        assert_eq!((waiting.outcome(), waiting.outcome()), ("applied".into(), last.as_str().into()));
        waiting.goes_on();
        lab.seal_receipt(&mut one, &receipt(command.id, Outcome::Confirmed));
        assert_eq!((waiting.outcome(), waiting.code()), ("confirmed".into(), code), "{last:?}");
    }
}

#[test]
fn waiting_has_an_end_and_expiry_is_one() {
    let mut lab = Lab::start();
    let mut host = lab.host("acme", "web-1");
    let config = lab.soc_config(VIEWER);
    let command = posted(&lab, &[&host]);
    let id = command.id.to_string();
    lab.seal_receipt(&mut host, &receipt(command.id, Outcome::Applied));
    let late = soc_code(Some(&config), &["watch", &id, "--timeout", "1s"], 2);
    assert!(out(&late).contains("applied") && err(&late).contains("1 hosts have not said"), "{}", err(&late));
    let brief = isolation(&[&host], now().plus(Duration::from_secs(5)));
    assert_eq!(post(&lab, &brief).status, 201);
    soc_code(Some(&config), &["watch", &brief.id.to_string()], 1);
    soc_code(Some(&config), &["watch", &Uuid::now_v7().to_string()], 1);
    let other = lab.host("acme", "web-2");
    soc_code(Some(&config), &["watch", &id, "--host", &other.agent.to_string()], 3);
    // The collector goes away and comes back meanwhile.
    let mut watching = Following::start(&config, &["watch", &id]);
    assert_eq!(watching.outcome(), "applied");
    lab.stop();
    lab.seal_receipt(&mut host, &receipt(command.id, Outcome::Confirmed));
    lab.listen();
    assert_eq!((watching.outcome(), watching.code()), ("confirmed".into(), 0));
    let over = out(&soc_code(Some(&config), &["watch", &id], 0));
    assert_eq!(over.lines().count(), 2, "{over}");
}

#[test]
fn watching_shows_receipts_of_all_hosts_each_once() {
    let mut lab = Lab::start();
    let (mut one, mut two) = (lab.host("acme", "web-1"), lab.host("globex", "db-1"));
    let config = lab.soc_config(VIEWER);
    let (first, second) = (posted(&lab, &[&one]).id, posted(&lab, &[&two]).id);
    for outcome in [Outcome::Received, Outcome::Applied] {
        lab.seal_receipt(&mut one, &receipt(first, outcome));
    }
    let mut all = Following::start(&config, &["watch", "--limit", "1"]);
    let globex = Following::start(&config, &["watch", "--tenant", "globex"]);
    assert_eq!(all.outcome(), "applied");
    lab.seal_receipt(&mut two, &receipt(second, Outcome::Refused));
    assert_eq!((all.outcome(), globex.outcome()), ("refused".into(), "refused".into()));
    lab.stop();
    for _ in 0..5 {
        lab.seal_receipt(&mut two, &receipt(second, Outcome::Released));
    }
    lab.listen();
    lab.seal_receipt(&mut one, &receipt(first, Outcome::Confirmed));
    let rest: Vec<String> = (0..6).map(|_| all.outcome()).collect();
    assert_eq!(rest.join(" "), "released released released released released confirmed");
    assert!(all.lines.recv_timeout(Duration::from_millis(400)).is_err(), "nothing comes twice");
    assert_eq!(all.child.try_wait().unwrap(), None, "until it is interrupted");
    assert_eq!((0..5).map(|_| globex.outcome()).filter(|outcome| outcome == "released").count(), 5);
}

#[test]
fn an_interim_receipt_is_an_answer_and_not_the_last_word() {
    let lab = Lab::start();
    let (mut one, mut two, away) =
        (lab.host("acme", "web-1"), lab.host("acme", "web-2"), lab.host("acme", "web-3"));
    let config = lab.soc_config(VIEWER);
    let pending = |args: &[&str]| out(&soc_code(Some(&config), &[&["pending"], args].concat(), 0));
    assert!(pending(&[]).contains("Nothing is pending"));
    let command = posted(&lab, &[&one, &two, &away]);
    let waits = |host: &Host| lab.store.waiting_commands(host.agent, now(), true).unwrap().len();
    lab.store.command_sent(two.agent, command.id, now()).unwrap();
    assert_eq!((waits(&one), waits(&two)), (1, 1));
    for outcome in [Outcome::Received, Outcome::Applied] {
        lab.seal_receipt(&mut one, &receipt(command.id, outcome));
        assert_eq!(waits(&one), 0, "the agent has it durably: it is not sent again");
    }
    let table = pending(&["--tenant", "acme"]);
    for part in
        ["isolate", "0 of 3", "9m", "1 not connected since, 1 sent, no answer, 1 at it, not confirmed"]
    {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
    assert!(pending(&["--tenant", "globex"]).contains("Nothing"));
    let line: Value = serde_json::from_str(&pending(&["--json"])).unwrap();
    let counts = ["hosts", "answered", "settled", "in_flight"].map(|name| line[name].as_u64().unwrap());
    assert_eq!(counts, [3, 1, 0, 1]);
    let id = command.id.to_string();
    let shown = out(&soc_code(Some(&config), &["command", "show", &id], 0));
    assert!(shown.contains("applied, the last word is still to come"), "{shown}");
    let repeated = Receipt { check: Some(Check::Replay), ..receipt(command.id, Outcome::Refused) };
    lab.seal_receipt(&mut one, &repeated);
    let interim = |n: usize| lab.get(&format!("/commands/{id}")).json()["deliveries"][n]["interim"].clone();
    assert_eq!(interim(0), true, "a refused repetition says nothing about the first");
    lab.seal_receipt(&mut one, &receipt(command.id, Outcome::Confirmed));
    lab.seal_receipt(&mut two, &receipt(command.id, Outcome::Reverted));
    assert_eq!((interim(0), interim(1)), (false.into(), false.into()));
    assert!(pending(&[]).contains("2 of 3") && pending(&[]).contains("1 not connected since"));
    lab.store.revoke(away.agent, "sold", now()).unwrap();
    let listed = out(&soc_code(Some(&config), &["command", "list"], 0));
    assert!(listed.contains("2 of 3"), "{listed}");
}

#[test]
fn a_host_that_is_gone_for_good_is_not_waited_for() {
    let lab = Lab::start();
    let mut host = lab.host("acme", "web-1");
    let command = posted(&lab, &[&host]);
    lab.seal_receipt(&mut host, &receipt(command.id, Outcome::Applied));
    let open = || lab.get("/commands?open=true").json()["items"].as_array().unwrap().len();
    assert_eq!(open(), 1);
    lab.store.revoke(host.agent, "sold", now()).unwrap();
    assert_eq!((open(), lab.get("/commands?open=false").json()["items"].as_array().unwrap().len()), (0, 1));
    assert_eq!(lab.get("/commands?open=perhaps").status, 400);
}

#[test]
fn receipts_can_be_followed_behind_any_place() {
    let lab = Lab::start();
    let (mut one, mut two) = (lab.host("acme", "web-1"), lab.host("globex", "db-1"));
    let id = Uuid::now_v7();
    let empty = lab.get("/receipts").json()["live"].as_str().unwrap().to_owned();
    for _ in 0..7 {
        lab.seal_receipt(&mut one, &receipt(id, Outcome::Applied));
        lab.seal_receipt(&mut two, &receipt(id, Outcome::Refused));
    }
    let (mut place, mut seen) = (empty.clone(), Vec::new());
    loop {
        let page = lab.get(&format!("/receipts?limit=3&tenant=acme&after={place}")).json();
        assert!(page.get("next").is_none());
        let items = page["items"].as_array().unwrap();
        page["live"].as_str().unwrap().clone_into(&mut place);
        if items.is_empty() {
            break;
        }
        seen.extend(items.iter().map(|item| item["seq"].as_u64().unwrap()));
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
    lab.seal_receipt(&mut two, &receipt(id, Outcome::Refused));
    assert_eq!(lab.get(&format!("/receipts?after={place}")).json()["items"].as_array().unwrap().len(), 1);
    let newest = lab.get("/receipts?limit=2").json();
    let (next, live) = (newest["next"].as_str().unwrap(), newest["live"].as_str().unwrap());
    assert_eq!(lab.get(&format!("/receipts?after={live}")).json()["items"], serde_json::json!([]));
    assert_eq!(lab.get(&format!("/receipts?after={live}&cursor={next}")).status, 400);
    assert_eq!(lab.get("/receipts?after=x").status, 400);
    let restored = Lab::start();
    let ahead = restored.get(&format!("/receipts?after={live}"));
    assert_eq!((ahead.status, ahead.code().as_str()), (410, "cursor-gone"));
}

/// What the collector's clock is ahead by, in seconds.
static AHEAD: AtomicI64 = AtomicI64::new(0);

fn clock() -> Timestamp {
    let ahead = u64::try_from(AHEAD.load(Ordering::Relaxed)).unwrap();
    now().plus(Duration::from_secs(ahead))
}

#[test]
fn a_tenant_is_contained_no_faster_than_its_bound_over_restarts_as_well() {
    let mut lab = Lab::start_with(3, clock);
    let hosts: Vec<Host> = (1..=6).map(|n| lab.host("acme", &format!("web-{n}"))).collect();
    let other = lab.host("globex", "db-1");
    let end = now().plus(Duration::from_secs(86_400));
    let send = |lab: &Lab, numbers: &[usize]| {
        let named: Vec<&Host> = numbers.iter().map(|n| &hosts[*n]).collect();
        post(lab, &isolation(&named, end))
    };
    let first = isolation(&[&hosts[0], &hosts[1]], end);
    assert_eq!(post(&lab, &first).status, 201);
    assert_eq!(post(&lab, &first).status, 201, "the same envelope is the same command");
    AHEAD.store(1_000, Ordering::Relaxed);
    assert_eq!(send(&lab, &[2]).status, 201);
    assert_eq!(send(&lab, &[0, 2]).status, 201, "a host that is contained again counts once");
    lab.reopen(3);
    let refused = send(&lab, &[3]);
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!((refused.status, refused.code().as_str()), (429, "too-many"));
    for part in ["3 hosts of tenant acme", "names 1 more", "at most 3 an hour", "There is room for it at 20"]
    {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let head = refused.head.to_lowercase();
    let wait =
        head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap().parse::<u64>().unwrap();
    // web-2 leaves the window first: it was named once, at the beginning.
    assert!((2_500..=2_602).contains(&wait), "{wait}");
    let too_large = send(&lab, &[0, 1, 2, 3]);
    assert_eq!((too_large.status, too_large.code().as_str()), (409, "conflict"));
    assert_eq!(post(&lab, &isolation(&[&other], end)).status, 201, "tenants have bounds of their own");
    let advice =
        Command { action: Action::Advise { message: "patch".into() }, ..isolation(&[&hosts[3]], end) };
    assert_eq!(post(&lab, &advice).status, 201, "what contains nobody is not counted");
    let config = lab.soc_config(RESPONDER);
    let file = lab.path("more.json");
    std::fs::write(&file, signed(&isolation(&[&hosts[3]], end))).unwrap();
    let told = soc_code(Some(&config), &["send", text(&file)], 1);
    assert!(err(&told).contains("at most 3 an hour") && err(&told).contains("429"), "{}", err(&told));
    AHEAD.store(1_000 + i64::try_from(wait).unwrap(), Ordering::Relaxed);
    assert_eq!(send(&lab, &[3]).status, 201, "there is room when it was said");
    assert_eq!(send(&lab, &[4]).status, 429);
    lab.reopen(4);
    assert_eq!(send(&lab, &[4]).status, 201, "the bound is the configuration's");
}

#[test]
fn a_token_without_a_key_cannot_use_the_bound_up() {
    let lab = Lab::start_with(1, now);
    let hosts: Vec<Host> = (1..=3).map(|n| lab.host("acme", &format!("web-{n}"))).collect();
    assert_eq!(lab.request("POST", "/trust", Some(&token(ADMIN)), &trust_root(&hosts[0].tenant)).status, 201);
    let stranger = |host: &Host| {
        let body = signed_by(8, &isolation(&[host], soon()));
        lab.request("POST", "/commands", Some(&token(RESPONDER)), &body).status
    };
    assert_eq!((stranger(&hosts[1]), stranger(&hosts[2])), (201, 201), "agents say what is wrong with them");
    assert_eq!(post(&lab, &isolation(&[&hosts[0]], soon())).status, 201);
    assert_eq!(post(&lab, &isolation(&[&hosts[1]], soon())).status, 429);
    assert_eq!(stranger(&hosts[1]), 201);
}

#[test]
fn what_is_said_of_a_step_is_no_last_word_and_takes_none_back() {
    let lab = Lab::start();
    let mut host = lab.host("acme", "web-1");
    let config = lab.soc_config(RESPONDER);
    let when = Condition::Always {};
    let step = Step {
        name: "contain".to_owned(),
        action: Action::Isolate {},
        lease: 60,
        when,
        timeout: 60,
        otherwise: Otherwise::Stop,
    };
    let action = Action::Playbook { name: "test".to_owned(), steps: vec![step] };
    let command = Command { action, lease: 0, ..isolation(&[&host], soon()) };
    let file = lab.path("playbook.json");
    std::fs::write(&file, signed(&command)).unwrap();
    let mut waiting = Following::start(&config, &["send", text(&file), "--wait"]);
    assert_eq!(waiting.lines.recv_timeout(PATIENCE).unwrap()["hosts"], 1);
    let act = act_id(command.id, 1);
    let of_step = |outcome| Receipt {
        step: Some(ReceiptStep { number: 1, of: 1, name: "contain".to_owned(), act }),
        ..receipt(command.id, outcome)
    };
    for outcome in [Outcome::Applied, Outcome::Confirmed] {
        lab.seal_receipt(&mut host, &of_step(outcome));
        assert_eq!(waiting.outcome(), outcome.as_str());
        waiting.goes_on();
    }
    lab.seal_receipt(&mut host, &receipt(command.id, Outcome::Confirmed));
    assert_eq!((waiting.outcome(), waiting.code()), ("confirmed".into(), 0));
    lab.seal_receipt(&mut host, &of_step(Outcome::Expired));
    let shown = lab.get(&format!("/commands/{}", command.id)).json();
    let delivery = &shown["deliveries"][0];
    assert_eq!(
        (&delivery["outcome"], &delivery["interim"]),
        (&"confirmed".into(), &false.into()),
        "{delivery}"
    );
}
