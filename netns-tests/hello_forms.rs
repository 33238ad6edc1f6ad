//! Forms of hellos that only the tests send; `hello.rs` has those that the benchmark sends too.

use crate::hello::{Hello, KEY_SHARE, X25519, X25519_MLKEM768, key_share, record, vector16};

impl Hello {
    /// Adds any extension, valid or not.
    pub fn with_extension(mut self, kind: u16, body: &[u8]) -> Self {
        self.add(kind, body.to_vec());
        self
    }

    /// Adds a hybrid post-quantum key share as browsers send it, padded until the record is 1.9 KiB long.
    pub fn post_quantum(mut self) -> Self {
        let shares = [key_share(X25519_MLKEM768, 1216), key_share(X25519, 32)].concat();
        self.extensions.retain(|(kind, _)| *kind != KEY_SHARE);
        self.add(KEY_SHARE, vector16(&shares));
        self.padded_to(1946)
    }

    /// Returns it as TLS records of at most `size` bytes of handshake each.
    pub fn records_of(&self, size: usize) -> Vec<u8> {
        self.handshake().chunks(size).flat_map(record).collect()
    }
}
