//! First bytes of a client, with several bounds around its length. Whatever name is read, rustls reads it too or
//! refuses, and it is the same from any fragmentation into records.
#![no_main]

#[path = "../checks/rustls_name.rs"]
mod rustls_name;
#[path = "../checks/tls.rs"]
mod tls;
#[path = "../checks/verdict.rs"]
mod verdict;

use egret::hostname::{AskedName, Hostname};
use egret::inspect::{Inspected, ParseProgress, Protocol, inspect};
use libfuzzer_sys::fuzz_target;

const MAX: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    for max in [bytes.len().saturating_sub(7), bytes.len(), MAX] {
        verdict::stable_verdict(bytes, max);
    }
    let mut scratch = Vec::new();
    let verdict = inspect(bytes, MAX, &mut scratch);
    tls::same_name_as_rustls_or_refused(bytes, &verdict);
    if let ParseProgress::Done(Inspected { protocol: Protocol::Tls, alpn, .. }) = &verdict {
        assert!(alpn.len() <= 64 && alpn.bytes().all(|b| b.is_ascii_graphic()));
        for size in [1, 3, 100, 1 << 14] {
            let again = inspect(&tls::refragmented(bytes, size), 6 * MAX, &mut scratch);
            assert_eq!(tls::but_for_length(again), tls::but_for_length(verdict.clone()));
        }
    }
});
