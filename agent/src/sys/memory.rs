//! What the allocator keeps.

/// Gives back to the kernel what was freed: after something large that happens once.
pub fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the call takes the allocator's own locks and touches only memory that is free.
        let _any = unsafe { libc::malloc_trim(0) };
    }
}
