//! The laboratory of the end-to-end tests and benchmarks: starts the real programs in directories of their
//! own and reads what a user reads. Nothing here looks inside a program.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a laboratory fails loudly")]

pub mod actors;
pub mod agent;
pub mod audit;
pub mod cable;
pub mod capture;
pub mod chaos;
pub mod collector;
pub mod group;
pub mod host;
pub mod lab;
pub mod named;
pub mod operators;
pub mod process;
pub mod proxy;
pub mod rounds;
pub mod site;
pub mod ssh;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long anything in a test may take before it counts as failed, on a busy machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `probe` gives something, asking every few milliseconds; panics with `what` after [`PATIENCE`].
pub fn wait_for<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    wait_for_within(what, PATIENCE, probe)
}

/// As [`wait_for`] with a deadline of its own.
pub fn wait_for_within<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where the programs under test are: `PICKET_BIN_DIR`, or beside this test's own binary.
pub fn program(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("PICKET_BIN_DIR") {
        return PathBuf::from(dir).join(name);
    }
    let own = std::env::current_exe().expect("the path of this program");
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.exists());
    beside.unwrap_or_else(|| panic!("no program {name} beside {}: build the workspace first", own.display()))
}
