//! Raw system calls, each behind a safe face. The only module of the agent where `unsafe` is allowed.

mod attempt;
mod bpf_links;
mod bpf_programs;
mod child;
#[cfg(test)]
mod counting;
mod fanotify;
mod frames;
mod group_programs;
mod kept_time;
mod lsm_programs;
mod mapped;
mod memory;
mod packet_ring;
mod priority;
mod signals;
mod socket_filter;
mod spawn;
mod stop;
mod user;
mod wake;
mod writers;
mod xtables;

pub use attempt::{ACTS, attempt};
pub use bpf_links::{attach_xdp, replace_xdp};
#[cfg(test)]
pub use bpf_programs::load_nothing;
pub use bpf_programs::{ProgramInfo, next_program, program_info};
pub use child::{die_with_parent, read_only_child};
#[cfg(test)]
pub use counting::allocations;
pub use fanotify::{
    Group as FanotifyGroup, HANDLE_BYTES_MAX, Reports as FanotifyReports, filesystem_id, handle_of,
    open_by_handle,
};
pub use frames::{FrameSocket, RawFrame};
pub use group_programs::{
    BpfMap, GroupProgram, Way, attach_group_program, detach_group_program, group_programs,
};
pub use kept_time::{KeptTime, kept_time};
pub use lsm_programs::{LsmError, LsmProgram};
pub use mapped::MappedArray;
pub use memory::{GiveBack, give_back_heap, share_one_heap};
pub use packet_ring::{Captured, PacketRing, PacketSocket};
pub use priority::{DiskPriority, set_disk_priority};
pub use signals::{Caught, Sender, Signals};
pub use socket_filter::{Instruction, attach_filter};
pub use spawn::{ConfinedChild, spawn_confined};
pub use stop::Stop;
pub use user::{Account, AccountError};
pub use wake::Wake;
pub use writers::{WriteGroup, Written};
pub use xtables::{XtablesFamily, XtablesRules, xtables_rules};
