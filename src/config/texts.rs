//! The text of every file of a configuration, apart from the disk.

use super::version::digest_of;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files that one load has read, or will read instead of the disk's, by the paths that they have there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts(BTreeMap<PathBuf, Arc<[u8]>>);

impl Texts {
    /// Adds a file.
    pub fn insert(&mut self, path: PathBuf, text: Arc<[u8]>) {
        self.0.insert(path, text);
    }

    /// In the order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.0.iter().map(|(path, text)| (path.as_path(), &**text))
    }

    /// Equal for the same files, by accident only for others.
    pub fn digest(&self) -> u64 {
        let parts = self
            .iter()
            .flat_map(|(path, text)| [digest_of(path.as_os_str().as_encoded_bytes()), digest_of(text)]);
        digest_of(&parts.flat_map(u64::to_le_bytes).collect::<Vec<_>>())
    }

    /// The text of one.
    pub(super) fn read(&self, path: &Path) -> io::Result<Arc<[u8]>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Those in a folder.
    pub(super) fn list(&self, folder: &Path) -> Vec<PathBuf> {
        self.0.keys().filter(|path| path.parent() == Some(folder)).cloned().collect()
    }
}
