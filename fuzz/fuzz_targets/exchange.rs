//! An HTTP/1 connection: turns of the client and the server, divided by a byte that neither needs. Whatever passes is, for
//! a plain reader, the permitted requests and no other; and the same in any pieces.
#![no_main]

#[path = "../checks/exchange.rs"]
mod exchange;

use egret::hostname::{AskedName, Hostname};
use egret::inspect::{HttpExchange, Remainder, Then};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let turns: Vec<&[u8]> = bytes.split(|&b| b == 0xff).collect();
    for max_head in [100, 64 * 1024] {
        let whole = exchange::exchange(&turns, usize::MAX, max_head);
        exchange::no_other_request_passed(&whole);
        for piece in [1, 3, 50] {
            assert_eq!(exchange::exchange(&turns, piece, max_head), whole, "pieces of {piece}");
        }
    }
});
