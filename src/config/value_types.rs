//! Kinds of values. Each reads itself and describes itself in words, so that the documentation and the reader cannot
//! differ.

use super::diagnostic::{Diagnostics, SourcePosition};
use super::nearest::nearest;
use super::repeats::Repeat;
use super::schema::{ConfigSection, Describe};
use super::value::Value;
use crate::units::{format_duration, format_size, parse_duration, parse_size};
use std::time::Duration;

/// Reads the values of a key.
pub(super) trait ValueType: Describe {
    /// Type of the result.
    type Value;

    /// Reads a value; `None` if it is wrong, which is reported.
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Self::Value>;
}

/// A value with its position in the file.
#[derive(Debug, Clone)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) at: SourcePosition,
}

/// A nested table.
pub(super) struct NestedType(pub(super) &'static ConfigSection);

impl Describe for NestedType {
    fn describe(&self) -> String {
        if self.0.header.starts_with("[[") { "list of tables" } else { "table" }.to_owned()
    }
    fn is_table(&self) -> bool {
        true
    }
}

/// A designed key that this version refuses, with the alternative.
pub(super) struct UnsupportedType(pub(super) &'static str);

impl Describe for UnsupportedType {
    fn describe(&self) -> String {
        "not supported yet".to_owned()
    }
    fn unsupported(&self) -> Option<&'static str> {
        Some(self.0)
    }
}

/// A duration within bounds.
pub(super) struct SpanType {
    pub(super) min: Duration,
    pub(super) max: Duration,
    /// True if the kernel counts it in seconds.
    pub(super) whole_seconds: bool,
}

/// Creates a [`SpanType`] from bounds in milliseconds.
pub(super) const fn span(min: u64, max: u64) -> SpanType {
    SpanType { min: Duration::from_millis(min), max: Duration::from_millis(max), whole_seconds: false }
}

/// Creates a [`SpanType`] from bounds in whole seconds.
pub(super) const fn seconds(min: u64, max: u64) -> SpanType {
    SpanType { min: Duration::from_secs(min), max: Duration::from_secs(max), whole_seconds: true }
}

impl Describe for SpanType {
    fn describe(&self) -> String {
        let whole = if self.whole_seconds { " in whole seconds" } else { "" };
        format!("duration{whole}, \"{}\" to \"{}\"", format_duration(self.min), format_duration(self.max))
    }
}

impl ValueType for SpanType {
    type Value = Duration;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Duration> {
        let duration = match parse_duration(value.text().unwrap_or_default()) {
            Ok(duration) => duration,
            Err(error) => return wrong(value, out, &error.to_string()),
        };
        if self.whole_seconds && duration.subsec_nanos() != 0 {
            return value.wrong(
                out,
                "not a whole number of seconds",
                format!("it takes a {}", self.describe()),
            );
        }
        if !(self.min..=self.max).contains(&duration) {
            return value.wrong(out, "out of range", format!("it takes a {}", self.describe()));
        }
        Some(duration)
    }
}

/// A size in bytes, within bounds.
pub(super) struct SizeType {
    pub(super) min: u32,
    pub(super) max: u32,
}

impl Describe for SizeType {
    fn describe(&self) -> String {
        format!("size, \"{}\" to \"{}\"", format_size(self.min.into()), format_size(self.max.into()))
    }
}

impl ValueType for SizeType {
    type Value = u32;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<u32> {
        let size = match (value.number(), parse_size(value.text().unwrap_or_default())) {
            (Some(number), _) | (None, Ok(number)) => number,
            (None, Err(error)) => return wrong(value, out, &error.to_string()),
        };
        match u32::try_from(size) {
            Ok(size) if (self.min..=self.max).contains(&size) => Some(size),
            _ => value.wrong(out, "out of range", format!("it takes a {}", self.describe())),
        }
    }
}

/// An integer, within bounds.
pub(super) struct CountType {
    pub(super) min: u32,
    pub(super) max: u32,
}

impl Describe for CountType {
    fn describe(&self) -> String {
        format!("number, {} to {}", self.min, self.max)
    }
}

impl ValueType for CountType {
    type Value = u32;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<u32> {
        if !value.node().is_integer() {
            return value.wrong(out, "not a number", format!("write a {}, without quotes", self.describe()));
        }
        match value.number().and_then(|number| u32::try_from(number).ok()) {
            Some(number) if (self.min..=self.max).contains(&number) => Some(number),
            _ => value.wrong(out, "out of range", format!("it takes a {}", self.describe())),
        }
    }
}

/// A boolean.
pub(super) struct FlagType;

impl Describe for FlagType {
    fn describe(&self) -> String {
        "`true` or `false`".to_owned()
    }
}

impl ValueType for FlagType {
    type Value = bool;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<bool> {
        match value.node().as_bool() {
            Some(flag) => Some(flag),
            None => value.wrong(out, "neither yes nor no", "write true or false, without quotes"),
        }
    }
}

/// One of several words.
pub(super) struct ChoiceType<T: 'static> {
    /// The words and their values.
    pub(super) words: &'static [(&'static str, T)],
    /// Designed words that this version refuses.
    pub(super) later: &'static [&'static str],
}

