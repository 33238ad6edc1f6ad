//! Bounds on the bytes that one load reads: loading a candidate must not exhaust the gateway's memory.

use crate::files;
use std::io;
use std::path::Path;

/// Contents of a configuration file.
#[derive(Debug, Clone, Copy)]
pub(super) enum FileKind {
    /// TOML.
    Text,
    /// Hostnames, one per line.
    Names,
    /// Certificates or keys.
    Keys,
}

/// Bytes that may still be read for one load, by kind of file.
#[derive(Debug)]
pub(super) struct ReadBudget {
    text: u64,
    names: u64,
    keys: u64,
}

impl Default for ReadBudget {
    fn default() -> Self {
        Self { text: files::ALL_TEXT, names: files::NAMES, keys: files::KEYS }
    }
}

impl ReadBudget {
    /// Reads a file, within the limit on one file of its kind and on all of them.
    pub(super) fn read(&mut self, path: &Path, kind: FileKind) -> io::Result<Vec<u8>> {
        let (left, each, all) = match kind {
            FileKind::Text => (&mut self.text, files::TEXT, files::ALL_TEXT),
            FileKind::Names => (&mut self.names, files::NAMES, files::NAMES),
            FileKind::Keys => (&mut self.keys, files::KEYS, files::KEYS),
        };
        let most = each.min(*left);
        let bytes = files::read(path, most).map_err(|error| {
            if error.kind() != io::ErrorKind::FileTooLarge {
                return error;
            }
            let mut message = if most < each || each == all {
                format!("it is too large: at most {} MiB are read of all such files together", all >> 20)
            } else {
                format!("it is too large: at most {} MiB are read of one such file", each >> 20)
            };
            if matches!(kind, FileKind::Text) {
                message += "; a `hosts_file` may hold more names";
            }
            io::Error::new(error.kind(), message)
        })?;
        *left -= bytes.len() as u64;
        Ok(bytes)
    }
}
