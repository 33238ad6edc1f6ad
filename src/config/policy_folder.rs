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
    files.retain(|path| is_policy_file(path));
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
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "toml")
}
