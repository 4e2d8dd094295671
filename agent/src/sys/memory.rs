//! Memory that only the start needed, given back.

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
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the call sets a number in the allocator, under its own lock.
        let _set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

/// Lets go of the pages of this program's own code: most were run once, to start. Those that are needed again are
/// mapped again from the page cache as they are reached. Gives how many bytes of code there are.
pub fn give_back_code() -> usize {
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
    let code = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags == (libc::PF_R | libc::PF_X));
    for header in code {
        let (address, length) = (info.dlpi_addr + header.p_vaddr, header.p_filesz);
        let (Ok(begin), Ok(length)) = (usize::try_from(address), usize::try_from(length)) else { continue };
        // Whole pages of the segment alone: what lies beside it may have been written to.
        let first = begin.next_multiple_of(page);
        let whole = (begin + length).saturating_sub(first) / page * page;
        // SAFETY: these pages map this program's file privately, can be read and executed but not written, and are
        // never written by the loader (position-independent code is not relocated): the kernel maps the same bytes
        // again when they are reached.
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
    #[test]
    fn the_program_runs_on_after_its_code_was_let_go() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap().to_owned();
            line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
        };
        let before = resident();
        super::give_back_heap();
        let code = super::give_back_code();
        let after = resident();
        assert!(code > 1024 * 1024, "{code}");
        assert!(after < before, "{before} kB of files resident before, {after} after");
    }
}
