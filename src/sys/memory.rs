//! Control of the process's memory use.

/// Returns freed memory to the system, as far as whole pages are free. glibc keeps memory that a thread freed for
/// threads of the same arena, which does not help a reload on another one.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "malloc_trim(3)")]
    // SAFETY: malloc_trim takes a number and touches nothing but free memory; it locks each arena for itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes glibc return blocks of [`LARGE`] bytes and more as soon as they are freed, unless they fit into free memory.
/// By default it does so only until the first is freed: it then assumes that such blocks are reused, and keeps up to 32
/// MiB of them per arena.
pub fn give_large_blocks_back_at_once() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "mallopt(3)")]
    // SAFETY: mallopt takes two numbers, and locks what it changes.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// In bytes; larger than any block of a flow.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 * 1024;
