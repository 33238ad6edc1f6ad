//! Answers a refused client so that it can read the answer.

use super::Scratch;
use crate::sys::socket::Socket;
use crate::sys::stream;
use std::future::poll_fn;
use std::io;
use std::time::Duration;
use tokio::time::timeout;

/// What a refused client may still send before it is cut off.
const MOST_DISCARDED: usize = 256 * 1024;

/// Sends `answer`, then FIN, and waits up to `patience` for the client to finish. What the client has sent or still
/// sends is thrown away: closing with unread bytes would send RST, and the answer would be lost with it.
pub async fn refuse(client: &Socket, answer: &[u8], patience: Duration, scratch: &Scratch) {
    // The send buffer of a new connection holds any answer of ours. If it does not, the client is not reading.
    if stream::write(client, answer).ok() != Some(answer.len()) || stream::finish(client).is_err() {
        return;
    }
    // At the deadline the socket is closed all the same.
    let _ = timeout(patience, discard(client, scratch)).await;
}

async fn discard(client: &Socket, scratch: &Scratch) -> io::Result<()> {
    let mut discarded = 0;
    while discarded < MOST_DISCARDED {
        poll_fn(|cx| client.poll_readable(cx)).await;
        match client.try_read(|| stream::read(client, &mut scratch.buffer.borrow_mut())) {
            Ok(0) => return Ok(()),
            Ok(n) => discarded += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
