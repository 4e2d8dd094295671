//! Memory that was needed for a moment, given back.

use std::time::Duration;

/// How often a process that waits gives back what it does not use: a few hundred microseconds each time.
const GIVE_BACK: Duration = Duration::from_secs(30);
/// What is asked for at once and is at least so large has pages of its own, which go back when it is let go, bytes.
/// Above the buffers that are asked for again and again.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 256 * 1024;
/// Free memory at the heap's end beyond this goes back at once, bytes.
#[cfg(target_env = "gnu")]
const FREE_END: libc::c_int = 1024 * 1024;

/// Gives back now and then what was needed for a moment: free memory, and code that ran and may not run again soon.
#[derive(Debug, Default)]
pub struct GiveBack(Option<Duration>);

impl GiveBack {
    /// Gives back when that is due at `now`, on any clock that goes on.
    pub fn if_due(&mut self, now: Duration) {
        if self.0.is_none_or(|last| now.saturating_sub(last) >= GIVE_BACK) {
            self.0 = Some(now);
            give_back_heap();
            give_back_program();
        }
    }
}

/// Gives back to the kernel what was freed: after something large that happens once.
pub fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the call takes the allocator's own locks and touches only memory that is free.
        let _any = unsafe { libc::malloc_trim(0) };
    }
}

/// Lets all threads share one heap. Each would get one of its own otherwise, whose free memory is given back
/// only at its end; before the second thread starts. Fewer threads allocate here at once than would wait for it.
/// What is large is kept out of it: a burst would raise the bound for what is large, and leave holes for good.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    for (what, number) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, OWN_PAGES), (libc::M_TRIM_THRESHOLD, FREE_END)]
    {
        // SAFETY: the call sets a number in the allocator, under its own lock.
        let _set = unsafe { libc::mallopt(what, number) };
    }
}

/// Lets go of the pages of this program's own code and constants: most were needed once, to start. Those that are
/// needed again are mapped again from the page cache as they are reached. Gives how many bytes there are.
fn give_back_program() -> usize {
    let mut bytes = 0usize;
    // SAFETY: the callback has the type that the call wants, is called before it returns, and is given back the
    // pointer to `bytes`, which outlives it.
    unsafe { libc::dl_iterate_phdr(Some(give_back_object), (&raw mut bytes).cast()) };
    bytes
}

/// The first object is the program itself; the others are libraries, which are shared anyway.
unsafe extern "C" fn give_back_object(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    given: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader hands over a valid description of an object that stays loaded.
    let info = unsafe { &*info };
    // SAFETY: as many program headers as it says lie where it says.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    // SAFETY: the call only returns a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4_096);
    // What is written to when the program is loaded is a segment with the right to write.
    let unwritten =
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    for header in unwritten {
        let (address, length) = (info.dlpi_addr + header.p_vaddr, header.p_filesz);
        let (Ok(begin), Ok(length)) = (usize::try_from(address), usize::try_from(length)) else { continue };
        // Whole pages of the segment alone: what lies beside it may have been written to.
        let first = begin.next_multiple_of(page);
        let whole = (begin + length).saturating_sub(first) / page * page;
        // SAFETY: these pages map this program's file privately, cannot be written, and are never written by the
        // loader (position-independent code is not relocated, and what is relocated lies in segments that can be
        // written): the kernel maps the same bytes again when they are reached.
        let result = unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(first), whole, libc::MADV_DONTNEED)
        };
        if result == 0 {
            // SAFETY: `given` points to the counter that the caller handed over, which nobody else uses meanwhile.
            unsafe { *given.cast::<usize>() += whole };
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_runs_on_after_its_code_was_let_go() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap().to_owned();
            line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
        };
        let before = resident();
        give_back_heap();
        let code = give_back_program();
        let after = resident();
        assert!(code > 1024 * 1024, "{code}");
        assert!(after < before, "{before} kB of files resident before, {after} after");
    }

    #[test]
    fn it_is_given_back_at_once_and_then_now_and_then() {
        let mut back = GiveBack::default();
        for (second, last) in [(7, 7), (8, 7), (36, 7), (37, 37), (50, 37)] {
            back.if_due(Duration::from_secs(second));
            assert_eq!(back.0, Some(Duration::from_secs(last)), "at {second}");
        }
    }
}
