//! A short name for what a configuration says.

use super::Config;
use std::fmt::{self, Write};

impl Config {
    /// Sixteen hex digits that are equal for equal configurations, read by the same version of Egret. Comments, spacing
    /// and the order of keys do not matter; where a rule stands does, because rules are called by it.
    pub fn version(&self) -> String {
        format!("{:016x}", digest(self))
    }
}

/// Equal for what is written alike.
pub(super) fn digest(what: &impl fmt::Debug) -> u64 {
    let mut digest = Digest(OFFSET);
    // The digest takes everything.
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

/// FNV-1a, 64 bits: told apart by accident, not against an adversary, and no text of a million names in memory.
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
    fn the_digest_is_fnv_1a() {
        let mut digest = Digest(OFFSET);
        digest.write_str("foobar").unwrap();
        assert_eq!(digest.0, 0x8594_4171_f739_67e8);
    }
}
