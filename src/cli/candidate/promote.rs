//! Copies the candidate's files over those of the running configuration, without losing any.
//!
//! Done here because the gateway may not write to its own configuration. Every file is written beside the one it
//! replaces, synced, and renamed over it; replaced and removed files are kept.

use crate::admin::{FileRead, FileSet};
use crate::cli::replace::{Fresh, create_folders, folder_of, sync_folder_of};
use crate::config::{digest_of, policy_files};
use crate::files;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};

/// Folder for replaced files, in the folder of the main file.
const KEPT: &str = "replaced";

/// Reason why nothing was written, or everything was restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "{0} is not what the gateway ran on when the candidate was loaded; take the change back, or put it into the \
         candidate too, `egret reload`, load the candidate again, and promote then"
    )]
    RunningChanged(PathBuf),
    #[error(
        "{0} is not what was loaded as candidate: it was changed since; load the candidate again, and promote then"
    )]
    CandidateChanged(PathBuf),
    #[error(
        "{0} lies outside of the candidate's folder, and would be another file for the running configuration; \
         write its path in full"
    )]
    Outside(PathBuf),
    #[error("{path}: {error}; nothing was changed (promote as a user who may write there)")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: {error}; some files were changed and could not be changed back: they are in {kept}")]
    Torn { path: PathBuf, error: io::Error, kept: PathBuf },
}

/// The changes made.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Files written, new or over an old one.
    pub(super) replaced: Vec<PathBuf>,
    /// Files removed, because the candidate does not have them.
    pub(super) removed: Vec<PathBuf>,
    /// Folder of the old files; `None` if there were none.
    pub(super) kept: Option<PathBuf>,
    done: Vec<Done>,
}

/// A changed file; `before` is the path of its old version, if there was one.
#[derive(Debug)]
struct Done {
    path: PathBuf,
    before: Option<PathBuf>,
}

/// A file to change.
struct FileChange {
    /// Path relative to the folder.
    relative: PathBuf,
    /// New content; `None`: remove the file.
    bytes: Option<Vec<u8>>,
}

/// Checks that no file has changed since it was loaded, and writes. `now` names the folder of replaced files.
pub(super) fn write(running: &FileSet, candidate: &FileSet, now: jiff::Timestamp) -> Result<Written, Error> {
    check(candidate, Error::CandidateChanged)?;
    if running.main == candidate.main {
        return Ok(Written::default());
    }
    check(running, Error::RunningChanged)?;
    let folder = folder_of(&running.main);
    let steps = plan(running, candidate, folder)?;
    if steps.is_empty() {
        return Ok(Written::default());
    }
    let kept = folder.join(KEPT).join(now.strftime("%Y%m%dT%H%M%S%.3fZ").to_string());
    carry_out(prepare(steps, folder, &running.main, &kept)?, kept)
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::Io { path, error }
}

/// Checks that every file is unchanged, and that no further policy file has been added.
fn check(set: &FileSet, changed: fn(PathBuf) -> Error) -> Result<(), Error> {
    for FileRead { path, digest } in &set.files {
        let is_same = files::read(path, files::NAMES).is_ok_and(|bytes| digest_of(&bytes) == *digest);
        if !is_same {
            return Err(changed(path.clone()));
        }
    }
    let folder = folder_of(&set.main);
    for path in policy_files(folder).map_err(io_at(folder))? {
        if !set.files.iter().any(|file| file.path == path) {
            return Err(changed(path));
        }
    }
    Ok(())
}

/// Lists the files to write and to remove in the folder of the running configuration.
fn plan(running: &FileSet, candidate: &FileSet, folder: &Path) -> Result<Vec<FileChange>, Error> {
    let (source, main) = (folder_of(&candidate.main), running.main.strip_prefix(folder));
    let main = main.unwrap_or(&running.main);
    let (mut steps, mut wanted) = (Vec::new(), Vec::new());
    for file in &candidate.files {
        let Ok(relative) = file.path.strip_prefix(source) else { continue };
        let relative = if file.path == candidate.main { main } else { relative };
        let bytes = files::read(&file.path, files::NAMES).map_err(io_at(&file.path))?;
        let there = folder.join(relative);
        wanted.push(there.clone());
        if files::read(&there, files::NAMES).is_ok_and(|there| there == bytes) {
            continue;
        }
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Error::Outside(file.path.clone()));
        }
        steps.push(FileChange { relative: relative.to_owned(), bytes: Some(bytes) });
    }
    for path in policy_files(folder).map_err(io_at(folder))? {
        if !wanted.contains(&path)
            && let Ok(relative) = path.strip_prefix(folder)
        {
            steps.push(FileChange { relative: relative.to_owned(), bytes: None });
        }
    }
    Ok(steps)
}

