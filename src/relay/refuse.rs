//! Answers a refused client so that it can read the answer.

use crate::sys::stream;
use std::io;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What a refused client may still send before it is cut off.
const MOST_DISCARDED: usize = 256 * 1024;

/// Sends `answer`, then FIN, and waits up to `patience` for the client to finish. What the client has sent or still
/// sends is thrown away: closing with unread bytes would send RST, and the answer would be lost with it.
pub async fn refuse(client: &TcpStream, answer: &[u8], patience: Duration) {
    // The send buffer of a new connection holds any answer of ours. If it does not, the client is not reading.
    if stream::write(client, answer).ok() != Some(answer.len()) || stream::finish(client).is_err() {
        return;
    }
    // At the deadline the socket is closed all the same.
    let _ = timeout(patience, discard(client)).await;
}

async fn discard(client: &TcpStream) -> io::Result<()> {
    let mut buffer = [0; 2048];
    let mut discarded = 0;
    while discarded < MOST_DISCARDED {
        client.readable().await?;
        match client.try_io(Interest::READABLE, || stream::read(client, &mut buffer)) {
            Ok(0) => return Ok(()),
            Ok(n) => discarded += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
