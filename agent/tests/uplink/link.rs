//! The link against honest, broken and hostile collectors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use picket_agent::uplink::LinkState;
use picket_protocol::checkpoint::Checkpoint;
use picket_protocol::dsse::ENVELOPE_BYTES_MAX;
use picket_protocol::frame::{Frame, FrameType};
use picket_protocol::message::{Ack, Batch, Bye, Leaf, Welcome};
use picket_protocol::note::Note;
use picket_protocol::record::Kind;
use picket_protocol::time::Timestamp;

use super::collector::{Ca, Collector};
use super::host::{Host, NO_ROOM, Running, wait_for};

/// A collector that does `first` on the first connection and is honest on the next ones.
fn after(
    first: impl FnMut(&mut super::collector::Connection, &super::collector::Shared) + Send + 'static,
) -> (Collector, Host, Running) {
    let collector = Collector::start();
    let host = Host::of(&collector);
    let key = host.key;
    collector.on_connection(first);
    collector.on_connection(move |connection, shared| shared.honest(connection, key));
    let running = host.start(&collector);
    (collector, host, running)
}

fn welcome(size: u64, checkpoint: String) -> Welcome {
    Welcome { size, checkpoint, time: Timestamp::default(), evidence: false }
}

#[test]
fn records_arrive_are_cosigned_and_forgotten_by_nobody() {
    let collector = Collector::start();
    let host = Host::of(&collector);
    let key = host.key;
    collector.on_connection(move |connection, shared| shared.honest(connection, key));
    let running = host.start(&collector);
    running.seal(3);
    running.wait_acknowledged();
    running.seal(2_500);
    running.wait_acknowledged();
    let held = collector.shared.held.lock().unwrap();
    assert_eq!(held.leaves.len() as u64, running.ledger.heads().head().size);
    assert_eq!(held.frontier.root(), running.ledger.reader().unwrap().root(held.frontier.size()).unwrap());
    // The report follows the ledger.
    let size = held.frontier.size();
    let report = wait_for("the report", || {
        let report = running.report();
        (report.acknowledged == size).then_some(report)
    });
    assert_eq!(report.state, LinkState::Connected);
    assert!(report.connected_since.is_some() && report.last_ack.is_some());
    assert!(report.sandbox.contains("seccomp allow-list"), "{}", report.sandbox);
    assert_eq!(held.hellos[0].facts["os"], "test");
}

#[test]
fn a_new_record_leaves_at_once() {
    let (collector, _host, running) = after(|_, _| ());
    running.seal(1);
    running.wait_acknowledged();
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let size = collector.shared.size();
        running.seal(1);
        // How long the disk takes to seal is not what is asked here.
        let sealed = Instant::now();
        wait_for("the record", || (collector.shared.size() > size).then_some(()));
        best = best.min(sealed.elapsed());
        running.wait_acknowledged();
    }
    assert!(best < Duration::from_millis(300), "from sealing to the collector took {best:?} at best");
}

#[test]
fn a_killed_collector_is_resumed_where_it_stood() {
    let collector = Collector::start();
    let host = Host::of(&collector);
    let key = host.key;
    // Takes three batches, acknowledges two of them, and dies; four times.
    for _ in 0..4 {
        collector.on_connection(move |connection, shared| {
            let Some(hello) = shared.greet(connection) else { return };
            shared.serve(connection, &hello, key, 2);
            if let Some(frame) = connection.frame().filter(|frame| frame.frame_type == FrameType::Batch) {
                shared.take(&frame.body, &hello.agent.origin(), key);
            }
        });
    }
    collector.on_connection(move |connection, shared| shared.honest(connection, key));
    let running = host.start(&collector);
    for _ in 0..20 {
        running.seal(600);
    }
    running.wait_acknowledged();
    let held = collector.shared.held.lock().unwrap();
    assert!(held.hellos.len() >= 5, "{} connections", held.hellos.len());
    assert_eq!(held.leaves.len(), 12_000);
    assert!(held.resumed.iter().any(|resumed| *resumed), "later connections use a ticket");
}

