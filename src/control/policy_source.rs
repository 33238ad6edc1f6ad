//! The source of the gateway's configuration: files.

use crate::config::{self, ConfigReport, FileStamps, LoadedConfig};
use std::path::{Path, PathBuf};

/// Most polls to wait for a file that keeps changing; then it is read anyway.
const PATIENCE: u32 = 10;

/// Reads the configuration, remembers the revision that was read, and tells when there is another.
///
/// Changes are found by polling: that follows symbolic links, works on every file system, and cannot lose a watch. A file
/// that cannot be read counts as changed.
#[derive(Debug, Clone)]
pub(crate) struct PolicySource {
    /// The main file.
    main: PathBuf,
    /// Revision that was read last.
    revision: FileStamps,
    /// Another revision, found by the last poll.
    seen: Option<FileStamps>,
    polls: u32,
}

impl PolicySource {
    /// Reads nothing yet.
    pub(crate) fn new(main: &Path) -> Self {
        Self { main: main.to_owned(), revision: FileStamps::default(), seen: None, polls: 0 }
    }

    /// Reads the configuration.
    pub(crate) fn read(&mut self) -> Result<LoadedConfig, ConfigReport> {
        let loaded = config::load(&self.main);
        self.note(loaded.as_ref().map_or_else(|report| &report.read, |loaded| &loaded.read).clone());
        loaded
    }

    /// Reads a candidate from elsewhere. It is read under the final file name, which labels rules without a name.
    pub(crate) fn read_candidate(&self, file: &Path) -> Result<LoadedConfig, ConfigReport> {
        let name = self.main.file_name().unwrap_or(self.main.as_os_str());
        config::load_as(file, &name.to_string_lossy())
    }

    /// Polls. Returns true once when there is another revision than the one that was read, and it is the one of the last
    /// poll: this waits for an editor or a copy to finish, for [`PATIENCE`] polls at most.
    pub(crate) fn has_changed(&mut self) -> bool {
        let now = self.revision.now();
        if now == self.revision {
            self.seen = None;
            self.polls = 0;
            return false;
        }
        self.polls += 1;
        if self.seen.as_ref() == Some(&now) || self.polls > PATIENCE {
            self.note(now);
            return true;
        }
        self.seen = Some(now);
        false
    }

    fn note(&mut self, revision: FileStamps) {
        self.revision = revision;
        self.seen = None;
        self.polls = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn settled_change_is_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("egret.toml");
        let write = |n: u32| fs::write(&main, format!("# {}\n", "x".repeat(n as usize))).unwrap();
        write(0);
        let mut source = PolicySource::new(&main);
        source.read().unwrap_err();
        assert!(!source.has_changed() && !source.has_changed());
        write(1);
        assert!(!source.has_changed());
        write(2);
        assert!(!source.has_changed(), "it has changed since the last look");
        assert!(source.has_changed());
        assert!(!source.has_changed() && !source.has_changed(), "told already");
        // Read for another reason.
        write(3);
        assert!(!source.has_changed());
        source.read().unwrap_err();
        assert!(!source.has_changed() && !source.has_changed());
        // A file that keeps changing is read eventually.
        let mut changed = false;
        for n in 4..=4 + PATIENCE {
            write(n);
            changed |= source.has_changed();
        }
        assert!(changed);
    }
}
