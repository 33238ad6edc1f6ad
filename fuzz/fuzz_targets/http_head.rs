//! What a client sends first, with several bounds around its length. Whatever host is read, a plain parser finds it
//! too, and finds no other.
#![no_main]

#[path = "../invariants.rs"]
mod invariants;

use egret::hostname::{AskedName, Hostname};
use egret::inspect::{Inspected, Protocol, Verdict, inspect};
use libfuzzer_sys::fuzz_target;

const MAX: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    for max in [bytes.len().saturating_sub(7), bytes.len()] {
        invariants::stable_verdict(bytes, max);
    }
    let verdict = invariants::stable_verdict(bytes, MAX);
    invariants::same_host_as_httparse(bytes, &verdict);
});
