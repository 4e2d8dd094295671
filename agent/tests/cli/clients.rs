//! Who may ask on the local socket, and who may not.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::host::{Host, NOBODY, text, wait_for};

#[test]
fn others_are_kept_away_from_the_socket() {
    let host = Host::new();
    let group = host.path("group");
    std::fs::write(&group, "root:x:0:\npicket:x:61996:\n").expect("group file");
    let script = "mount --bind \"$0\" /etc/group && exec \"$@\"";
    let private = ["unshare", "-m", "sh", "-c", script, group.to_str().expect("a path")];
    let running = host.start_as(&mut host.through(&private, &["run"]));
    let mode = std::fs::metadata(host.layout().socket()).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let run =
        |wrapper: &[&str], arguments: &[&str]| host.through(wrapper, arguments).output().expect("setpriv");
    let stranger = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
    let out = run(&stranger, &["status"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("only root and members of the group picket"), "{}", text(&out.stderr));
    let member = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--groups", "61996"];
    assert!(text(&run(&member, &["status"]).stdout).contains("protection"));
    assert_eq!(run(&member, &["findings"]).status.code(), Some(0));
    assert_eq!(run(&member, &["commands"]).status.code(), Some(0));
    for changing in [
        &["ack"][..],
        &["scan"],
        &["baseline", "accept"],
        &["hold-commands", "--for", "1h"],
        &["hold-commands", "--off"],
    ] {
        let out = run(&member, changing);
        assert_eq!(out.status.code(), Some(2), "{changing:?}");
        assert!(text(&out.stderr).contains("only root may do that"), "{}", text(&out.stderr));
    }
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn rude_clients_disturb_nobody() {
    let host = Host::new();
    let running = host.start();
    let connect = || UnixStream::connect(host.layout().socket()).expect("connected");
    let ask = |bytes: &[u8]| {
        let mut stream = connect();
        // The agent may hang up before it has read everything.
        let _hung_up = stream.write_all(bytes).is_err();
        let mut reply = String::new();
        let _reset = stream.read_to_string(&mut reply).is_err();
        reply
    };
    for request in [
        &b"nonsense\n"[..],
        b"{\"request\":\"status\",\"more\":1}\n",
        b"{\"request\":\"explode\"}\n",
        b"\xff\n",
    ] {
        assert!(ask(request).contains("not a request that this agent knows"), "{}", text(request));
    }
    for seconds in [0, 30 * 86_400 + 1, u64::MAX] {
        let reply = ask(format!("{{\"request\":\"hold\",\"seconds\":{seconds}}}\n").as_bytes());
        assert!(reply.contains("seconds must be from 1 to 2592000 (30 days)"), "{reply}");
    }
    assert_eq!(host.status()["commands"]["held_seconds"], serde_json::Value::Null);
    ask(&vec![b'x'; 2 * 1024 * 1024]);
    // Those who say nothing take places and are told when there is none left; others are served beside them.
    let idle: Vec<_> = (0..20).map(|_| connect()).collect();
    assert!(host.status()["pid"].is_u64());
    let crowd: Vec<_> = (0..40).map(|_| connect()).collect();
    assert!(ask(b"{\"request\":\"status\"}\n").contains("connected already"));
    drop((idle, crowd));
    wait_for("room for others", || host.status()["pid"].is_u64().then_some(()));
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn root_finds_a_place_when_others_hold_all_that_they_may() {
    let host = Host::new();
    let running = host.start();
    let socket = host.layout().socket();
    // As if everybody were in the group.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).expect("mode");
    let crowd = std::thread::spawn(move || {
        // Of this thread alone.
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(NOBODY.parse().expect("a number")))
            .expect("uid");
        (0..40).map(|_| UnixStream::connect(&socket).expect("connected")).collect::<Vec<_>>()
    });
    let crowd = crowd.join().expect("a crowd");
    let refused = |mut stream: &UnixStream| {
        let mut reply = [0; 256];
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
        stream.read(&mut reply).is_ok_and(|count| text(&reply[..count]).contains("connected already"))
    };
    wait_for("the last to be refused", || crowd.last().filter(|stream| refused(stream)).map(|_| ()));
    assert!(host.status()["pid"].is_u64());
    assert_eq!(running.stop(), Some(0));
}
