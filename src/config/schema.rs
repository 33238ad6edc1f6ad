//! Form of the catalogue: sections, and their keys.

/// A table and its keys.
pub(super) struct ConfigSection {
    /// Header as written: `[gateway]`, `[[tenant]]`.
    pub(super) header: &'static str,
    pub(super) about: &'static str,
    pub(super) keys: &'static [&'static dyn AnyKey],
    /// Advice on keys that are in the wrong table.
    pub(super) elsewhere: fn(&str) -> Option<&'static str>,
}

/// A key: its name, kind, presence and meaning.
pub(super) struct ConfigKey<K> {
    pub(super) name: &'static str,
    pub(super) kind: K,
    pub(super) presence: KeyPresence,
    /// Example value in TOML.
    pub(super) example: &'static str,
    pub(super) about: &'static str,
}

impl<K> ConfigKey<K> {
    /// True if the table must have the key.
    pub(super) fn is_required(&self) -> bool {
        self.presence == KeyPresence::Required
    }
}

/// Behaviour if a key is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyPresence {
    /// The configuration is refused.
    Required,
    /// No value.
    Optional,
    /// Default value, in TOML.
    Default(&'static str),
}

/// A key without its type parameter, for lists.
pub(super) trait AnyKey: Sync {
    fn name(&self) -> &'static str;
    fn describe(&self) -> String;
    fn unsupported(&self) -> Option<&'static str>;
    fn is_table(&self) -> bool;
    fn presence(&self) -> KeyPresence;
    fn example(&self) -> &'static str;
    fn about(&self) -> &'static str;
}

impl<K: Describe> AnyKey for ConfigKey<K> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn describe(&self) -> String {
        self.kind.describe()
    }
    fn unsupported(&self) -> Option<&'static str> {
        self.kind.unsupported()
    }
    fn is_table(&self) -> bool {
        self.kind.is_table()
    }
    fn presence(&self) -> KeyPresence {
        self.presence
    }
    fn example(&self) -> &'static str {
        self.example
    }
    fn about(&self) -> &'static str {
        self.about
    }
}

/// Describes the values of a key.
pub(super) trait Describe: Sync {
    /// Description for the reference: `duration, "0s" to "1h"`.
    fn describe(&self) -> String;

    /// Alternative, if this version does not implement the key.
    fn unsupported(&self) -> Option<&'static str> {
        None
    }

    /// True for a table, or a list of them, with its own keys.
    fn is_table(&self) -> bool {
        false
    }
}
