//! A TLS connection after its first hello: turns of the client and the server, divided by a byte that they hardly need.
//! What passes is the same in any pieces; and if the server has asked for another hello, the first that rustls reads in
//! it has the name of the one before.
#![no_main]

#[path = "../checks/hellos.rs"]
mod hellos;
#[path = "../checks/rustls_name.rs"]
mod rustls_name;

use egret::hostname::{AskedName, Hostname};
use egret::inspect::{Changed, Hellos, ParseProgress, Protocol, Then, inspect};
use libfuzzer_sys::fuzz_target;

const MAX: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let turns: Vec<&[u8]> = bytes.split(|&b| b == 0xa5).collect();
    let ParseProgress::Done(first) = inspect(turns[0], MAX, &mut Vec::new()) else { return };
    if first.protocol != Protocol::Tls {
        return;
    }
    let relay = |piece| hellos::hellos(Hellos::after(&first, MAX), &turns, piece);
    let whole = relay(usize::MAX);
    for piece in [1, 3, 50] {
        assert_eq!(relay(piece), whole, "pieces of {piece}");
    }
    let (passed, _, over) = whole;
    let mut second = &passed[first.length..];
    while let [20 | 21 | 23 | 24, _, _, high, low, rest @ ..] = second {
        second = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..).unwrap_or_default();
    }
    if !over && let Ok(Some(theirs)) = rustls_name::name_by_rustls(second) {
        let theirs = Hostname::canonicalize(theirs.as_bytes()).ok();
        assert!(
            matches!(&first.name, AskedName::Valid(ours) if Some(ours) == theirs.as_ref()),
            "{theirs:?} passed"
        );
    }
});
