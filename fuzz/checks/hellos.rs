//! A TLS connection, as its follower sees it.

use super::{Changed, Hellos, Then};

/// Relays turns of a TLS client and its server, the client's first, cut into pieces.
pub(crate) fn hellos(mut hellos: Hellos, turns: &[&[u8]], piece: usize) -> (Vec<u8>, Then<Changed>, bool) {
    let (mut passed, mut kept, mut then) = (Vec::new(), Vec::new(), Then::More);
    for (turn, bytes) in turns.iter().enumerate() {
        for bytes in bytes.chunks(piece) {
            if turn % 2 == 1 {
                hellos.server(bytes);
            } else {
                kept.extend_from_slice(bytes);
            }
            if then == Then::More {
                let n;
                (n, then) = hellos.client(&kept, |changed| changed);
                passed.extend(kept.drain(..n));
            }
        }
    }
    (passed, then, hellos.are_over())
}
