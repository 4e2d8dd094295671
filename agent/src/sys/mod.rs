//! Raw system calls, each behind a safe face. The only module of the agent where `unsafe` is allowed.

mod attempt;
mod child;
mod fanotify;
mod memory;
mod priority;
mod spawn;
mod stop;
mod user;

pub use attempt::{ACTS, attempt};
pub use child::{die_with_parent, read_only_child};
pub use fanotify::{
    Group as FanotifyGroup, HANDLE_BYTES_MAX, Reports as FanotifyReports, filesystem_id, open_by_handle,
};
pub use memory::give_back_heap;
pub use priority::{DiskPriority, set_disk_priority};
pub use spawn::{ConfinedChild, spawn_confined};
pub use stop::Stop;
pub use user::{Account, AccountError};
