//! Extracts one handshake message from TLS records (RFC 8446 §5.1), without a copy if it lies in one record.

use std::ops::Range;

/// The content type of handshake records.
pub(super) const HANDSHAKE: u8 = 22;
/// The content type of alert records.
pub(super) const ALERT: u8 = 21;
/// The content type of change_cipher_spec records, the lowest.
pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
/// The content type of heartbeat records (RFC 6520), the highest.
pub(super) const HEARTBEAT: u8 = 24;
/// The first byte of every record version from SSL 3.0 to TLS 1.3.
pub(super) const MAJOR_VERSION: u8 = 3;

/// Length of content type, version and length.
pub(super) const RECORD_HEADER: usize = 5;
/// Maximum payload of a plaintext record.
const MAX_PAYLOAD: usize = 1 << 14;
/// Length of message type and length.
const MESSAGE_HEADER: usize = 4;
/// The message type of a ClientHello.
pub(super) const CLIENT_HELLO: u8 = 1;

/// Reason why there is no message, or none yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// More bytes are needed: this many in all, at most the bound.
    NeedMore(usize),
    /// The records or the message violate RFC 8446.
    Malformed(&'static str),
    /// The message cannot be complete within the bound.
    TooLarge,
}

/// Returns the body of the ClientHello that `bytes` start with, and its length with all headers: at most `max` bytes.
///
/// Every check happens at a fixed offset, in order, so that a verdict does not change whatever bytes follow.
pub(super) fn client_hello<'a>(
    bytes: &'a [u8],
    max: usize,
    scratch: &'a mut Vec<u8>,
) -> Result<(&'a [u8], usize), Stop> {
    let input = Input { bytes, max };
    let (length, mut record, mut at) = input.message_header()?;
    let (mut left, mut in_one_record) = (length, true);
    while record.end - at < left {
        left -= record.end - at;
        if record.end + RECORD_HEADER + left > max {
            return Err(Stop::TooLarge);
        }
        record = input.record(record.end)?;
        at = record.start;
        in_one_record = false;
    }
    if record.end - at > left {
        // Nothing may follow a ClientHello before the server has answered, except early data in records of its own.
        return Err(Stop::Malformed("handshake data after the ClientHello"));
    }
    input.demand(record.end)?;
    if in_one_record {
        return Ok((&bytes[at..record.end], record.end));
    }
    input.gather(record.end, MESSAGE_HEADER + length, scratch)?;
    Ok((&scratch[MESSAGE_HEADER..], record.end))
}

#[derive(Clone, Copy)]
struct Input<'a> {
    bytes: &'a [u8],
    max: usize,
}

impl Input<'_> {
    /// Returns the length of the message's body, the payload of the record that its header ends in, and the offset
    /// there.
    fn message_header(self) -> Result<(usize, Range<usize>, usize), Stop> {
        let mut header = [0; MESSAGE_HEADER];
        let mut filled = 0;
        let mut record = self.record(0)?;
        loop {
            let part = record.len().min(MESSAGE_HEADER - filled);
            let end = record.start + part;
            self.demand(end)?;
            header[filled..filled + part].copy_from_slice(&self.bytes[record.start..end]);
            filled += part;
            if header[0] != CLIENT_HELLO {
                return Err(Stop::Malformed("the first message is not a ClientHello"));
            }
            if filled == MESSAGE_HEADER {
                let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
                return Ok((length, record, end));
            }
            record = self.record(record.end)?;
        }
    }

    /// Returns the range of the payload of the record at `at`. It need not have arrived yet.
    fn record(self, at: usize) -> Result<Range<usize>, Stop> {
        let start = at + RECORD_HEADER;
        self.demand(start)?;
        let header = &self.bytes[at..start];
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != HANDSHAKE {
            return Err(Stop::Malformed("another record before the ClientHello is whole"));
        }
        if header[1] != MAJOR_VERSION {
            return Err(Stop::Malformed("a record of another major version"));
        }
        match length {
            0 => Err(Stop::Malformed("a handshake record without content")),
            1..=MAX_PAYLOAD => Ok(start..start + length),
            _ => Err(Stop::Malformed("a record longer than 2^14 bytes")),
        }
    }

    /// Stops unless the first `end` bytes have arrived.
    fn demand(self, end: usize) -> Result<(), Stop> {
        if end > self.max {
            return Err(Stop::TooLarge);
        }
        if end > self.bytes.len() { Err(Stop::NeedMore(end)) } else { Ok(()) }
    }

    /// Copies the payloads of the records up to `end`, `length` bytes in all; they have arrived, so both are within the
    /// bound.
    fn gather(self, end: usize, length: usize, scratch: &mut Vec<u8>) -> Result<(), Stop> {
        scratch.clear();
        scratch.reserve_exact(length);
        let mut at = 0;
        while at < end {
            let payload = self.record(at)?;
            at = payload.end;
            scratch.extend_from_slice(&self.bytes[payload]);
        }
        Ok(())
    }
}
