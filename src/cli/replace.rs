//! Replacing files whole: written beside the old one, synced, and renamed over it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
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

/// Creates a folder, and those above it that are missing, with owner and mode of the folder `model`, whatever the caller's umask:
/// whoever may read there may read here, and the owner alone may write.
pub(super) fn create_folders(folder: &Path, model: &Metadata) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    create_folders(folder_of(folder), model)?;
    fs::DirBuilder::new().mode(0o700).create(folder)?;
    let made = fs::metadata(folder)?;
    if (made.uid(), made.gid()) != (model.uid(), model.gid()) {
        chown(folder, Some(model.uid()), Some(model.gid()))?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(model.mode() & 0o2755))
}

/// Syncs the folder, so that a rename survives a crash.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_folders_are_writable_by_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        for (number, (there, made)) in
            [(0o2777, 0o2755), (0o775, 0o755), (0o770, 0o750)].into_iter().enumerate()
        {
            fs::set_permissions(root.path(), fs::Permissions::from_mode(there)).unwrap();
            let folder = root.path().join(format!("{number}/inner"));
            create_folders(&folder, &fs::metadata(root.path()).unwrap()).unwrap();
            assert_eq!((mode(&folder), mode(folder_of(&folder)), mode(root.path())), (made, made, there));
        }
    }
}
