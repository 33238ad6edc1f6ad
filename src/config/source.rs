//! A configuration file in memory, and positions in it.

use super::diagnostic::{Diagnostics, FileId, FileKind, SourcePosition};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use toml::Spanned;
use toml::de::DeTable;

/// Maximum syntax errors reported for one file; further ones mostly follow from the first.
const MAX_SYNTAX_ERRORS: usize = 10;

/// One TOML file.
pub(super) struct SourceFile {
    id: FileId,
    text: String,
    /// Byte offset of each line; ascending, and the first is 0.
    lines: Vec<usize>,
    /// Path relative to the main file's folder; labels rules without a name.
    pub(super) label: Arc<str>,
}

impl SourceFile {
    /// Reads a file; `None` if that fails, which is reported.
    pub(super) fn open(path: &Path, label: &str, out: &mut Diagnostics) -> Option<Self> {
        let (id, bytes) = out.read(path, FileKind::Text);
        let bytes = bytes?;
        let valid = std::str::from_utf8(&bytes).map_or_else(|error| error.valid_up_to(), str::len);
        let whole = valid == bytes.len();
        // Text after the first invalid byte is useless; the text before it gives its position.
        let text = String::from_utf8_lossy(&bytes[..valid]).into_owned();
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        let source = Self { id, text, lines, label: label.into() };
        if !whole {
            out.error(source.place(&(valid..valid)), "the file is not UTF-8", "save it as UTF-8 text");
            return None;
        }
        Some(source)
    }

    /// Parses the file; `None` if it is not TOML, which is reported with all syntax errors.
    pub(super) fn parse(&self, out: &mut Diagnostics) -> Option<Spanned<DeTable<'_>>> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        for error in errors.iter().take(MAX_SYNTAX_ERRORS) {
            let at = self.place(&error.span().unwrap_or(0..0));
            out.error(at, format!("not valid TOML: {}", error.message()), "");
        }
        errors.is_empty().then_some(table)
    }

    /// Parses as much of it as possible, ignoring errors.
    pub(super) fn recover(&self) -> Spanned<DeTable<'_>> {
        DeTable::parse_recoverable(&self.text).0
    }

    /// Returns the position of the whole file.
    pub(super) fn whole(&self) -> SourcePosition {
        self.id.whole()
    }

    /// Returns the position at which a span starts.
    pub(super) fn place(&self, span: &Range<usize>) -> SourcePosition {
        let starts = |offset: &usize| self.text.is_char_boundary(*offset);
        let offset = (0..=span.start).rev().find(starts).unwrap_or(0);
        let line = self.lines.partition_point(|start| *start <= offset);
        let column = self.text[self.lines[line - 1]..offset].chars().count() + 1;
        self.id.at(line, column)
    }
}
