//! What comes after the first hello or request head, followed so that no other name passes unjudged.
//!
//! Pure, like the rest of the room: bytes in, how many of them may pass out. What passes does not depend on how the
//! bytes were cut into pieces. Only bytes that cannot be judged yet, the start of a head or of a hello, are the caller's
//! to keep.

mod answer_head;
mod answers;
mod chunked;
mod exchange;
pub(super) mod framing;
mod head_end;
mod hellos;
mod requests;
mod trailers;

use super::Unclear;
pub use exchange::Exchange;
pub use hellos::{Changed, Hellos};

/// What is to be done once the bytes that may pass have passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then<D> {
    /// Read more; those that are left over cannot be judged yet.
    More,
    /// Wait for the server: until it has said more, nothing else of the client's may pass.
    Wait,
    /// End the flow: what is next may not pass.
    Denied(D),
    /// End the flow: what is next cannot be judged.
    Unclear(Unclear),
}

/// What a client is still to get once its next bytes may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remainder {
    /// Answers of the server's to what has passed.
    Wait,
    /// Why it ends here: the server has answered all that has passed.
    Answer,
    /// Nothing: an answer would come in the middle of something else.
    Nothing,
}