impl<T: Sync> Describe for ChoiceType<T> {
    fn describe(&self) -> String {
        let words: Vec<_> = self.words.iter().map(|(word, _)| format!("{word:?}")).collect();
        words.join(" or ")
    }
}

impl<T: Copy + Sync> ValueType for ChoiceType<T> {
    type Value = T;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<T> {
        let text = value.text().unwrap_or_default();
        if let Some((_, meaning)) = self.words.iter().find(|(word, _)| *word == text) {
            return Some(*meaning);
        }
        if self.later.contains(&text) {
            return value.unsupported(out, &format!("it takes {}", self.describe()));
        }
        match nearest(text, self.words.iter().map(|(word, _)| *word)) {
            Some(meant) => value.wrong(out, "not a valid value", format!("did you mean {meant:?}?")),
            None => value.wrong(out, "not a valid value", format!("it takes {}", self.describe())),
        }
    }
}

/// A certain word, which reads as `None`, or a value of `K`.
pub(super) struct EitherType<K>(pub(super) &'static str, pub(super) K);

impl<K: Describe> Describe for EitherType<K> {
    fn describe(&self) -> String {
        format!("{:?} or {}", self.0, self.1.describe())
    }
}

impl<K: ValueType> ValueType for EitherType<K> {
    type Value = Option<K::Value>;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Self::Value> {
        match value.text() {
            Some(text) if text == self.0 => Some(None),
            // It is a word, so the inner kind's advice would not fit.
            Some(text) if text.bytes().all(|b| b.is_ascii_alphabetic()) => {
                value.wrong(out, "not a valid value", format!("it takes {}", self.describe()))
            }
            _ => self.1.read(value, out).map(Some),
        }
    }
}

/// One or more values of `K`. An empty list is refused, because it could be read as "any" or as "none".
pub(super) struct ListType<K>(pub(super) K);

impl<K: Describe> Describe for ListType<K> {
    fn describe(&self) -> String {
        format!("list of: {}", self.0.describe())
    }
}

/// A kind of value that lists are made of.
pub(super) trait ListItem: ValueType {
    /// Finds the entries of a list that another covers; none where checks across tables find them.
    fn repeats(list: &[&Self::Value]) -> Vec<Repeat>;
}

/// Repeated entries that are reported one by one for each list.
const MAX_REPEATS: usize = 20;

impl<K: ListItem> ValueType for ListType<K> {
    type Value = Vec<Placed<K::Value>>;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Self::Value> {
        let Some(elements) = value.node().as_array() else {
            let help = format!("put brackets around it: it takes a {}", self.describe());
            return value.wrong(out, "not a list", help);
        };
        if elements.is_empty() {
            let help =
                if value.required { "name at least one" } else { "name at least one, or leave the key out" };
            out.error(value.place(), format!("`{}`: the list is empty", value.key), help);
            return None;
        }
        let mut written = Vec::with_capacity(elements.len());
        let read_one = |node| {
            let element = value.element(node);
            let read = Placed { value: self.0.read(element, out)?, at: element.place() };
            written.push(element);
            Some(read)
        };
        let read: Vec<_> = elements.iter().filter_map(read_one).collect();
        warn_of_repeats(&K::repeats(&read.iter().map(|one| &one.value).collect::<Vec<_>>()), &written, out);
        Some(read)
    }
}

/// Warns of entries that stand in the list twice, or that another entry covers.
fn warn_of_repeats(repeats: &[Repeat], written: &[Value<'_>], out: &mut Diagnostics) {
    for &Repeat { entry, by } in repeats.iter().take(MAX_REPEATS) {
        let (entry, by) = (written[entry], written[by].shown());
        let message = match entry.shown() {
            same if same == by => format!("`{}`: {same} is listed twice", entry.key),
            inner => format!("`{}`: {inner} is covered by {by} in the same list", entry.key),
        };
        out.warning(entry.place(), message, "remove it");
    }
    if let Some(Repeat { entry, .. }) = repeats.get(MAX_REPEATS) {
        let (entry, more) = (written[*entry], repeats.len() - MAX_REPEATS);
        out.warning(entry.place(), format!("`{}`: {more} more such entries in the same list", entry.key), "");
    }
}

/// Reports an error with the text `problem; remedy`.
pub(super) fn wrong<T>(value: Value<'_>, out: &mut Diagnostics, text: &str) -> Option<T> {
    let (why, help) = text.split_once("; ").unwrap_or((text, ""));
    value.wrong(out, why, help)
}
