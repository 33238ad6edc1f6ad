//! The folder of policy files, beside the main file.

use super::texts::Texts;
use std::io;
use std::path::{Path, PathBuf};

/// Folder of policy files, beside the main file.
pub(super) const POLICY_FOLDER: &str = "policy.d";

const MOST_POLICY_FILES: usize = 10_000;

/// Returns the files of `policy.d` in a main file's folder, in the order of their names. Hidden files are skipped:
/// editors store unfinished files under such names.
pub fn policy_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = entries(folder)?;
    files.retain(|path| is_policy_file(path));
    Ok(files)
}

/// Returns the entries of `policy.d` that are not read. Neither hidden files nor copies that editors and package managers
/// leave are among them.
pub(super) fn ignored_files(folder: &Path) -> Vec<PathBuf> {
    let mut ignored = entries(folder).unwrap_or_default();
    ignored.retain(|path| !is_policy_file(path) && !is_leftover(path));
    ignored
}

/// Returns the entries of `policy.d` in the order of their names; none if there is no such folder.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder.join(POLICY_FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry?.path());
        if files.len() > MOST_POLICY_FILES {
            return Err(io::Error::other(format!("it holds more than {MOST_POLICY_FILES} files")));
        }
    }
    files.sort();
    Ok(files)
}

/// Like [`policy_files`], for saved texts.
pub(super) fn policy_texts(folder: &Path, texts: &Texts) -> Vec<PathBuf> {
    let mut files = texts.list(&folder.join(POLICY_FOLDER));
    files.retain(|path| is_policy_file(path));
    files
}

fn is_policy_file(path: &Path) -> bool {
    !is_hidden(path) && path.extension().is_some_and(|extension| extension == "toml")
}

/// True for hidden files, and for the copies that editors and package managers leave beside a file.
fn is_leftover(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let marks = [".bak", ".dpkg-", ".ucf-", ".rpmnew", ".rpmsave", ".rpmorig"];
    is_hidden(path) || name.ends_with('~') || marks.iter().any(|mark| name.contains(mark))
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}