#[test]
fn an_uplink_that_is_killed_is_started_again() {
    let (collector, _host, running) = after(|_, _| ());
    running.seal(10);
    running.wait_acknowledged();
    let pid = running.report().pid.expect("a process");
    let process = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    running.seal(10);
    running.wait_acknowledged();
    assert_ne!(running.report().pid, Some(pid));
    assert_eq!(collector.shared.size(), 20);
    assert!(running.counter("restarts") >= 1);
}

#[test]
fn a_server_by_another_ca_is_refused() {
    let foreign = Ca::new("somebody else");
    let collector = Collector::with_server_ca(Some(&foreign));
    let host = Host::of(&collector);
    let running = host.start(&collector);
    running.seal(1);
    running.wait_error("not from the collector's CA");
    assert_eq!(collector.shared.held.lock().unwrap().hellos.len(), 0, "nothing was said");
}

#[test]
fn a_server_of_another_name_is_refused() {
    let collector = Collector::start();
    let host = Host::of(&collector);
    let running = host.start_with(&collector, &format!("127.0.0.2:{}", collector.address.port()), None);
    // Linux answers on all of 127/8 only when bound to it; either way there is no greeting.
    wait_for("an error", || running.report().last_error);
    assert_eq!(collector.shared.held.lock().unwrap().hellos.len(), 0);
}

#[test]
fn a_client_certificate_by_another_ca_is_refused_by_the_server_and_explained() {
    let collector = Collector::start();
    let foreign = Ca::new("somebody else");
    let hour = Duration::from_secs(3_600);
    let host = Host::with_certificate(&foreign, &collector.shared.ca, Duration::ZERO, hour);
    collector.on_connection(|connection, _| connection.until_closed());
    let running = host.start(&collector);
    running.wait_error("the collector refused the connection");
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    // Accepts by the kernel's queue and never reads.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let collector = Collector::start();
    let host = Host::of(&collector);
    let running = host.start_with(&collector, &silent.local_addr().unwrap().to_string(), None);
    running.wait_error("the TLS handshake took too long");
}

