//! TOML values with their key and position, for error messages.

use super::diagnostic::{Diagnostics, SourcePosition};
use super::source::SourceFile;
use toml::Spanned;
use toml::de::DeValue;

/// Maximum characters of a wrong value that a message repeats.
const MAX_SHOWN: usize = 80;

/// A single value.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    pub(super) source: &'a SourceFile,
    pub(super) key: &'static str,
    /// True if the table must have the key.
    pub(super) required: bool,
    pub(super) node: &'a Spanned<DeValue<'a>>,
}

impl<'a> Value<'a> {
    pub(super) fn node(&self) -> &'a DeValue<'a> {
        self.node.get_ref()
    }

    pub(super) fn place(&self) -> SourcePosition {
        self.source.place(&self.node.span())
    }

    /// Returns an element of this value, which is a list.
    pub(super) fn element(&self, node: &'a Spanned<DeValue<'a>>) -> Self {
        Self { node, ..*self }
    }

    /// Returns the entries of this value, if it is a table.
    pub(super) fn entries(&self) -> Option<impl Iterator<Item = (&'a str, Self)>> {
        let of = *self;
        let entries = self.node().as_table()?.iter();
        Some(entries.map(move |(name, node)| (name.get_ref().as_ref(), Self { node, ..of })))
    }

    /// Returns the text, if it is a string.
    pub(super) fn text(&self) -> Option<&'a str> {
        self.node().as_str()
    }

    /// Returns the number, if it is an integer that fits.
    pub(super) fn number(&self) -> Option<u64> {
        let integer = self.node().as_integer()?;
        u64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    /// Formats the value as in the file, shortened for a message.
    pub(super) fn shown(&self) -> String {
        match self.node() {
            DeValue::String(text) if text.chars().count() > MAX_SHOWN => {
                format!("{:?} …", text.chars().take(MAX_SHOWN).collect::<String>())
            }
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(yes) => yes.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        }
    }

    /// Reports that the key does not accept the value; `help` is the remedy.
    pub(super) fn wrong<T>(&self, out: &mut Diagnostics, why: &str, help: impl Into<String>) -> Option<T> {
        out.error(self.place(), format!("`{}`: {} is {why}", self.key, self.shown()), help);
        None
    }

    /// Reports a designed value that this version does not implement.
    pub(super) fn unsupported<T>(&self, out: &mut Diagnostics, help: &str) -> Option<T> {
        let message = match self.text() {
            Some(text) => format!("`{} = {text:?}` is not supported yet", self.key),
            None => format!("`{}` is not supported yet", self.key),
        };
        out.error(self.place(), message, help);
        None
    }
}
