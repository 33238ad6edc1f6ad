//! Transport protocols of flows.

use serde::Serialize;
use std::fmt;

/// The transport protocol of a flow. A port belongs to one of them: the same number is another port in the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP, RFC 9293.
    #[default]
    Tcp,
}

impl Transport {
    /// Its name in flow logs, and in rules of `ip`, `nft` and `iptables`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
        }
    }

    /// Its number in IP headers, and in rules of policy routing.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
