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

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_is_the_systems_again() {
        const MANY: usize = 100_000;
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
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
