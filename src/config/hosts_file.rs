//! Files of hostnames, one per line.

use super::diagnostic::{Diagnostics, FileId, SourcePosition, Unreadable};
use super::host_type::{Doubt, Wrong, judge};
use super::read_budget::FileKind;
use crate::hostname::HostPattern;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Findings reported singly per file; a file that is no hosts file would produce one per line.
const MAX_FINDINGS: usize = 20;
/// Maximum names in all rules together, counted again for each rule that refers to a file. A million take 250 MB.
const MAX_NAMES: usize = 4_000_000;

/// Hosts files of one load, each read once even if several rules refer to it.
pub(super) struct HostsFiles {
    folder: PathBuf,
    read: HashMap<PathBuf, Result<Vec<HostPattern>, Unreadable>>,
    /// Names that may still be added to rules.
    left: usize,
    is_exceeded: bool,
}

impl HostsFiles {
    /// Resolves relative paths from this folder.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), read: HashMap::new(), left: MAX_NAMES, is_exceeded: false }
    }

    /// Returns the names in the file, in its order, for the rule that refers to it at `at`; none if the file cannot be
    /// read or used, which is reported.
    pub(super) fn names(
        &mut self,
        path: &Path,
        at: SourcePosition,
        out: &mut Diagnostics,
    ) -> Vec<HostPattern> {
        let path = self.folder.join(path);
        let shown = path.display().to_string();
        let names = self.read.entry(path).or_insert_with_key(|path| read(path, out));
        let names = match names {
            Ok(names) => names,
            Err(why) => {
                out.error(at, format!("`hosts_file`: {shown} cannot be read: {why}"), why.help.clone());
                return Vec::new();
            }
        };
        if let Some(left) = self.left.checked_sub(names.len()) {
            self.left = left;
            return names.clone();
        }
        if !self.is_exceeded {
            self.is_exceeded = true;
            let message =
                format!("hosts files give more than {MAX_NAMES} names to rules, all rules together");
            out.error(at, message, "name fewer files in this rule and those after it, or use wildcards");
        }
        Vec::new()
    }
}

fn read(path: &Path, out: &mut Diagnostics) -> Result<Vec<HostPattern>, Unreadable> {
    let (file, bytes) = out.open(path, FileKind::Names);
    let bytes = bytes?;
    let errors_before = out.errors();
    let names = parse(&bytes, file, out);
    if names.is_empty() && out.errors() == errors_before {
        let help = "a rule without names would cover every name; add some, or remove the rule";
        out.error(file.whole(), "there is no name in it", help);
    }
    Ok(names)
}

fn parse(bytes: &[u8], file: FileId, out: &mut Diagnostics) -> Vec<HostPattern> {
    let mut names = Vec::with_capacity(bytes.len() / 24);
    let (mut errors, mut warnings) = (FindingTally::default(), FindingTally::default());
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (index, line) in text.split(|&b| b == b'\n').enumerate() {
        let content = line.split(|&b| b == b'#').next().unwrap_or_default();
        let name = content.trim_ascii();
        if name.is_empty() {
            continue;
        }
        let indent = content.len() - content.trim_ascii_start().len();
        let at = file.at(index + 1, indent + 1);
        // Invalid UTF-8 becomes a character that no hostname contains, and is refused as such.
        match judge(&String::from_utf8_lossy(name)) {
            Ok((pattern, doubt)) => {
                if let Some(Doubt { message, help }) = doubt.filter(|_| warnings.has_room(at)) {
                    out.warning(at, message, help);
                }
                names.push(pattern);
            }
            Err(Wrong { why, help }) => {
                if errors.has_room(at) {
                    let shown = String::from_utf8_lossy(&name[..name.len().min(80)]);
                    out.error(at, format!("{shown:?} is {why}"), help);
                }
            }
        }
    }
    if let Some(at) = errors.first_untold {
        out.error(at, format!("{} more such errors in this file", errors.untold), "");
    }
    if let Some(at) = warnings.first_untold {
        out.warning(at, format!("{} more such warnings in this file", warnings.untold), "");
    }
    names
}

/// Counts findings of one kind, reported or not.
#[derive(Default)]
struct FindingTally {
    told: usize,
    untold: usize,
    first_untold: Option<SourcePosition>,
}

impl FindingTally {
    /// True if one more finding is to be reported.
    fn has_room(&mut self, at: SourcePosition) -> bool {
        if self.told < MAX_FINDINGS {
            self.told += 1;
            return true;
        }
        self.untold += 1;
        self.first_untold.get_or_insert(at);
        false
    }
}
