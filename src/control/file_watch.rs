//! `[policy] watch`: detects changes of the configuration files by polling.

use crate::config::FileStamps;

/// Most polls to wait for a file that keeps changing; then it is read anyway.
const PATIENCE: u32 = 10;

/// Polls the files that were last read. Polling follows symbolic links, works on every file system, and cannot lose a
/// watch; a file that cannot be read counts as changed.
pub(crate) struct FileWatch {
    read: FileStamps,
    seen: Option<FileStamps>,
    looks: u32,
}

impl FileWatch {
    pub(crate) fn new(read: FileStamps) -> Self {
        Self { read, seen: None, looks: 0 }
    }

    /// Notes that the files were read, for whatever reason.
    pub(crate) fn read(&mut self, read: FileStamps) {
        *self = Self::new(read);
    }

    /// Returns true once when the files have changed since they were read, and not since the last poll: this waits for
    /// an editor or a copy to finish.
    pub(crate) fn is_due(&mut self) -> bool {
        let now = self.read.now();
        if now == self.read {
            self.seen = None;
            self.looks = 0;
            return false;
        }
        self.looks += 1;
        if self.seen.as_ref() == Some(&now) || self.looks > PATIENCE {
            self.read(now);
            return true;
        }
        self.seen = Some(now);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn settled_file_change_is_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("egret.toml");
        let write = |n: u32| fs::write(&main, format!("# {}\n", "x".repeat(n as usize))).unwrap();
        write(0);
        let mut watch = FileWatch::new(crate::config::load(&main).unwrap_err().read);
        assert!(!watch.is_due() && !watch.is_due());
        write(1);
        assert!(!watch.is_due());
        write(2);
        assert!(!watch.is_due(), "it has changed since the last look");
        assert!(watch.is_due());
        assert!(!watch.is_due() && !watch.is_due(), "told already");
        // Read for another reason.
        write(3);
        assert!(!watch.is_due());
        watch.read(crate::config::load(&main).unwrap_err().read);
        assert!(!watch.is_due() && !watch.is_due());
        // A file that keeps changing is read eventually.
        let mut due = false;
        for n in 4..=4 + PATIENCE {
            write(n);
            due |= watch.is_due();
        }
        assert!(due);
    }
}
