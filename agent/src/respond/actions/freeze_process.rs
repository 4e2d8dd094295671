//! `freeze-process`: a process and all beneath it stand still. It is the one that the order names by number, beginning and
//! content of its program, or nobody.
//!
//! Stopped by a signal, which root and others of the same user can undo; while it lasts it is looked every second whether they stand
//! still, and who does not is stopped again, told, and no reason to let all go on. It may be who holds the line: unless the collector is
//! heard through it, it is undone. What has left the tree before is not found. The kernel holds no lease: when the agent is dead, it ends at the agent's next start.

use std::path::PathBuf;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Applied, Deed, Levers, Plan, Surroundings};
use crate::respond::firewall::{Ladder, PutBy};
use crate::respond::freeze_tree::{self, Stopped, is_stopped};
use crate::respond::processes::{Hold, Named, Spared, boot, count, named};
use crate::respond::receipt::safe;
use crate::sense::processes::{Life, life, living};

/// A frozen process, prepared.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FrozenProcess {
    /// From where on.
    pub root: Stopped,
    /// The boot in which that is it: in another one somebody else may have its number and its beginning.
    pub boot: String,
    /// The agent's own directory.
    pub core: PathBuf,
}

impl FrozenProcess {
    /// Prepares it.
    ///
    /// # Errors
    /// When it is another process, or one that is never stopped.
    pub fn prepare(process: Named<'_>, surroundings: &Surroundings) -> Result<Self, String> {
        let root = process.find(surroundings.booted)?;
        Ok(Self { root, boot: boot()?, core: surroundings.core.clone() })
    }

    /// How many run that should stand still.
    pub fn escaped(&self, id: Uuid) -> usize {
        let held = Hold::new(&self.core, id).held();
        let all: Vec<Life> = living().into_iter().filter_map(life).collect();
        running(&self.tree(&all, &held))
    }

    fn is_gone(&self) -> String {
        format!("process {} has ended, or somebody else has stopped it", self.root.pid)
    }

    fn tree<'a>(&self, all: &'a [Life], held: &[Stopped]) -> Vec<&'a Life> {
        let spared = Spared::new(all);
        let root = boot().is_ok_and(|now| now == self.boot).then_some(&self.root);
        let roots: Vec<Stopped> = held.iter().chain(root).cloned().collect();
        freeze_tree::tree(all, &roots, |life| spared.is(life))
    }
}

/// Who waits for a device is stopped as soon as the kernel may.
fn running(tree: &[&Life]) -> usize {
    tree.iter().filter(|life| !is_stopped(life) && life.state != 'D').count()
}

impl Deed for FrozenProcess {
    fn plan(&self) -> Plan {
        let all: Vec<Life> = living().into_iter().filter_map(life).collect();
        let tree: Vec<Stopped> = self.tree(&all, &[]).into_iter().map(Stopped::of).collect();
        let lines = vec![
            format!(
                "Process {} ({}) and all beneath it are stopped: {}.",
                self.root.pid,
                safe(&self.root.name),
                count(tree.len())
            ),
            "If the agent dies, this ends at its next start.".to_owned(),
        ];
        Plan { lines, data: json!({ "pid": self.root.pid, "processes": named(&tree) }) }
    }

    fn try_out(&self, applied: &Applied, _: &mut Ladder) -> Result<Option<PutBy>, String> {
        match Hold::new(&self.core, applied.id).would_stop(|all, held| self.tree(all, held))? {
            true => Ok(None),
            false => Err(self.is_gone()),
        }
    }

    fn apply(&self, applied: &Applied, _: &mut Levers) -> Result<Value, String> {
        let halted = Hold::new(&self.core, applied.id).stop(|all, held| self.tree(all, held))?;
        if halted.held.is_empty() {
            return Err(self.is_gone());
        }
        Ok(halted.detail())
    }

    fn arm(&self, _: &Applied, _: &mut Levers) -> Result<(), String> {
        Ok(())
    }

    fn probe(&self) -> Result<Value, String> {
        let all: Vec<Life> = living().into_iter().filter_map(life).collect();
        // Who runs is stopped again while this lasts: whoever could end it by going on would.
        Ok(json!({ "running": running(&self.tree(&all, &[])) }))
    }

    /// It may be what the way to the collector goes through: a tunnel, or who keeps the addresses.
    fn may_cut_off(&self) -> bool {
        true
    }

    fn undo(&self, id: Uuid, _: &mut Levers) -> Result<(), String> {
        Hold::new(&self.core, id).let_go()
    }
}
