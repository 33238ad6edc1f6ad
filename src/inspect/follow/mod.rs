//! Follows a connection after its first hello or request head, so that no other name passes unchecked.
//!
//! Pure, like the rest of the room: takes bytes, returns how many of them may be forwarded. The result does not depend
//! on how the bytes are split. The caller buffers only bytes that cannot be judged yet: an incomplete head or hello.

mod answer_head;
mod answers;
mod chunked;
mod exchange;
mod head_end;
mod hellos;
mod requests;
mod trailers;

use super::Unclear;
pub use exchange::HttpExchange;
pub use hellos::{Changed, Hellos};

/// Next step once the permitted bytes were forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then<D> {
    /// Read more; the remaining bytes cannot be judged yet.
    More,
    /// Wait for the server; until it sends more, nothing else of the client is forwarded.
    Wait,
    /// End the flow: the next bytes are denied.
    Denied(D),
    /// End the flow: the next bytes cannot be parsed.
    Unclear(Unclear),
}

/// Rest of the answer to a client whose next bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remainder {
    /// The server's outstanding responses.
    Wait,
    /// An answer with the reason: the server has answered all requests.
    Answer,
    /// Nothing: an answer would interrupt another message.
    Nothing,
}
