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

/// From now on, blocks of [`LARGE`] bytes and more are given back as soon as they are freed. glibc does so only until the
/// first one is: by then it has learnt that such blocks come and go, and keeps up to 32 MiB of them for each arena.
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

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    use super::*;

    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[test]
    fn large_blocks_are_the_systems_as_soon_as_they_are_freed() {
        const BLOCK: usize = 1024 * 1024;
        give_large_blocks_back_at_once();
        // glibc learns from the first that is freed.
        drop(vec![1_u8; 2 * BLOCK]);
        let mut blocks: Vec<_> = (0..100).map(|_| vec![1_u8; BLOCK].into_boxed_slice()).collect();
        let last = blocks.pop();
        let before = resident();
        drop(blocks);
        assert!(before - resident() > 50 * BLOCK, "{before} bytes before, {} after", resident());
        drop(last);
    }

    #[test]
    fn what_was_freed_is_the_systems_again() {
        const MANY: usize = 100_000;
        // The last one keeps the rest from being the end of the heap, which glibc gives back by itself.
        let mut blocks: Vec<_> = (0..MANY).map(|_| vec![1_u8; 1024].into_boxed_slice()).collect();
        let last = blocks.pop();
        drop(blocks);
        let before = resident();
        give_back();
        assert!(before - resident() > MANY * 1024 / 2, "{before} bytes before, {} after", resident());
        drop(last);
    }
}
