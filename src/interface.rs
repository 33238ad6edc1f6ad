//! Names of network interfaces, and patterns of them.

use serde::{Serialize, Serializer};
use std::fmt;

/// `IFNAMSIZ` without the NUL: the longest name, and the longest pattern that packet filters take.
const LONGEST: usize = 15;

/// A name of one interface, or a pattern of names, which also covers interfaces that appear later.
///
/// A name is 1 to 15 letters, digits, and `.`, `_`, `-`. The kernel allows more characters (`dev_valid_name()`), but these
/// need no quoting in a shell and have no special meaning to iptables or nft.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface {
    stem: String,
    pattern: bool,
}

/// The reason why a text is no name or pattern of an interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnInterface {
    /// `ip`'s form for one end of a link with two ends, in which the name comes before the `@`.
    #[error("`ip` lists a link with its other end as NAME@PEER; the name is \"{0}\"")]
    WithPeer(String),
    /// A pattern without a prefix, or with the wildcard elsewhere than at its end.
    #[error("a pattern is a prefix of names followed by \"*\", for example \"veth*\"")]
    Pattern,
    /// Too long, or with other characters.
    #[error(
        "write it as `ip -br link` lists it: at most 15 letters, digits, \"_\", \"-\", \".\"; \
         or a prefix followed by \"*\", for example \"veth*\""
    )]
    Characters,
}

impl Interface {
    /// Parses a name such as `ens6` or a pattern such as `veth*`, or `veth+` as iptables writes it.
    ///
    /// # Errors
    /// The text is neither; the error says what is accepted.
    pub fn parse(text: &str) -> Result<Self, NotAnInterface> {
        if let Some((name, _)) = text.split_once('@')
            && Self::parse(name).is_ok()
        {
            return Err(NotAnInterface::WithPeer(name.to_owned()));
        }
        let stem = text.strip_suffix(['*', '+']);
        let pattern = stem.is_some();
        let stem = stem.unwrap_or(text);
        if stem.contains(['*', '+']) || (pattern && stem.is_empty()) {
            return Err(NotAnInterface::Pattern);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let fits = !stem.is_empty() && text.len() <= LONGEST && stem.chars().all(plain);
        if !fits || stem.starts_with('-') || (!pattern && matches!(stem, "." | "..")) {
            return Err(NotAnInterface::Characters);
        }
        Ok(Self { stem: stem.to_owned(), pattern })
    }

    /// True for a pattern.
    pub fn is_pattern(&self) -> bool {
        self.pattern
    }

    /// True if the name or pattern matches the interface of this name.
    pub fn covers(&self, name: &str) -> bool {
        if self.pattern { name.starts_with(&self.stem) } else { name == self.stem }
    }

    /// True if it matches every interface that the other matches.
    pub fn covers_all_of(&self, other: &Self) -> bool {
        self == other || (self.pattern && other.stem.starts_with(&self.stem))
    }

    /// The spelling of iptables.
    pub fn iptables(&self) -> String {
        format!("{}{}", self.stem, if self.pattern { "+" } else { "" })
    }
}

/// Serialises as it displays.
impl Serialize for Interface {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The spelling of the configuration and of nft.
impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stem, if self.pattern { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_name_needs_no_quoting_anywhere() {
        for good in ["ens6", "eth0.100", "br-lan", "e", "fifteen-letters"] {
            assert_eq!(Interface::parse(good).map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "sixteen-letters-",
            "-i",
            "a b",
            "a;b",
            "$(x)",
            "a\nb",
            "a/b",
            "a:b",
            ".",
            "..",
            "é",
            "'",
            "@x",
            "x y@z",
        ] {
            assert_eq!(Interface::parse(bad), Err(NotAnInterface::Characters), "{bad}");
        }
    }

    #[test]
    fn pattern_covers_names_that_begin_alike() {
        for text in ["br-*", "br-+"] {
            let pattern = Interface::parse(text).unwrap();
            assert!(pattern.is_pattern() && pattern.covers("br-1") && !pattern.covers("br0"), "{text}");
            assert_eq!((pattern.to_string(), pattern.iptables()), ("br-*".into(), "br-+".into()));
        }
        let name = Interface::parse("br-1").unwrap();
        assert!(name.covers("br-1") && !name.covers("br-11"));
        for bad in ["*", "+", "a*b", "a**", "a+*"] {
            assert_eq!(Interface::parse(bad), Err(NotAnInterface::Pattern), "{bad}");
        }
        assert!(Interface::parse("fourteen-lette*").is_ok() && Interface::parse("fifteen-letters*").is_err());
    }

    #[test]
    fn interface_name_drops_its_peer() {
        assert_eq!(Interface::parse("c0@if2"), Err(NotAnInterface::WithPeer("c0".into())));
        assert_eq!(Interface::parse("eth0.7@eth0"), Err(NotAnInterface::WithPeer("eth0.7".into())));
    }
}
