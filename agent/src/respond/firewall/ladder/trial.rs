//! Tries by which rung tables could be put, without putting them, for plans.
//!
//! As far as each rung can be tried without a change: nftables takes the whole transaction and drops it, the program `nft` checks it, programs
//! at control groups are loaded and attached to nothing. The kernel may load a module that it would need. Of iptables only what needs no
//! table of it is tried: what its kernel says shows when rules are put.

use std::time::Duration;

use super::super::script::Script;
use super::super::{Table, legacy};
use super::{Failure, Ladder, PutBy, Rung, name_of};

impl Ladder {
    /// By which mechanism tables could be put now; none are.
    ///
    /// # Errors
    /// What each mechanism says.
    pub fn try_out(&mut self, tables: &[Table], left: Duration) -> Result<PutBy, String> {
        let tried = self.descend(&name_of(tables), |ladder, rung| ladder.try_by(rung, tables, left));
        let (rung, because) = tried.map_err(|why| format!("no rung of the firewall takes it: {why}"))?;
        Ok(PutBy { rung, because, limits: self.limits(rung) })
    }

    fn try_by(&mut self, rung: Rung, tables: &[Table], left: Duration) -> Result<(), Failure> {
        match rung {
            Rung::Nftables | Rung::Shared => {
                let firewall = self.nftables().map_err(Failure::next)?;
                firewall.try_out(tables, left).map_err(|error| Failure::of_kernel(&error))
            }
            Rung::Nft => Script::try_out(tables, left).map_err(Failure::next),
            Rung::Iptables => legacy::try_out(tables).map_err(Failure::next),
            Rung::CgroupBpf => self.groups.try_out(tables, left).map_err(Failure::last),
        }
    }
}
