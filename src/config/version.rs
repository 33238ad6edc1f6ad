//! Short version identifier of a configuration's contents.

use super::Config;
use std::fmt::{self, Write};

impl Config {
    /// Sixteen hex digits, equal for equal configurations read by the same version of Egret. Comments, spacing and the
    /// order of keys do not matter; the position of a rule does, because it labels the rule.
    pub fn version(&self) -> String {
        format!("{:016x}", digest(self))
    }
}

/// Returns a digest that is equal for equal debug output.
pub(super) fn digest(what: &impl fmt::Debug) -> u64 {
    let mut digest = Digest(OFFSET);
    // Writing to the digest cannot fail.
    let _ = write!(digest, "{what:?}");
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
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.take(text.as_bytes());
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
        digest.write_str("foobar").unwrap();
        assert_eq!(digest.0, 0x8594_4171_f739_67e8);
    }
}
