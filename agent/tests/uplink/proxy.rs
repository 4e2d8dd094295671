//! Through an HTTP CONNECT proxy, and through things that are none.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};

use super::collector::Collector;
use super::host::Host;

/// Accepts connections for ever, reads a request head from each, hands it out and answers by `answer`; tunnels
/// to the address in the request when that is a 200.
fn proxy(answer: &'static [u8]) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heads) = sync_channel(100);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            if sender.try_send(head).is_err() || stream.write_all(answer).is_err() {
                continue;
            }
            if answer.starts_with(b"HTTP/1.1 200") {
                std::thread::spawn(move || tunnel(stream, &target));
            }
        }
    });
    (address, heads)
}

fn tunnel(client: TcpStream, target: &str) {
    let Ok(server) = TcpStream::connect(target) else { return };
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ended = std::io::copy(&mut from_client, &mut to_server);
        let _closed = to_server.shutdown(std::net::Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    let _ended = std::io::copy(&mut from_server, &mut to_client);
}

#[test]
fn records_go_through_a_proxy_with_credentials() {
    let (address, heads) = proxy(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n");
    let collector = Collector::start();
    let host = Host::of(&collector);
    let key = host.key;
    collector.on_connection(move |connection, shared| shared.honest(connection, key));
    let proxy = format!("http://user:pass%20word@{address}");
    let running = host.start_with(&collector, &collector.address.to_string(), Some(proxy));
    running.seal(100);
    running.wait_acknowledged();
    let head = heads.recv().unwrap();
    assert!(head.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", collector.address)), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic dXNlcjpwYXNzIHdvcmQ="), "{head}");
}

#[test]
fn a_proxy_that_refuses_is_explained() {
    let answers: [(&'static [u8], &str); 4] = [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            "other credentials (407)",
        ),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "status 403"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not an HTTP response"),
        (b"HTTP/1.0 200 OK\r\n\r\nand more", "before the tunnel was open"),
    ];
    let collector = Collector::start();
    let host = Host::of(&collector);
    for (answer, expected) in answers {
        let (address, _heads) = proxy(answer);
        let setting = Some(format!("http://{address}"));
        let running = host.start_with(&collector, &collector.address.to_string(), setting);
        running.wait_error(expected);
    }
}
