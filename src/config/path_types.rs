//! Kinds of paths and of what is written to.

use super::diagnostic::Diagnostics;
use super::read_budget::FileKind;
use super::repeats::{self, Repeat};
use super::schema::Describe;
use super::value::Value;
use super::value_types::{ListItem, ValueType};
use super::{AuditTarget as Audited, FlowLogTarget};
use std::path::{Path, PathBuf};

/// A word (read as `None`), or the contents of a file: one or more entries.
pub(super) struct WordOrFileType<T: 'static> {
    pub(super) word: &'static str,
    /// Description: "PEM file".
    pub(super) file: &'static str,
    /// Parses the file's contents, which must have an entry; else the error.
    pub(super) read: fn(&[u8]) -> Result<Vec<T>, String>,
}

impl<T> Describe for WordOrFileType<T> {
    fn describe(&self) -> String {
        format!("`\"{}\"` or the absolute path of a {}", self.word, self.file)
    }
}

impl<T> ValueType for WordOrFileType<T> {
    type Value = Option<Vec<T>>;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Self::Value> {
        let path = match value.text() {
            Some(word) if word == self.word => return Some(None),
            Some(path) if is_a_file(path) => path,
            _ => {
                let why = format!("neither \"{}\" nor an absolute path", self.word);
                return value.wrong(out, &why, format!("it takes {}", self.describe()));
            }
        };
        let (_, content) = out.open(Path::new(path), FileKind::Keys);
        match content.map(|content| (self.read)(&content)) {
            Ok(Ok(found)) => Some(Some(found)),
            Ok(Err(why)) => value.wrong(out, &format!("no {}", self.file), why),
            Err(error) if error.help.is_empty() => {
                value.wrong(out, "a file that cannot be read", error.to_string())
            }
            Err(error) => value.wrong(out, "a file that cannot be read", format!("{error}; {}", error.help)),
        }
    }
}

impl<T: PartialEq> ListItem for WordOrFileType<T> {
    fn repeats(list: &[&Option<Vec<T>>]) -> Vec<Repeat> {
        repeats::covered(list, |outer, inner| outer == inner)
    }
}

/// A Unix socket.
pub(super) struct ControlSocketType;

impl Describe for ControlSocketType {
    fn describe(&self) -> String {
        "`unix:` and an absolute path".to_owned()
    }
}

impl ValueType for ControlSocketType {
    type Value = PathBuf;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<PathBuf> {
        let help = "write it as in \"unix:/run/egret/admin.sock\", with at most 107 bytes of path";
        // unix(7): sun_path has 108 bytes with the NUL.
        let fits = |path: &&str| Path::new(path).is_absolute() && !path.contains('\0') && path.len() <= 107;
        match value.text().and_then(|text| text.strip_prefix("unix:")).filter(fits) {
            Some(path) => Some(path.into()),
            None => value.wrong(out, "not a unix socket", help),
        }
    }
}

/// Path of a file beside the configuration.
pub(super) struct FileNameType;

impl Describe for FileNameType {
    fn describe(&self) -> String {
        "path, from the folder of the main file".to_owned()
    }
}

impl ValueType for FileNameType {
    type Value = PathBuf;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<PathBuf> {
        match value.text() {
            Some(text) if !text.is_empty() && !text.contains('\0') => Some(text.into()),
            _ => value.wrong(out, "not a path", "write it as in \"allow/acme.txt\""),
        }
    }
}

/// Destination of the flow log.
pub(super) struct LogTargetType;

impl Describe for LogTargetType {
    fn describe(&self) -> String {
        "\"stdout\", \"off\" or an absolute path".to_owned()
    }
}

impl ValueType for LogTargetType {
    type Value = FlowLogTarget;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<FlowLogTarget> {
        match value.text().unwrap_or_default() {
            "stdout" => Some(FlowLogTarget::Stdout),
            "off" => Some(FlowLogTarget::Off),
            "journald" => value.unsupported(out, "under systemd \"stdout\" goes to the journal"),
            path if is_a_file(path) => Some(FlowLogTarget::File(path.into())),
            _ => value.wrong(
                out,
                "not a place for the log",
                format!("it takes {}, as in \"/var/log/egret/flows.jsonl\"", self.describe()),
            ),
        }
    }
}

/// A file whose creation requests an action.
pub(super) struct RequestFileType;

impl Describe for RequestFileType {
    fn describe(&self) -> String {
        "absolute path".to_owned()
    }
}

impl ValueType for RequestFileType {
    type Value = PathBuf;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<PathBuf> {
        match value.text().filter(|path| is_a_file(path)) {
            Some(path) => Some(path.into()),
            None => value.wrong(out, "not an absolute path", "write it as in \"/run/egret/repair-steering\""),
        }
    }
}

/// Destination of the audit log. It cannot be turned off.
pub(super) struct AuditTargetType;

impl Describe for AuditTargetType {
    fn describe(&self) -> String {
        "\"stderr\" or an absolute path".to_owned()
    }
}

impl ValueType for AuditTargetType {
    type Value = Audited;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Audited> {
        match value.text().unwrap_or_default() {
            "stderr" => Some(Audited::Stderr),
            path if is_a_file(path) => Some(Audited::File(path.into())),
            _ => value.wrong(
                out,
                "not a place for the log",
                format!("it takes {}, as in \"/var/log/egret/audit.jsonl\"", self.describe()),
            ),
        }
    }
}

fn is_a_file(path: &str) -> bool {
    Path::new(path).is_absolute() && !path.contains('\0')
}
