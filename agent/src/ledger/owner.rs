//! Whose ledger it is. The ledger says so itself; `agent-id` says it before there is one.

use picket_protocol::identity::AgentId;
use rusqlite::OptionalExtension as _;
use uuid::Uuid;

use super::error::LedgerError;
use super::schema::{Location, open_reader};
use crate::layout::Layout;

/// The id under which the ledger below `layout` is kept, made now when there is none yet. Where `agent-id` alone is lost it is made anew
/// from the ledger: another one beside it would lock the host out of its own ledger for ever.
///
/// # Errors
/// `agent-id` or the ledger cannot be read.
pub fn agent_of(layout: &Layout) -> Result<AgentId, LedgerError> {
    let owner = if layout.agent_id().exists() { None } else { owner(layout)? };
    let id = owner.map_or_else(Uuid::now_v7, |agent| agent.0);
    layout.agent(id).map_err(|source| LedgerError::Io { path: layout.agent_id(), source })
}

/// As the ledger says; none where there is none, or a first start was cut short before it said.
fn owner(layout: &Layout) -> Result<Option<AgentId>, LedgerError> {
    if !layout.database().exists() {
        return Ok(None);
    }
    let connection = open_reader(&Location::file(layout.database()))?;
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'ledger_state')";
    if !connection.query_row(sql, [], |row| row.get::<_, bool>(0))? {
        return Ok(None);
    }
    let sql = "SELECT origin FROM ledger_state";
    let origin: Option<String> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    origin.as_deref().map(of_origin).transpose()
}

/// The agent whose ledger has this origin.
pub(crate) fn of_origin(origin: &str) -> Result<AgentId, LedgerError> {
    AgentId::from_origin(origin)
        .ok_or_else(|| LedgerError::Damaged(format!("it is of {origin}, which is no agent")))
}

#[cfg(test)]
mod tests {
    use super::super::{Ledger, create_first_key};
    use super::*;

    #[test]
    fn an_id_that_is_lost_comes_back_from_the_ledger() {
        let directory = tempfile::tempdir().expect("directory");
        let layout = Layout::new(directory.path(), &directory.path().join("run"));
        std::fs::create_dir_all(layout.core()).expect("directory");
        // A first start that was cut short.
        std::fs::write(layout.database(), "").expect("an empty database");
        let made = agent_of(&layout).expect("made");
        assert_eq!(agent_of(&layout).expect("kept"), made);
        create_first_key(&layout).expect("key");
        Ledger::open(&layout, &Default::default(), made, &[]).expect("a ledger").stop();
        std::fs::remove_file(layout.agent_id()).expect("lost");
        assert_eq!(agent_of(&layout).expect("from the ledger"), made);
        assert!(layout.agent_id().exists());

        std::fs::remove_file(layout.agent_id()).expect("lost");
        std::fs::write(layout.database(), "nonsense, and more than SQLite's header takes".repeat(20))
            .expect("damaged");
        agent_of(&layout).expect_err("no other id beside a ledger that cannot be read");
        assert!(!layout.agent_id().exists());
    }
}
