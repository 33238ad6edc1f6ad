//! Byte streams of any length in which every loss, repetition or swap is detected.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::thread;

/// A prime, so that no buffer or segment size divides it and a shifted stream never matches.
const PERIOD: usize = 1_000_003;

/// Pseudo-random bytes, always the same.
fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .take(PERIOD)
        .collect()
    })
}

/// Sends the first `total` bytes.
pub fn send(stream: &TcpStream, total: usize) {
    send_from(stream, 0, total);
}

/// Sends the bytes after the first `sent`, up to `total`.
pub fn send_from(mut stream: &TcpStream, mut sent: usize, total: usize) {
    while sent < total {
        let part = &pattern()[sent % PERIOD..];
        let part = &part[..part.len().min(total - sent)];
        stream
            .write_all(part)
            .unwrap_or_else(|e| panic!("sending stopped within bytes {sent}+{}: {e}", part.len()));
        sent += part.len();
    }
}

/// Receives `total` bytes, and compares each with that of [`send`].
pub fn receive(mut stream: &TcpStream, total: usize) {
    let mut buffer = vec![0; 256 * 1024];
    let mut received = 0;
    while received < total {
        let wanted = buffer.len().min(total - received).min(PERIOD - received % PERIOD);
        let n = match stream.read(&mut buffer[..wanted]) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            read => {
                read.unwrap_or_else(|e| panic!("receiving stopped after {received} of {total} bytes: {e}"))
            }
        };
        assert!(n > 0, "the stream ended after {received} of {total} bytes");
        let start = received % PERIOD;
        assert!(buffer[..n] == pattern()[start..start + n], "wrong bytes after {received} right ones");
        received += n;
    }
}

/// Runs [`receive`] at both ends at once.
pub fn receive_both(one: &TcpStream, other: &TcpStream, total: usize) {
    thread::scope(|scope| {
        scope.spawn(|| receive(one, total));
        receive(other, total);
    });
}

/// Sends a few bytes one way and receives them at the other end.
pub fn pass(from: &TcpStream, to: &TcpStream, message: &[u8]) {
    let (mut from, mut to) = (from, to);
    from.write_all(message).unwrap();
    let mut got = vec![0; message.len()];
    to.read_exact(&mut got)
        .unwrap_or_else(|e| panic!("{:?} did not arrive: {e}", String::from_utf8_lossy(message)));
    assert_eq!(got, message);
}

/// Asserts that the server receives all of the client's first bytes; then it answers, and both sides close.
pub fn expect_delivery(client: TcpStream, mut server: TcpStream, sent: &[u8]) {
    let mut got = vec![0; sent.len()];
    server.read_exact(&mut got).unwrap_or_else(|e| panic!("the first bytes did not arrive: {e}"));
    assert!(got == sent, "the first bytes arrived changed");
    pass(&server, &client, b"an answer");
    drop(server);
    assert_eq!(crate::clients::read_all(&client), b"");
}
