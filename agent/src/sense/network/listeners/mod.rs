//! The sensor of listeners: which sockets of this host may be connected to, and who holds them. What is new is decided in
//! [`crate::detect::listener`].
//!
//! **How.** The kernel tells nobody that a socket begins to listen, but answers at once which do (`sock_diag(7)`): each second for TCP,
//! each third one for UDP, and more seldom where a look costs more than a hundredth of that time. Only when there is a new one all processes are gone through for who holds
//! it, at most for a fiftieth of the time. Whose the program is says the package manager's database, once for each file.
//!
//! **Limits.** What listens for less than a second may not be seen. It is this network namespace that is looked at: a container's
//! own ports are seen where the host's proxy (`docker-proxy`, `rootlessport`) listens for them, and not where firewall rules alone lead
//! to them. Looking into other namespaces would need a search for them among all processes at each look, and entering them: not done.

mod holders;
mod place;
mod store;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};

use crate::detect::listener::{Detector, Shown};
use crate::sense::{RungProbe, SensorContext, SensorError, SensorHandle, SensorProbe, SensorState};

pub use store::SCHEMA;
use worker::Worker;

/// Shared hold on what listens; cheap to clone. The default knows nothing.
#[derive(Clone, Debug, Default)]
pub struct Listeners(Option<Arc<Mutex<Detector>>>);

impl Listeners {
    /// All that listen; none when the sensor does not run.
    pub fn list(&self) -> Option<Vec<Shown>> {
        let detector = self.0.as_ref()?;
        Some(detector.lock().unwrap_or_else(PoisonError::into_inner).listening())
    }
}

/// Asks once.
pub fn probe() -> SensorProbe {
    let asked = worker::ask_once();
    let rung = RungProbe {
        rung: "sock-diag".to_owned(),
        usable: asked.is_ok(),
        reason: asked
            .map_or_else(|error| error.to_string(), |count| format!("{count} sockets may be listened on")),
    };
    SensorProbe { sensor: "listeners".to_owned(), rungs: vec![rung] }
}

/// Starts the sensor's thread.
///
/// # Errors
/// When the kernel does not tell of sockets, or the rows of the last run cannot be read.
pub fn start(context: SensorContext) -> Result<(SensorHandle, Listeners), SensorError> {
    let ladder = probe().rungs;
    let usable = ladder.iter().any(|rung| rung.usable);
    context.status.update(|report| report.ladder = ladder);
    if !usable {
        return Err(SensorError::NoRung);
    }
    context.status.update(|report| {
        report.state = SensorState::Running;
        "sock-diag".clone_into(&mut report.rung);
    });
    let mut detector = Detector::default();
    let damaged = detector.restore(store::rows(&context.database)?);
    if damaged > 0 {
        tracing::warn!(
            damaged,
            "listeners: rows of the last run cannot be read, and what they knew is told again"
        );
    }
    let shared = Arc::new(Mutex::new(detector));
    let worker = Worker::new(context, Arc::clone(&shared));
    let mut handle = SensorHandle::default();
    handle.spawn("listeners", move || worker.run())?;
    Ok((handle, Listeners(Some(shared))))
}
