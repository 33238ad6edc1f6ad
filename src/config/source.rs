//! A configuration file in memory, and positions in it.

use super::diagnostic::{Diagnostics, FileId, SourcePosition};
use super::read_budget::FileKind;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use toml::Spanned;
use toml::de::DeTable;

/// Bytes between two counts of characters. A line may be as long as the file, and have a position for every few bytes.
const BLOCK: usize = 512;

/// One TOML file.
pub(super) struct SourceFile {
    id: FileId,
    text: String,
    /// Number of characters before each multiple of [`BLOCK`] bytes.
    characters: Vec<usize>,
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
        let mut characters = vec![0];
        for block in text.as_bytes().chunks(BLOCK) {
            characters.push(characters.last().unwrap_or(&0) + count_characters(block));
        }
        let source = Self { id, text, characters, lines, label: label.into() };
        if !whole {
            out.error(source.place(&(valid..valid)), "the file is not UTF-8", "save it as UTF-8 text");
            return None;
        }
        Some(source)
    }

    /// Parses the file; `None` if it is not TOML, which is reported. Only the first error is: after an unclosed bracket the parser
    /// takes what follows for part of it.
    pub(super) fn parse(&self, out: &mut Diagnostics) -> Option<Spanned<DeTable<'_>>> {
        DeTable::parse(&self.text)
            .map_err(|error| {
                let at = self.place(&error.span().unwrap_or(0..0));
                out.error(at, format!("not valid TOML: {}", error.message()), "");
            })
            .ok()
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
        let column = self.characters_before(offset) - self.characters_before(self.lines[line - 1]) + 1;
        self.id.at(line, column)
    }

    fn characters_before(&self, offset: usize) -> usize {
        let block = offset / BLOCK;
        self.characters[block] + count_characters(&self.text.as_bytes()[block * BLOCK..offset])
    }
}

/// Number of characters of UTF-8 text that start in these bytes.
fn count_characters(text: &[u8]) -> usize {
    text.iter().filter(|byte| !matches!(byte, 0x80..=0xbf)).count()
}
