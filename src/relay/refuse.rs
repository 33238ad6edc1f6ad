//! Answers a refused client so that it can read the answer; discards bytes that are not to be delivered.

use super::WorkerScratch;
use crate::sys::event_loop::timeout;
use crate::sys::socket::Socket;
use crate::sys::stream;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

/// Most bytes that a refused client may still send before it is cut off.
const MOST_DISCARDED: usize = 256 * 1024;

/// Sends `answer`, then FIN, and waits for the client to finish, for `patience` in all. A client that has not taken all
/// of it by then is reset when the socket is dropped: the kernel would keep the rest for minutes. Bytes that the client
/// has sent or still sends are discarded: closing with unread bytes would send RST, and the answer would be lost.
pub async fn refuse(client: &Socket, answer: &[u8], patience: Duration, scratch: &WorkerScratch) {
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

/// Discards the bytes that a peer still sends. True if it finishes, or resets, within `patience` and `most` bytes.
pub async fn finishes(peer: &Socket, most: usize, patience: Duration, scratch: &WorkerScratch) -> bool {
    timeout(patience, discard(peer, most, scratch)).await.is_ok_and(|ended| ended.unwrap_or(true))
}

/// Reads and discards up to the end, or until more than `most` bytes were read. True at the end.
async fn discard(peer: &Socket, most: usize, scratch: &WorkerScratch) -> io::Result<bool> {
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
