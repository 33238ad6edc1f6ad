//! Recognises TLS's `close_notify` alert, by which a peer ends its data (RFC 8446 §6.1).

/// Payload lengths of an alert record, with the content type in its header. An alert is two bytes. TLS 1.3 hides the
/// type and adds it and the cipher's tag to the payload; TLS 1.2 and before show it, and add nonce or IV, MAC and
/// padding.
const PAYLOADS: [(u8, u8); 9] = [
    (APPLICATION_DATA, 19), // AES-GCM, ChaCha20
    (APPLICATION_DATA, 11), // AES-CCM-8
    (ALERT, 26),            // AES-GCM
    (ALERT, 18),            // ChaCha20, AES-CCM-8
    (ALERT, 48),            // AES-CBC with SHA-1
    (ALERT, 64),            // AES-CBC with SHA-256
    (ALERT, 80),            // AES-CBC with SHA-384
    (ALERT, 32),            // CBC of TLS 1.0
    (ALERT, 2),             // not encrypted
];

const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;

/// Content type, version, length.
const HEADER: usize = 5;

/// True if the bytes end in a record that is an alert by type and length. In TLS 1.3 two bytes of application data look
/// the same.
pub(super) fn ends_in(bytes: &[u8]) -> bool {
    PAYLOADS.iter().any(|&(kind, length)| {
        let start = bytes.len().checked_sub(HEADER + usize::from(length));
        let record = start.map_or(&[][..], |start| &bytes[start..]);
        matches!(record, &[first, 3, 1..=4, 0, size, ..] if first == kind && size == length)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, length: u8) -> Vec<u8> {
        [&[kind, 3, 3, 0, length][..], &vec![0x5a; length.into()]].concat()
    }

    #[test]
    fn alerts_differ_from_other_records() {
        let answer = record(APPLICATION_DATA, 200);
        assert!(!ends_in(&answer) && !ends_in(&[]) && !ends_in(&record(APPLICATION_DATA, 23)));
        for (kind, length) in PAYLOADS {
            let alert = record(kind, length);
            assert!(ends_in(&alert) && ends_in(&[answer.clone(), alert.clone()].concat()), "{kind} {length}");
            assert!(!ends_in(&[alert, answer.clone()].concat()), "{kind} {length}");
        }
    }
}
