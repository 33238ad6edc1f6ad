//! Freed memory returns to the system. One test, in its own process, because it measures and configures the allocator
//! of the whole process.

#![cfg(target_env = "gnu")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use egret::sys::memory::{give_back, give_large_blocks_back_at_once};
use std::fs;

/// Resident memory in bytes.
fn resident() -> usize {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// Bytes by which resident memory shrinks during `work`.
fn given_back(work: impl FnOnce()) -> usize {
    let before = resident();
    work();
    before.saturating_sub(resident())
}

/// Allocates blocks; the last one is separate and keeps the others from being the top of the heap, which glibc returns
/// by itself.
fn blocks(count: usize, size: usize) -> (Box<[u8]>, Vec<Box<[u8]>>) {
    let mut blocks: Vec<_> = (0..count).map(|_| vec![1_u8; size].into_boxed_slice()).collect();
    (blocks.pop().unwrap(), blocks)
}

#[test]
fn freed_memory_returns_to_system() {
    give_large_blocks_back_at_once();
    drop(vec![1_u8; 2 << 20]); // glibc raises its mmap threshold at the first free of such a block
    let (last, others) = blocks(100, 1 << 20);
    let freed = given_back(|| drop(others));
    assert!(freed > 90 << 20, "{freed} bytes of 99 MiB went back");
    drop(last);

    let (last, others) = blocks(100_000, 1 << 10);
    let freed = given_back(|| drop(others));
    assert!(
        freed < 10 << 20,
        "glibc keeps small blocks, or all that follows shows nothing: {freed} bytes went"
    );
    let freed = given_back(give_back);
    assert!(freed > 50 << 20, "{freed} bytes of 98 MiB went back");
    drop(last);
}
