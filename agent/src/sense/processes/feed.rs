//! What feeds the table, whichever rung it is.

use std::os::fd::{AsFd, BorrowedFd};

use super::bpf::Bpf;
use super::connector::{Connector, Event};
use super::proc;
use super::process::{KnownBy, ProgramFacts, Users};
use super::record::{Act, Record};
use super::table::{Answer, Table};

/// See the module.
#[derive(Debug)]
pub enum Feed {
    /// The kernel tells all of it.
    Bpf(Box<Bpf>),
    /// The kernel tells that something happened; `/proc` what.
    Connector(Connector),
    /// Nothing tells; `/proc` is asked when somebody wants to know.
    Proc,
}

impl Feed {
    /// Who tells.
    pub fn known_by(&self) -> KnownBy {
        match self {
            Self::Bpf(_) => KnownBy::Bpf,
            Self::Connector(_) => KnownBy::Connector,
            Self::Proc => KnownBy::Proc,
        }
    }

    /// What becomes readable when there is much to take up; none when nothing ever comes.
    pub fn signal(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Bpf(bpf) => Some(bpf.as_fd()),
            Self::Connector(connector) => Some(connector.as_fd()),
            Self::Proc => None,
        }
    }

    /// Takes up all that waits. `now`: nanoseconds since boot. Gives how many losses there were until now, of which
    /// each leaves a gap of unknown size.
    pub fn drain(&mut self, table: &mut Table, lost: u64, now: u64) -> u64 {
        match self {
            Self::Bpf(bpf) => {
                while let Some(bytes) = bpf.next() {
                    match Record::parse(&bytes) {
                        Ok(record) => table.apply(&record),
                        // The program that writes them and this one were built together.
                        Err(error) => tracing::error!(%error, "a record of a process cannot be read"),
                    }
                }
                bpf.lost().unwrap_or(lost)
            }
            Self::Connector(connector) => {
                let whole = connector.take(|event| heard(table, event, now));
                lost + u64::from(!whole)
            }
            Self::Proc => lost,
        }
    }
}

/// Takes up an event that carries numbers only.
fn heard(table: &mut Table, event: Event, now: u64) {
    let users = Users::default();
    let record = |pid, act| Record { pid, started: now, time: now, users, act };
    match event {
        Event::Fork { parent, child } => table.apply(&record(child, Act::Fork { parent })),
        Event::Exec { pid } => match proc::read(pid) {
            Some(snapshot) => table.replace(snapshot),
            // It ran another program than before, and is gone already.
            None => table.complete(pid, ProgramFacts::default()),
        },
        Event::Users { pid, real, effective } => {
            if let Answer::Running(process) = table.at(pid, now) {
                let users = Users { real: Some(real), effective: Some(effective), ..process.users };
                table.become_users(pid, users);
            }
        }
        Event::Exit { pid } => table.end(pid, now),
    }
}
