//! What the process holds of the machine's memory.

/// Gives back to the system what was allocated and freed, as far as whole pages are free. glibc keeps what a thread freed
/// for threads that share its arena, which is of no use to a reload on another one.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "malloc_trim(3)")]
    // SAFETY: malloc_trim takes a number and touches nothing but free memory; it locks each arena for itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// From now on, blocks of [`LARGE`] bytes and more that nothing free is large enough for are given back as soon as they are freed.
/// glibc does so only until the first one is: by then it has learnt that such blocks come and go, and keeps up to 32 MiB of them
/// for each arena.
pub fn give_large_blocks_back_at_once() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "mallopt(3)")]
    // SAFETY: mallopt takes two numbers, and locks what it changes.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Bytes. Nothing that a flow has is as large.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 * 1024;
