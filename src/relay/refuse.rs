//! Answers a refused client so that it can read the answer; throws away what nobody is to get.

use super::Scratch;
use crate::sys::event_loop::timeout;
use crate::sys::socket::Socket;
use crate::sys::stream;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

/// What a refused client may still send before it is cut off.
const MOST_DISCARDED: usize = 256 * 1024;

/// Sends `answer`, then FIN, and waits for the client to finish, all of it for `patience` at most. A client that has not
/// taken all of it by then is reset when the socket is dropped: the kernel would keep the rest for minutes. What the client has
/// sent or still sends is thrown away: closing with unread bytes would send RST, and the answer would be lost with it.
pub async fn refuse(client: &Socket, answer: &[u8], patience: Duration, scratch: &Scratch) {
    let told = async {
        write_all(client, answer).await?;
        client.finish();
        discard(client, MOST_DISCARDED, scratch).await.map(drop)
    };
    // At the deadline, or if it is gone, the socket is closed all the same.
    let _ = timeout(patience, told).await;
    if stream::unacknowledged(client).is_ok_and(|bytes| bytes == 0) {
        client.ended_well();
    }
}

async fn write_all(client: &Socket, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        poll_fn(|cx| client.poll_writable(cx)).await;
        match client.try_write(|| stream::write(client, bytes)) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Throws away what a peer still sends: whether it finishes, or resets, within `patience` and `most` bytes.
pub async fn finishes(peer: &Socket, most: usize, patience: Duration, scratch: &Scratch) -> bool {
    timeout(patience, discard(peer, most, scratch)).await.is_ok_and(|ended| ended.unwrap_or(true))
}

/// Reads more than `most` bytes, or to the end: which of them.
async fn discard(peer: &Socket, most: usize, scratch: &Scratch) -> io::Result<bool> {
    let mut discarded = 0;
    while discarded <= most {
        poll_fn(|cx| peer.poll_readable(cx)).await;
        match peer.try_read(|| stream::read(peer, &mut scratch.buffer.borrow_mut())) {
            Ok(0) => return Ok(true),
            Ok(n) => discarded += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
