//! Adds tables to TOML files, and leaves every other byte as it is.

use crate::cli::replace::{Fresh, folder_of, sync_folder_of};
use std::fs;
use std::ops::Range;
use std::path::Path;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// The text with a `[[tenant.allow]]` table added below the tenant's own tables, before the next table of anything else and
/// the comment above that. `None` if the text has no such tenant, or would then say anything beside the new rule.
pub(super) fn below_tenant(text: &str, tenant: &str, table: &str) -> Option<String> {
    let mut before: Table = toml::from_str(text).ok()?;
    let is_meant = |known: &Value| known.get("name").and_then(Value::as_str) == Some(tenant);
    let tenants = before.get_mut("tenant")?.as_array_mut()?;
    let at = tenants.iter().position(is_meant)?;
    let rules = tenants[at].as_table_mut()?.entry("allow").or_insert_with(|| Value::Array(Vec::new()));
    rules.as_array_mut()?.push(only_of(table, &["tenant", "allow"])?);
    let end = end_of_tenant(text, at)?;
    let (above, below) = text.split_at(end);
    let mut edited = appended(above, table);
    if !below.is_empty() {
        edited.push('\n');
        edited.push_str(below);
    }
    (toml::from_str(&edited).ok() == Some(before)).then_some(edited)
}

/// The text with a `[[test]]` table appended; `None` if the text would then say anything beside that test.
pub(super) fn with_test(text: &str, table: &str) -> Option<String> {
    let mut before: Table = toml::from_str(text).ok()?;
    let tests = before.entry("test").or_insert_with(|| Value::Array(Vec::new()));
    tests.as_array_mut()?.push(only_of(table, &["test"])?);
    let edited = appended(text, table);
    (toml::from_str(&edited).ok() == Some(before)).then_some(edited)
}

/// The value of a text that has one table, in arrays of these names.
fn only_of(text: &str, path: &[&str]) -> Option<Value> {
    let mut value = Value::Table(toml::from_str(text).ok()?);
    for key in path {
        let inner = value.as_table_mut()?.remove(*key)?;
        value = if let Value::Array(mut array) = inner { array.pop()? } else { inner };
    }
    Some(value)
}

/// The offset at which the part of a tenant ends, by its index: where the first value of anything else begins behind its
/// last own one.
fn end_of_tenant(text: &str, at: usize) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let DeValue::Array(tenants) = table.get_ref().get("tenant")?.get_ref() else { return None };
    let tenant = tenants.get(at)?;
    let (mut own, mut all) = (Vec::new(), Vec::new());
    collect_spans(tenant, &mut own);
    for (_, value) in table.get_ref() {
        collect_spans(value, &mut all);
    }
    let last = own.iter().map(|span| span.start).max()?;
    let next = all.iter().map(|span| span.start).filter(|start| *start > last).min();
    Some(next.map_or(text.len(), |next| start_of_block(text, next)))
}

/// Collects the spans of a value and of all that is in it.
fn collect_spans(value: &Spanned<DeValue<'_>>, spans: &mut Vec<Range<usize>>) {
    spans.push(value.span());
    if let DeValue::Array(items) = value.get_ref() {
        items.iter().for_each(|item| collect_spans(item, spans));
    } else if let DeValue::Table(table) = value.get_ref() {
        table.iter().for_each(|(_, value)| collect_spans(value, spans));
    }
}

/// The text with a table appended after a blank line.
fn appended(text: &str, table: &str) -> String {
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
