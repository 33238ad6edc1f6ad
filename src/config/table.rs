//! TOML tables, read key by key.

use super::diagnostic::{Diagnostics, SourcePosition};
use super::nearest::nearest;
use super::schema::{ConfigKey, ConfigSection, KeyPresence};
use super::source::SourceFile;
use super::value::Value;
use super::value_types::{NestedType, ValueType};
use toml::de::{DeTable, DeValue};

/// A table, whose keys are those of a section of the catalogue. Opening it reports every other key.
#[derive(Clone, Copy)]
pub(super) struct TomlTable<'a> {
    source: &'a SourceFile,
    section: &'static ConfigSection,
    /// `None` if the file has no such table: every key has its default.
    entries: Option<&'a DeTable<'a>>,
    /// True if the file has no such table, and one whose header was probably meant to be it, which is reported as such.
    is_mistyped: bool,
    /// Byte offset of its header.
    offset: usize,
}

impl<'a> TomlTable<'a> {
    pub(super) fn open(
        source: &'a SourceFile,
        section: &'static ConfigSection,
        entries: &'a DeTable<'a>,
        offset: usize,
        out: &mut Diagnostics,
    ) -> Self {
        let table = Self { source, section, entries: Some(entries), is_mistyped: false, offset };
        for (key, value) in entries {
            table.judge_key(key.get_ref(), source.place(&key.span()), source.place(&value.span()), out);
        }
        table
    }

    fn judge_key(&self, name: &str, key_at: SourcePosition, value_at: SourcePosition, out: &mut Diagnostics) {
        let known = || self.section.keys.iter().map(|known| known.name());
        if let Some(key) = self.section.keys.iter().find(|key| key.name() == name) {
            if let Some(instead) = key.unsupported() {
                out.error(value_at, format!("`{name}` is not supported yet"), instead);
            }
            return;
        }
        let help = match ((self.section.elsewhere)(name), nearest(name, known())) {
            (Some(there), _) => there.to_owned(),
            (None, Some(meant)) => format!("did you mean {meant:?}?"),
            (None, None) => format!("its keys are {}", known().collect::<Vec<_>>().join(", ")),
        };
        out.error(key_at, format!("unknown key {name:?} in {}", self.section.header), help);
    }

    /// Position of the table.
    pub(super) fn place(&self) -> SourcePosition {
        self.source.place(&(self.offset..self.offset))
    }

    /// Byte offset, for the order of tables within a file.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// Label `file:line`, to find the table again.
    pub(super) fn label(&self) -> String {
        format!("{}:{}", self.source.label, self.place().line)
    }

    fn entry<K>(&self, key: &ConfigKey<K>) -> Option<Value<'a>> {
        let node = self.entries?.get(key.name)?;
        Some(Value { source: self.source, key: key.name, required: key.is_required(), node })
    }

    /// Position of the key's value; of the table if the key is absent.
    pub(super) fn place_of<K>(&self, key: &ConfigKey<K>) -> SourcePosition {
        self.entry(key).map_or_else(|| self.place(), |value| value.place())
    }

    pub(super) fn has<K>(&self, key: &ConfigKey<K>) -> bool {
        self.entry(key).is_some()
    }

    /// True if the table has an unknown key that was probably meant to be this one, which is reported as such.
    pub(super) fn mistypes<K>(&self, key: &ConfigKey<K>) -> bool {
        let known = || self.section.keys.iter().map(|known| known.name());
        let mut names = self.entries.into_iter().flatten().map(|(name, _)| name.get_ref());
        names.any(|name| known().all(|known| known != name) && nearest(name, known()) == Some(key.name))
    }

    /// Reads a key. `None` if it is absent without a default, or wrong, which is reported.
    pub(super) fn read<K: ValueType>(
        &self,
        key: &'static ConfigKey<K>,
        out: &mut Diagnostics,
    ) -> Option<K::Value> {
        if let Some(value) = self.entry(key) {
            // If this is `None` the load has failed; the default lets it continue, to find further errors.
            return key.kind.read(value, out).or_else(|| self.default(key, out));
        }
        if key.is_required() && !self.is_mistyped && !self.mistypes(key) {
            let message = format!("missing key `{}` in {}", key.name, self.section.header);
            out.error(self.place(), message, format!("add it, for example `{} = {}`", key.name, key.example));
        }
        self.default(key, out)
    }

    fn default<K: ValueType>(&self, key: &'static ConfigKey<K>, out: &mut Diagnostics) -> Option<K::Value> {
        let KeyPresence::Default(text) = key.presence else { return None };
        let node = DeValue::parse(text).ok()?;
        key.kind.read(Value { source: self.source, key: key.name, required: false, node: &node }, out)
    }

    /// Returns the table under a key; an empty one if it is absent.
    pub(super) fn section(&self, key: &'static ConfigKey<NestedType>, out: &mut Diagnostics) -> Self {
        let section = key.kind.0;
        let is_mistyped = self.mistypes(key);
        let absent = Self { source: self.source, section, entries: None, is_mistyped, offset: self.offset };
        let Some(value) = self.entry(key) else { return absent };
        let Some(entries) = value.node().as_table() else {
            value.wrong::<()>(out, "not a table", format!("write it as {}", section.header));
            return absent;
        };
        Self::open(self.source, section, entries, value.node.span().start, out)
    }

    /// True if the file's tables under a key are not all that were meant, which is reported.
    pub(super) fn misses_some(&self, key: &'static ConfigKey<NestedType>) -> bool {
        self.mistypes(key) || self.entry(key).is_some_and(|value| value.node().as_array().is_none())
    }

    /// Returns the tables under a key, in the order of the file.
    pub(super) fn sections(&self, key: &'static ConfigKey<NestedType>, out: &mut Diagnostics) -> Vec<Self> {
        let section = key.kind.0;
        let help = || format!("write it as {}", section.header);
        let Some(value) = self.entry(key) else { return Vec::new() };
        let Some(elements) = value.node().as_array() else {
            // A mistyped header above makes a table of the headers below it.
            if !self.mistypes(key) {
                value.wrong::<()>(out, "not a list of tables", help());
            }
            return Vec::new();
        };
        let mut tables = Vec::new();
        for node in elements {
            match node.get_ref().as_table() {
                Some(entries) => {
                    tables.push(Self::open(self.source, section, entries, node.span().start, out));
                }
                None => {
                    value.element(node).wrong::<()>(out, "not a table", help());
                }
            }
        }
        tables
    }
}
