//! Answers that probes read, and whether they are whole.

use crate::cli::interrupted;
use crate::clock;
use socket2::Socket;
use std::io::{self, Read as _};
use std::time::Duration;

/// Most bytes read of an answer.
const MOST: usize = 1 << 20;
/// A connection that is reset after this long a silence was silent: the gateway gives up a client that takes no answer.
const GIVEN_UP: Duration = Duration::from_secs(1);

/// Bytes that came back, and the end of them.
#[derive(Debug)]
pub(super) struct ProbeAnswer {
    pub(super) bytes: Vec<u8>,
    /// An error if the connection was reset, or fell silent before the answer was whole.
    pub(super) end: io::Result<()>,
    /// More came, and was not read.
    goes_on: bool,
}

impl ProbeAnswer {
    /// Nothing came.
    pub(super) fn none(error: io::Error) -> Self {
        Self { bytes: Vec::new(), end: Err(error), goes_on: false }
    }

    /// Reads up to the end of the answer, to a silence as long as the socket's time-out, or for `patience` in all.
    pub(super) fn read(socket: &mut Socket, silence: Duration, patience: Duration) -> Self {
        let start = clock::now();
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 * 1024];
        let mut goes_on = false;
        let end = loop {
            let asked = clock::now();
            match interrupted::repeat(asked + silence, || socket.read(&mut buffer)) {
                Ok(0) => break Ok(()),
                Ok(length) => {
                    bytes.extend(buffer.get(..length).unwrap_or_default());
                    goes_on = !is_whole(&bytes) && (bytes.len() >= MOST || clock::now() - start > patience);
                    if goes_on || is_whole(&bytes) {
                        break Ok(());
                    }
                }
                Err(_) if clock::now() - asked > GIVEN_UP => break Err(io::ErrorKind::TimedOut.into()),
                Err(error) => break Err(error),
            }
        };
        Self { bytes, end, goes_on }
    }

    /// True if nothing came, and the connection fell silent.
    pub(super) fn is_lost(&self) -> bool {
        self.bytes.is_empty() && self.fell_silent()
    }

    /// True if nothing came but a reset.
    pub(super) fn is_reset(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        let is_reset = |error: &io::Error| matches!(error.kind(), ConnectionReset | BrokenPipe);
        self.bytes.is_empty() && self.end.as_ref().is_err_and(is_reset)
    }

    /// True if a part of the answer came, and the rest of it did not.
    pub(super) fn is_partial(&self) -> bool {
        let is_short = || match length(&self.bytes) {
            Some(whole) => self.bytes.len() < whole,
            None => self.fell_silent() && is_part_of_head(&self.bytes),
        };
        !self.bytes.is_empty() && !self.goes_on && is_short()
    }

    /// True for an answer that does not tell its length, and after which the connection stays open: whether more of it was sent
    /// is not known.
    pub(super) fn is_open(&self) -> bool {
        !self.bytes.is_empty() && self.fell_silent() && !self.is_partial()
    }

    fn fell_silent(&self) -> bool {
        let silent =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        self.end.as_ref().is_err_and(silent)
    }
}

/// True if nothing more is to come. Of a TLS handshake, the first record tells an alert from a hello.
fn is_whole(answer: &[u8]) -> bool {
    length(answer).is_some_and(|whole| answer.len() >= whole)
        || answer.starts_with(b"HTTP/") && answer.ends_with(b"\r\n0\r\n\r\n")
}

/// True for an HTTP head whose end is missing.
fn is_part_of_head(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/") && !answer.windows(END.len()).any(|bytes| bytes == END)
}

/// End of an HTTP head.
const END: &[u8] = b"\r\n\r\n";

/// Length of an answer that tells it: of a TLS record, and of an HTTP response with `Content-Length`.
fn length(answer: &[u8]) -> Option<usize> {
    if let [0x14..=0x17, 3, _, high, low, ..] = answer {
        return Some(5 + usize::from(u16::from_be_bytes([*high, *low])));
    }
    let head =
        answer.windows(END.len()).position(|bytes| bytes == END).filter(|_| answer.starts_with(b"HTTP/"))?
            + END.len();
    let text = String::from_utf8_lossy(answer.get(..head)?);
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| key.eq_ignore_ascii_case("content-length"))?;
    head.checked_add(value.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(bytes: &[u8]) -> ProbeAnswer {
        ProbeAnswer { bytes: bytes.to_vec(), end: Err(io::ErrorKind::WouldBlock.into()), goes_on: false }
    }

    #[test]
    fn silence_after_part_is_partial() {
        assert!(silent(b"").is_lost() && !silent(b"").is_partial());
        assert!(silent(b"HTTP/1.1 200 OK\r\n").is_partial() && !silent(b"HTTP").is_lost());
        let part = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234";
        let cut = |end| ProbeAnswer { end, ..silent(part) };
        assert!(cut(Ok(())).is_partial() && cut(Err(io::ErrorKind::ConnectionReset.into())).is_partial());
        let reset = ProbeAnswer::none(io::ErrorKind::ConnectionReset.into());
        assert!(!reset.is_lost() && !reset.is_partial() && reset.is_reset());
        assert!(!silent(b"").is_reset() && !cut(Err(io::ErrorKind::ConnectionReset.into())).is_reset());
    }

    #[test]
    fn unread_rest_is_not_lost() {
        let part = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234";
        let read = ProbeAnswer { bytes: part.to_vec(), end: Ok(()), goes_on: true };
        assert!(!read.is_partial() && !read.is_open());
    }

    /// As servers of SMTP do, echo servers, and those of a stream of events.
    #[test]
    fn answers_without_an_end_may_be_whole() {
        for answer in [
            &b"220 mail.example.org\r\n502 bad\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n",
        ] {
            let answer = silent(answer);
            assert!(answer.is_open() && !answer.is_partial() && !answer.is_lost(), "{answer:?}");
        }
        assert!(!silent(b"").is_open() && !silent(b"HTTP/1.1 2").is_open());
    }

    #[test]
    fn whole_answers_are_recognised() {
        for (answer, whole) in [
            (&b"HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nabc"[..], true),
            (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nabc", false),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\n\r\nabc", false),
            (&[0x15, 3, 3, 0, 2, 2, 49], true),
            (&[0x16, 3, 3, 0, 4, 2], false),
            (b"", false),
        ] {
            assert_eq!(is_whole(answer), whole, "{}", String::from_utf8_lossy(answer));
        }
    }
}
