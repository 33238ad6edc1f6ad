//! Short version identifier of a configuration's contents.

use super::Config;
use serde::Serialize;
use std::io::{self, Write};

impl Config {
    /// Sixteen hex digits: the digest of the checked configuration as JSON, with its keys in a fixed order and every default
    /// filled in. Comments, spacing and the order of keys do not matter; the position of a rule does, because it labels the
    /// rule.
    pub fn version(&self) -> String {
        format!("{:016x}", digest(self))
    }
}

/// Returns the digest of a value as JSON.
pub(super) fn digest(what: &impl Serialize) -> u64 {
    let mut digest = Digest(OFFSET);
    // Cannot fail: keys are strings, and the digest takes everything.
    let _ = serde_json::to_writer(&mut digest, what);
    digest.0
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a of a file's bytes, 64 bits.
pub fn digest_of(bytes: &[u8]) -> u64 {
    let mut digest = Digest(OFFSET);
    digest.take(bytes);
    digest.0
}

/// FNV-1a, 64 bits: not collision-resistant, and needs no text of a million names in memory.
struct Digest(u64);

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Digest {
    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_fnv_1a() {
        let mut digest = Digest(OFFSET);
        digest.write_all(b"foobar").unwrap();
        assert_eq!(digest.0, 0x8594_4171_f739_67e8);
    }
}
