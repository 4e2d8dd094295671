//! A TCP relay on loopback that can be cut: the network between agent and collector.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

/// Requests to [`connect_proxy`] that are kept for the test.
const REQUESTS_MAX: usize = 100;

/// The relay. Ends with the test's process.
pub struct Proxy {
    address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    next: AtomicU64,
    connections: Mutex<HashMap<u64, (TcpStream, TcpStream)>>,
}

impl Proxy {
    /// Relays from a fresh loopback port to `target`.
    pub fn start(target: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
        let address = listener.local_addr().expect("its address").to_string();
        let state = Arc::new(State::default());
        let (shared, target) = (state.clone(), target.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if !shared.cut.load(Ordering::SeqCst) {
                    relay(&shared, stream, &target);
                }
            }
        });
        Self { address, state }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Cuts all connections and refuses new ones until [`Proxy::mend`].
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
        for (_, (a, b)) in self.state.connections.lock().expect("not poisoned").drain() {
            // Either side may be gone already.
            let _ends = (a.shutdown(Shutdown::Both), b.shutdown(Shutdown::Both));
        }
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }
}

fn relay(state: &Arc<State>, near: TcpStream, target: &str) {
    let Ok(far) = TcpStream::connect(target) else { return };
    let id = state.next.fetch_add(1, Ordering::SeqCst);
    let copies = (near.try_clone(), far.try_clone(), near.try_clone(), far.try_clone());
    let (Ok(near_reader), Ok(far_reader), Ok(near_held), Ok(far_held)) = copies else { return };
    {
        let mut connections = state.connections.lock().expect("not poisoned");
        // It may have been cut since this one came, and what was there is cut off already.
        if state.cut.load(Ordering::SeqCst) {
            return;
        }
        connections.insert(id, (near_held, far_held));
    }
    for (reader, writer) in [(near_reader, far), (far_reader, near)] {
        let state = state.clone();
        std::thread::spawn(move || {
            pump(reader, writer);
            state.connections.lock().expect("not poisoned").remove(&id);
        });
    }
}

/// An HTTP proxy on loopback that leads every CONNECT, whatever it names, to `target`; gives its address and
/// the heads of the requests that came.
pub fn connect_proxy(target: &str) -> (String, Receiver<String>) {
    connect_proxy_on("127.0.0.1", target)
}

/// The same on an address of the test's own network.
pub fn connect_proxy_on(ip: &str, target: &str) -> (String, Receiver<String>) {
    let listener = TcpListener::bind((ip, 0)).expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let (heads, received) = std::sync::mpsc::sync_channel(REQUESTS_MAX);
    let target = target.to_owned();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.extend(byte);
            }
            // A test that no longer looks at the requests still wants its connections.
            let _unread = heads.try_send(String::from_utf8_lossy(&head).into_owned());
            if stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").is_ok() {
                relay(&Arc::default(), stream, &target);
            }
        }
    });
    (address, received)
}

fn pump(mut reader: TcpStream, mut writer: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        if writer.write_all(buffer.get(..count).unwrap_or_default()).is_err() {
            break;
        }
    }
    let _ends = (writer.shutdown(Shutdown::Both), reader.shutdown(Shutdown::Both));
}
