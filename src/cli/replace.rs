//! Replacing files whole: written beside the old one, synced, and renamed over it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// A newly written file, removed on drop unless it is renamed or kept.
pub(super) struct Fresh(Option<PathBuf>);

impl Fresh {
    /// Writes the file with mode and owner of `model`: the gateway's user must be able to read it, and possibly nobody
    /// else.
    pub(super) fn create(path: &Path, bytes: &[u8], model: &Metadata) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let fresh = Self(Some(path.to_owned()));
        file.write_all(bytes)?;
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (model.uid(), model.gid()) {
            chown(path, Some(model.uid()), Some(model.gid()))?;
        }
        // A folder's mode has the right to search it, which would make a program of a file.
        let kept = if model.is_dir() { 0o666 } else { 0o777 };
        file.set_permissions(fs::Permissions::from_mode(model.mode() & kept))?;
        file.sync_all()?;
        Ok(fresh)
    }

    /// Writes a hidden file beside `path`, with mode and owner of the file at `path`, else of `model`.
    pub(super) fn beside(path: &Path, bytes: &[u8], model: &Metadata) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let there = fs::metadata(path).ok();
        Self::create(&folder_of(path).join(format!(".{name}.new")), bytes, there.as_ref().unwrap_or(model))
    }

    /// Renames the file over `path`.
    pub(super) fn take_the_place_of(mut self, path: &Path) -> io::Result<()> {
        if let Some(own) = &self.0 {
            fs::rename(own, path)?;
            self.0 = None;
        }
        Ok(())
    }

    /// Keeps the file, and returns its path.
    pub(super) fn stays(mut self) -> PathBuf {
        self.0.take().unwrap_or_default()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // The cause is being reported already.
            let _ = fs::remove_file(path);
        }
    }
}

/// Returns the folder that contains the file.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Syncs the folder, so that a rename survives a crash.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}
