//! First bytes of a client, with several bounds around its length. Whatever host is read, a plain parser finds it
//! too, and finds no other.
#![no_main]

#[path = "../checks/http.rs"]
mod http;
#[path = "../checks/verdict.rs"]
mod verdict;

use egret::hostname::{AskedName, Hostname};
use egret::inspect::{Inspected, ParseProgress, Protocol, inspect};
use libfuzzer_sys::fuzz_target;

const MAX: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    for max in [bytes.len().saturating_sub(7), bytes.len()] {
        verdict::stable_verdict(bytes, max);
    }
    let verdict = verdict::stable_verdict(bytes, MAX);
    http::same_host_as_httparse(bytes, &verdict);
});