#[test]
fn a_server_without_tls_is_told_as_such() {
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = plain.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in plain.incoming().flatten() {
            use std::io::{Read as _, Write as _};
            let _hello = stream.read(&mut [0; 1024]);
            let _sent = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let collector = Collector::start();
    let host = Host::of(&collector);
    let running = host.start_with(&collector, &address, None);
    running.wait_error("does not speak TLS");
}

#[test]
fn an_oversize_frame_ends_the_connection() {
    let (collector, _host, running) = after(|connection, shared| {
        shared.greet(connection);
        connection.raw(&[0x7f, 0xff, 0xff, 0xff, FrameType::Command as u8]);
        connection.until_closed();
    });
    running.wait_error("allowed");
    running.seal(2);
    running.wait_acknowledged();
    assert_eq!(collector.shared.size(), 2);
}

#[test]
fn a_command_above_the_bound_ends_the_connection() {
    let (_collector, _host, running) = after(|connection, shared| {
        shared.greet(connection);
        let length = u32::try_from(ENVELOPE_BYTES_MAX + 2).unwrap().to_be_bytes();
        connection.raw(&[&length[..], &[FrameType::Command as u8]].concat());
        connection.until_closed();
    });
    running.wait_error("allowed");
    assert!(running.received.commands.lock().unwrap().is_empty());
}

#[test]
fn a_torn_frame_is_not_taken() {
    let (_collector, _host, running) = after(|connection, shared| {
        shared.greet(connection);
        let frame = Frame::new(FrameType::Command, vec![b'x'; 1_000]).unwrap().to_bytes();
        connection.raw(&frame[..500]);
    });
    running.wait_error("into a frame");
    assert!(running.received.commands.lock().unwrap().is_empty());
}

#[test]
fn frames_that_only_agents_send_and_garbage_are_refused() {
    for bytes in [
        Frame::new(FrameType::Batch, vec![1, 2, 3]).unwrap().to_bytes(),
        Frame::new(FrameType::Enrolled, b"{}".to_vec()).unwrap().to_bytes(),
        vec![0, 0, 0, 2, 99, 0],
        vec![0, 0, 0, 0, 0],
    ] {
        let (_collector, _host, running) = after(move |connection, _| {
            connection.raw(&bytes);
            connection.until_closed();
        });
        running.wait_error("the collector broke the protocol");
        running.seal(1);
        running.wait_acknowledged();
    }
}

#[test]
fn commands_and_trust_roots_arrive_as_they_were_sent() {
    let (_collector, _host, running) = after(|connection, shared| {
        shared.greet(connection);
        connection.raw(&Frame::new(FrameType::Command, b"a command".to_vec()).unwrap().to_bytes());
        connection.raw(&Frame::new(FrameType::Trust, b"a trust root".to_vec()).unwrap().to_bytes());
        connection.until_closed();
    });
    wait_for("the trust root", || (!running.received.trust.lock().unwrap().is_empty()).then_some(()));
    assert_eq!(*running.received.commands.lock().unwrap(), [b"a command".to_vec()]);
    assert_eq!(*running.received.trust.lock().unwrap(), [b"a trust root".to_vec()]);
}

#[test]
fn what_there_is_no_room_for_is_asked_for_again_by_a_new_connection() {
    let (_collector, _host, running) = after(|connection, shared| {
        shared.greet(connection);
        connection.raw(&Frame::new(FrameType::Command, NO_ROOM.to_vec()).unwrap().to_bytes());
        connection.raw(&Frame::new(FrameType::Command, b"behind it".to_vec()).unwrap().to_bytes());
        connection.until_closed();
    });
    running.wait_error("they are asked for again");
    running.seal(1);
    running.wait_acknowledged();
    assert!(running.received.commands.lock().unwrap().is_empty(), "nothing overtakes it");
}

#[test]
fn a_command_before_the_welcome_is_refused() {
    let (_collector, _host, running) = after(|connection, _| {
        connection.raw(&Frame::new(FrameType::Command, b"early".to_vec()).unwrap().to_bytes());
        connection.until_closed();
    });
    running.wait_error("out of turn");
    assert!(running.received.commands.lock().unwrap().is_empty());
}

#[test]
fn a_flood_of_commands_ends_the_connection() {
    let (_collector, _host, running) = after(|connection, shared| {
        shared.greet(connection);
        let frame = Frame::new(FrameType::Command, vec![b'x'; 10]).unwrap().to_bytes();
        for _ in 0..5_000 {
            if !connection.raw(&frame) {
                break;
            }
        }
        connection.until_closed();
    });
    running.wait_error("too many command frames");
    let count = running.received.commands.lock().unwrap().len();
    // Some more come while a slow machine reads them, and by far not all of them.
    assert!((100..1_000).contains(&count), "{count} commands came through");
    running.seal(1);
    running.wait_acknowledged();
}

#[test]
fn a_certificate_nobody_asked_for_is_refused() {
    let (_collector, _host, running) = after(|connection, shared| {
        shared.greet(connection);
        let renewed = picket_protocol::message::Renewed { certificate: String::new() };
        connection.send(FrameType::Renewed, &renewed);
        connection.until_closed();
    });
    running.wait_error("not asked for");
}

#[test]
fn goodbye_is_heard_and_its_pause_is_kept() {
    let collector = Collector::start();
    let host = Host::of(&collector);
    let times = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = times.clone();
    collector.on_connection(move |connection, shared| {
        seen.lock().unwrap().push(Instant::now());
        shared.greet(connection);
        let bye = Bye { reason: "shutting-down".into(), detail: "back soon".into(), retry_after: 2 };
        connection.send(FrameType::Bye, &bye);
        connection.until_closed();
    });
    let running = host.start(&collector);
    running.wait_error("back soon");
    wait_for("a second connection", || (times.lock().unwrap().len() > 1).then_some(()));
    let times = times.lock().unwrap();
    assert!(times[1] - times[0] >= Duration::from_secs(2), "came back after {:?}", times[1] - times[0]);
}

/// Takes the first batch and answers with the note that `forge` makes of the cosigned one.
fn forged_ack(
    host_of: &Collector,
    forge: impl Fn(&str, &super::collector::Shared) -> String + Send + 'static,
) -> (Host, Running) {
    let host = Host::of(host_of);
    let key = host.key;
    host_of.on_connection(move |connection, shared| {
        let Some(hello) = shared.greet(connection) else { return };
        let Some(frame) = connection.frame() else { return };
        let cosigned = shared.take(&frame.body, &hello.agent.origin(), key);
        connection.send(FrameType::Ack, &Ack { checkpoint: forge(&cosigned, shared) });
        connection.until_closed();
    });
    host_of.on_connection(move |connection, shared| shared.honest(connection, key));
    let running = host.start(host_of);
    running.seal(5);
    (host, running)
}

/// The witness's cosignature on `checkpoint`, as a note without any other signature.
fn witnessed(checkpoint: &Checkpoint, shared: &super::collector::Shared) -> String {
    let seconds = 1_800_000_000u64;
    let text = checkpoint.to_text();
    let message = format!("cosignature/v1\ntime {seconds}\n{text}");
    let mut bytes = seconds.to_be_bytes().to_vec();
    bytes.extend_from_slice(&shared.witness.sign(message.as_bytes()));
    let mut note = Note::new(text).unwrap();
    note.add_signature(&shared.witness_key(), bytes);
    note.to_string()
}

fn open(note: &str) -> Checkpoint {
    Checkpoint::parse(Note::parse(note.as_bytes()).unwrap().text()).unwrap()
}

#[test]
fn an_ack_with_another_root_is_a_fork() {
    let collector = Collector::start();
    let (_host, running) = forged_ack(&collector, |cosigned, shared| {
        let mut checkpoint = open(cosigned);
        checkpoint.root = [9; 32];
        witnessed(&checkpoint, shared)
    });
    running.wait_error("another history");
    let findings = wait_for("the finding", || Some(running.records(Kind::Finding)).filter(|f| !f.is_empty()));
    assert!(findings[0].contains("ledger.fork") && findings[0].contains("critical"), "{}", findings[0]);
    // Once the collector shows our history again, the link goes on.
    running.wait_acknowledged();
    wait_for("the report", || (running.report().state == LinkState::Connected).then_some(()));
}

#[test]
fn an_ack_that_the_witness_did_not_sign_is_refused() {
    let collector = Collector::start();
    let (_host, running) = forged_ack(&collector, |cosigned, _| {
        let mut note = Note::parse(cosigned.as_bytes()).unwrap();
        let key = picket_protocol::crypto::SigningKey::from_seed([1; 32]);
        note = Note::new(note.text().to_owned()).unwrap();
        note.sign("collector.test", &key).unwrap();
        note.to_string()
    });
    running.wait_error("not cosigned by its witness");
    assert!(running.records(Kind::Finding).is_empty(), "no fork without the witness's word");
}

#[test]
fn an_ack_for_more_than_was_sent_is_refused() {
    let collector = Collector::start();
    let (_host, running) = forged_ack(&collector, |cosigned, shared| {
        let mut checkpoint = open(cosigned);
        checkpoint.size += 1_000;
        witnessed(&checkpoint, shared)
    });
    running.wait_error("were not sent");
}

#[test]
fn a_replayed_ack_is_counted_and_changes_nothing() {
    let (collector, _host, running) = {
        let collector = Collector::start();
        let host = Host::of(&collector);
        let key = host.key;
        collector.on_connection(move |connection, shared| {
            let Some(hello) = shared.greet(connection) else { return };
            let mut first = None;
            while let Some(frame) = connection.frame() {
                let cosigned = shared.take(&frame.body, &hello.agent.origin(), key);
                let replay = first.get_or_insert_with(|| cosigned.clone()).clone();
                connection.send(FrameType::Ack, &Ack { checkpoint: cosigned });
                connection.send(FrameType::Ack, &Ack { checkpoint: replay });
            }
        });
        let running = host.start(&collector);
        (collector, host, running)
    };
    for _ in 0..3 {
        running.seal(4);
        running.wait_acknowledged();
    }
    wait_for("the count", || (running.counter("stale-acks") >= 3).then_some(()));
    // The report follows the ledger by a moment.
    wait_for("the report", || (running.report().acknowledged == collector.shared.size()).then_some(()));
    assert_eq!(running.counter("connections"), 1);
}

#[test]
fn a_welcome_with_another_root_is_a_fork_and_no_record_is_sent() {
    let collector = Collector::start();
    let host = Host::of(&collector);
    let agent = host.agent;
    let proofs = Arc::new(AtomicU32::new(0));
    let proved = proofs.clone();
    collector.on_connection(move |connection, shared| {
        let Some(_hello) = connection.frame() else { return };
        let checkpoint = Checkpoint::new(agent.origin(), 3, [9; 32], Timestamp::from_seconds(1));
        connection.send(FrameType::Welcome, &welcome(3, witnessed(&checkpoint, shared)));
        // The last one may be stopped before it has sent it.
        let Some(proof) = connection.frame() else { return };
        let proof = Batch::from_body(&proof.body).expect("a batch");
        let is_hash = |leaf: &Leaf| matches!(leaf, Leaf::Forgotten(_));
        assert!(proof.from == 3 && proof.leaves.iter().all(is_hash), "no record goes there: {proof:?}");
        proved.fetch_add(1, Ordering::SeqCst);
        let bye = Bye { reason: "fork".to_owned(), detail: String::new(), retry_after: 0 };
        connection.send(FrameType::Bye, &bye);
        assert_eq!(connection.frame().map(|frame| frame.frame_type), None, "nor anything else");
    });
    let running = host.start(&collector);
    running.seal(10);
    running.wait_error("another history");
    // The state is told a moment after the reason.
    wait_for("the state", || (running.report().state == LinkState::Forked).then_some(()));
    // The same fork at each further connection is reported once.
    wait_for("more proofs", || (proofs.load(Ordering::SeqCst) >= 3).then_some(()));
    assert_eq!(running.records(Kind::Finding).len(), 1);
}

#[test]
fn a_collector_that_holds_more_than_we_do_is_a_fork() {
    let collector = Collector::start();
    let host = Host::of(&collector);
    let agent = host.agent;
    collector.on_connection(move |connection, shared| {
        let Some(_hello) = connection.frame() else { return };
        let checkpoint = Checkpoint::new(agent.origin(), 1_000, [9; 32], Timestamp::from_seconds(1));
        connection.send(FrameType::Welcome, &welcome(1_000, witnessed(&checkpoint, shared)));
        connection.until_closed();
    });
    let running = host.start(&collector);
    running.seal(1);
    running.wait_error("more than there are here");
    let findings = wait_for("the finding", || Some(running.records(Kind::Finding)).filter(|f| !f.is_empty()));
    assert!(findings[0].contains("older state"), "{}", findings[0]);
}

#[test]
fn a_restored_collector_is_served_from_retention_and_it_is_recorded() {
    let collector = Collector::start();
    let host = Host::of(&collector);
    let key = host.key;
    collector.on_connection(move |connection, shared| {
        let Some(hello) = shared.greet(connection) else { return };
        shared.serve(connection, &hello, key, 6);
        // Back to what it was after the second batch.
        let mut held = shared.held.lock().unwrap();
        held.marks.truncate(2);
        let (frontier, leaves, cosigned) = held.marks[1].clone();
        held.leaves.truncate(leaves);
        (held.frontier, held.cosigned) = (frontier, cosigned);
    });
    collector.on_connection(move |connection, shared| shared.honest(connection, key));
    let running = host.start(&collector);
    for _ in 0..6 {
        running.seal(3);
        wait_for("the batch", || {
            let head = running.ledger.heads().head();
            (head.acknowledged == head.size || running.counter("connections") > 1).then_some(())
        });
    }
    // Not the ledger's size of now: the record of the restore may be in it already.
    let sealed = 6 * 3;
    wait_for("the restored collector to have it all", || (collector.shared.size() > sealed).then_some(()));
    let records = running.records(Kind::Lifecycle);
    let restored: Vec<_> = records.iter().filter(|record| record.contains("collector-restored")).collect();
    assert_eq!(restored.len(), 1, "{records:?}");
    running.wait_acknowledged();
    let reader = running.ledger.reader().unwrap();
    let held = collector.shared.held.lock().unwrap();
    assert_eq!(held.frontier.root(), reader.root(held.frontier.size()).unwrap());
}

#[test]
fn a_certificate_is_renewed_on_the_live_connection() {
    let collector = Collector::start();
    let ca = &collector.shared.ca;
    // Two thirds of its life are over in a second.
    let host = Host::with_certificate(ca, ca, Duration::from_secs(119), Duration::from_secs(61));
    let key = host.key;
    collector.on_connection(move |connection, shared| shared.honest(connection, key));
    let running = host.start(&collector);
    running.seal(1);
    wait_for("the renewal", || (running.counter("renewals") == 1).then_some(()));
    let kept = std::fs::read(host.layout.tls_certificate()).unwrap();
    let der = picket_agent::uplink::certificate::from_pem(&kept).unwrap();
    let facts = picket_agent::uplink::certificate::Facts::read(&der).unwrap();
    // It is counted a moment before its end is told.
    wait_for("the report", || {
        let expires = running.report().certificate_expires?;
        (expires.seconds() == facts.not_after.seconds()).then_some(())
    });
    assert!(
        facts.not_after.since(Timestamp::from(std::time::SystemTime::now())) > Duration::from_secs(3_000)
    );
    assert_eq!(running.counter("connections"), 1, "on the live connection");
    running.stop();
    // The next process takes it up.
    let running = host.start(&collector);
    running.seal(1);
    running.wait_acknowledged();
    assert_eq!(collector.shared.held.lock().unwrap().renewals, 1);
}

#[test]
fn a_renewed_certificate_for_another_key_is_refused() {
    let collector = Collector::start();
    let ca = &collector.shared.ca;
    let host = Host::with_certificate(ca, ca, Duration::from_secs(119), Duration::from_secs(61));
    let before = std::fs::read(host.layout.tls_certificate()).unwrap();
    collector.on_connection(|connection, shared| {
        let Some(hello) = shared.greet(connection) else { return };
        while let Some(frame) = connection.frame() {
            if frame.frame_type == FrameType::Renew {
                let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
                let hour = Duration::from_secs(3_600);
                let certificate =
                    shared.ca.client(&hello.agent.to_string(), "acme", &other, Duration::ZERO, hour);
                let renewed = picket_protocol::message::Renewed { certificate: certificate.pem() };
                connection.send(FrameType::Renewed, &renewed);
            }
        }
    });
    let running = host.start(&collector);
    running.wait_error("not for this agent's key and name");
    assert_eq!(std::fs::read(host.layout.tls_certificate()).unwrap(), before);
}

#[test]
fn a_link_that_is_stopped_ends_soon_and_takes_the_process_along() {
    let (_collector, _host, running) = after(|_, _| ());
    running.seal(1);
    running.wait_acknowledged();
    let pid = running.report().pid.unwrap();
    let before = Instant::now();
    let status = running.status.clone();
    running.stop();
    assert!(before.elapsed() < Duration::from_secs(3), "took {:?}", before.elapsed());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(status.report().state, LinkState::Stopped);
}
