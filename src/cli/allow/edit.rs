//! Adds tables to TOML files, and leaves every other byte as it is.

use crate::cli::replace::{Fresh, folder_of, sync_folder_of};
use serde::Deserialize;
use std::fs;
use std::path::Path;
use toml::Spanned;

/// The part of a configuration file that locates its tenants.
#[derive(Deserialize)]
struct EditedFile {
    #[serde(default)]
    tenant: Vec<Spanned<TenantSpan>>,
}

#[derive(Deserialize)]
struct TenantSpan {
    name: String,
}

/// The text with a table added at the end of the tenant's part, before the next `[[tenant]]` and the comment above it.
/// `None` if the text has no such tenant.
pub(super) fn below_tenant(text: &str, tenant: &str, table: &str) -> Option<String> {
    let EditedFile { tenant: tenants } = toml::from_str(text).ok()?;
    let at = tenants.iter().position(|known| known.get_ref().name == tenant)?;
    let end = tenants.get(at + 1).map_or(text.len(), |next| start_of_block(text, next.span().start));
    let (above, below) = text.split_at(end);
    let mut edited = appended(above, table);
    if !below.is_empty() {
        edited.push('\n');
        edited.push_str(below);
    }
    Some(edited)
}

/// The text with a table appended after a blank line.
pub(super) fn appended(text: &str, table: &str) -> String {
    match text.trim_end() {
        "" => table.to_owned(),
        text => format!("{text}\n\n{table}"),
    }
}

/// The start of the line that holds `offset`, or of the comment lines right above it.
fn start_of_block(text: &str, offset: usize) -> usize {
    let line_start = |end: usize| text[..end].rfind('\n').map_or(0, |newline| newline + 1);
    let mut start = line_start(offset);
    while start > 0 {
        let above = line_start(start - 1);
        if !text[above..start].trim_start().starts_with('#') {
            break;
        }
        start = above;
    }
    start
}

/// Replaces a file whole. Mode and owner stay; a new file has those of its folder's owner, and is readable as the folder is.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), String> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let model = fs::metadata(&path).or_else(|_| fs::metadata(folder_of(&path)));
    let written = model.and_then(|model| {
        Fresh::beside(&path, text.as_bytes(), &model)?.take_the_place_of(&path)?;
        sync_folder_of(&path)
    });
    written.map_err(|error| format!("{}: {error}", path.display()))
}