/// A step that is complete up to the final rename. Dropping it removes its temporary files.
struct Prepared {
    path: PathBuf,
    /// Copy of the old file; `None` if there is none.
    before: Option<Fresh>,
    /// Replacement; `None`: the file is removed.
    after: Option<Fresh>,
}

/// Does all that is likely to fail, before anything is changed.
fn prepare(steps: Vec<FileChange>, folder: &Path, main: &Path, kept: &Path) -> Result<Vec<Prepared>, Error> {
    let model = fs::metadata(main).map_err(io_at(main))?;
    let folder_model = fs::metadata(folder).map_err(io_at(folder))?;
    let prepare = |FileChange { relative, bytes }: FileChange| {
        // A symbolic link is kept: its target is replaced. One that leads nowhere is refused.
        let there = folder.join(&relative);
        let path = match fs::canonicalize(&there) {
            Ok(path) => path,
            Err(error) if there.is_symlink() => return Err(io_at(&there)(error)),
            Err(_) => there,
        };
        let before =
            if path.exists() { Some(keep(&path, &kept.join(&relative), &folder_model)?) } else { None };
        create_folders(folder_of(&path), &folder_model).map_err(io_at(folder_of(&path)))?;
        let after = bytes.map(|bytes| write_beside(&path, &bytes, &model)).transpose()?;
        Ok(Prepared { path, before, after })
    };
    steps.into_iter().map(prepare).collect()
}

/// Carries out all steps, or none.
fn carry_out(steps: Vec<Prepared>, kept: PathBuf) -> Result<Written, Error> {
    let mut written = Written::default();
    for Prepared { path, before, after } in steps {
        let replaces = after.is_some();
        let moved = match after {
            Some(after) => after.take_the_place_of(&path),
            None => fs::remove_file(&path),
        };
        // From here on there is a change to undo, and the copy must be kept for that.
        if moved.is_ok() {
            let list = if replaces { &mut written.replaced } else { &mut written.removed };
            list.push(path.clone());
            let before = before.map(Fresh::stays);
            written.kept = written.kept.or_else(|| before.is_some().then(|| kept.clone()));
            written.done.push(Done { path: path.clone(), before });
        }
        if let Err(error) = moved.and_then(|()| sync_folder_of(&path)) {
            return Err(match written.take_back() {
                Ok(()) => Error::Io { path, error },
                Err(_) => Error::Torn { path, error, kept },
            });
        }
    }
    Ok(written)
}

impl Written {
    /// Lists the changes, one per line.
    pub(super) fn told(&self) -> String {
        let lines = |what: &str, paths: &[PathBuf]| {
            paths.iter().map(|path| format!("{what} {}", path.display())).collect::<Vec<_>>()
        };
        let kept = self.kept.as_ref().map(|kept| format!("what was there is in {}", kept.display()));
        let told =
            [lines("wrote", &self.replaced), lines("removed", &self.removed), kept.into_iter().collect()];
        told.concat().iter().flat_map(|line| [line, "\n"]).collect()
    }

    /// Restores the old files.
    pub(super) fn take_back(&self) -> io::Result<()> {
        for Done { path, before } in self.done.iter().rev() {
            match before {
                Some(before) => {
                    let model = fs::metadata(before)?;
                    let fresh = write_beside(path, &fs::read(before)?, &model).map_err(io::Error::other)?;
                    fresh.take_the_place_of(path)?;
                }
                None => fs::remove_file(path)?,
            }
            sync_folder_of(path)?;
        }
        Ok(())
    }
}

/// Copies a file with its mode and owner, into folders like `folder_model`.
fn keep(path: &Path, to: &Path, folder_model: &Metadata) -> Result<Fresh, Error> {
    let folder = folder_of(to);
    create_folders(folder, folder_model).map_err(io_at(folder))?;
    let model = fs::metadata(path).map_err(io_at(path))?;
    let bytes = files::read(path, files::NAMES).map_err(io_at(path))?;
    Fresh::create(to, &bytes, &model).map_err(io_at(to))
}

/// Writes a hidden file beside `path`, with mode and owner of the file at `path`, else of `model`.
fn write_beside(path: &Path, bytes: &[u8], model: &Metadata) -> Result<Fresh, Error> {
    Fresh::beside(path, bytes, model).map_err(io_at(path))
}

#[cfg(test)]
mod tests;
