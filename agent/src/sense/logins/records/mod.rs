//! The utmp family: binary records of who was refused (`btmp`), who came and went by a terminal (`wtmp`), and who is in
//! (`utmp`).
//!
//! The files are followed as text logs are ([`super::tail`]), record by record. Only root and group utmp write them: they
//! tell of a login even where somebody has taken it out of the logs. They know less than all others: no method, no port,
//! of sessions only those with a terminal. sshd writes of a name that has no account once when the name is given, and once
//! for each attempt.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::Path;

use picket_protocol::finding::Text;

pub mod entry;

pub use entry::{RECORD_BYTES, Record};

use super::event::{LoginEvent, LoginKind, Place, Reporter, Source};
use super::tail::Found;
use crate::sense::sessions::service_of;
use entry::{DEAD_PROCESS, LOGIN_PROCESS, USER_PROCESS};

/// Processes of which it is remembered that a first record came.
const PROCESSES_MAX: usize = 1_024;
/// A name that fills its field may have been longer.
const NAME_BYTES_MAX: usize = 32;

/// What is remembered from record to record.
#[derive(Debug, Default)]
pub struct Reading {
    /// Processes that told of a name without an account.
    strangers: VecDeque<u32>,
    /// Terminals that are in use, by whom, and by which process: a record of the end has no name.
    terminals: VecDeque<Terminal>,
}

#[derive(Debug)]
struct Terminal {
    line: Text,
    user: Text,
    pid: Option<u32>,
    service: Cow<'static, str>,
}

impl Reading {
    /// What a record of the file at `path` tells; `is_account` says whether a name has a local account.
    pub fn event(
        &mut self,
        path: &Path,
        found: Found<'_>,
        is_account: impl FnOnce(&Text) -> bool,
    ) -> Option<LoginEvent> {
        let record = Record::parse(found.bytes)?;
        let place = Place::Log { path: path.into(), inode: found.inode, offset: found.offset };
        let failed = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"btmp"));
        match record.kind {
            LOGIN_PROCESS | USER_PROCESS if failed => self.refused(record, place, is_account),
            USER_PROCESS => self.came(record, place),
            DEAD_PROCESS if !failed => self.went(&record, place),
            _ => None,
        }
    }

    fn refused(
        &mut self,
        record: Record,
        place: Place,
        is_account: impl FnOnce(&Text) -> bool,
    ) -> Option<LoginEvent> {
        let line = record.line.as_ref()?;
        let service = if line.text.starts_with("ssh") { "sshd".into() } else { known_service(record.pid)? };
        if !matches!(&*service, "sshd" | "login") {
            // su names the account that was asked for, not who asked: the other sources know both.
            return None;
        }
        let user = record.user.clone().filter(|user| user.to_bytes().len() < NAME_BYTES_MAX);
        let mut reporter = Reporter::Record;
        if let (Some(pid), Some(user), "sshd") = (record.pid, &user, &*service)
            && !self.strangers.contains(&pid)
            && !is_account(user)
        {
            reporter = Reporter::Notice;
            self.strangers.push_back(pid);
            if self.strangers.len() > PROCESSES_MAX {
                self.strangers.pop_front();
            }
        }
        let told = blank(LoginKind::Failure, service, &record, place);
        Some(LoginEvent { user, reporter, ..told })
    }

    fn came(&mut self, record: Record, place: Place) -> Option<LoginEvent> {
        let (line, user) = (record.line.clone()?, record.user.clone()?);
        // Terminal windows write such records as well, without a peer.
        let service = known_service(record.pid).or_else(|| match record.address {
            Some(_) => Some("sshd".into()),
            None => line.text.starts_with("tty").then_some("login".into()),
        })?;
        if !matches!(&*service, "sshd" | "login") {
            return None;
        }
        self.terminals.retain(|terminal| terminal.line != line);
        let terminal = Terminal { line, user: user.clone(), pid: record.pid, service: service.clone() };
        self.terminals.push_back(terminal);
        if self.terminals.len() > PROCESSES_MAX {
            self.terminals.pop_front();
        }
        let told = blank(LoginKind::Success, service, &record, place);
        Some(LoginEvent { user: Some(user), ..told })
    }

    fn went(&mut self, record: &Record, place: Place) -> Option<LoginEvent> {
        let at = self.terminals.iter().position(|terminal| record.line.as_ref() == Some(&terminal.line))?;
        let Terminal { user, pid, service, .. } = self.terminals.remove(at)?;
        let told = blank(LoginKind::Logout, service, record, place);
        Some(LoginEvent { user: Some(user), pid: pid.or(record.pid), ..told })
    }
}

/// The service by the program of the process that is named, as far as it runs.
fn known_service(pid: Option<u32>) -> Option<Cow<'static, str>> {
    service_of(pid?).map(Cow::Owned)
}

fn blank(event: LoginKind, service: Cow<'static, str>, record: &Record, place: Place) -> LoginEvent {
    LoginEvent {
        tty: record.line.clone().filter(|line| line.text != "ssh:notty"),
        address: record.address,
        pid: record.pid,
        ..LoginEvent::bare(event, service, Reporter::Record, Source::Record, record.time, place)
    }
}

#[cfg(test)]
mod tests;
