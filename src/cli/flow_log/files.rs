//! The files of a flow log, rotated ones included.

use crate::files;
use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// True if the path names an open descriptor of this process, as `<(zcat …)` in a shell does.
fn is_descriptor(path: &Path) -> bool {
    path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd") || path == Path::new("/dev/stdin")
}

/// Endings of compressed files that cannot be read here.
const UNREADABLE: [&str; 4] = ["zst", "xz", "bz2", "lz4"];

/// One part of the log.
pub(in crate::cli) enum LogFile {
    Stdin,
    Path(PathBuf),
}

impl LogFile {
    /// The file for an argument of the command line.
    pub(super) fn given(path: &Path) -> Self {
        if path == Path::new("-") { Self::Stdin } else { Self::Path(path.to_owned()) }
    }

    pub(super) fn open(&self) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Stdin => Box::new(io::stdin().lock()),
            Self::Path(path) if is_descriptor(path) => Box::new(File::open(path)?),
            Self::Path(path) => Box::new(files::open(path)?),
        })
    }

    /// Size on the disk in bytes; 0 if it is not known.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Stdin => 0,
            Self::Path(path) => fs::metadata(path).map_or(0, |about| about.len()),
        }
    }
}

impl fmt::Display for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// The log and its rotated files (`.1`, `.2.gz`, `-20260131.gz`), the last written first, and those whose compression cannot
/// be read. Files last written before `since` are left out.
pub(super) fn rotated(path: &Path, since: Option<SystemTime>) -> io::Result<(Vec<LogFile>, Vec<PathBuf>)> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let base = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let (mut files, mut unread) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_part(name, base)) else { continue };
        let about = entry.metadata()?;
        if !about.is_file() || since.is_some_and(|since| about.modified().is_ok_and(|last| last < since)) {
            continue;
        }
        // While logrotate compresses a file both are there, and the plain one is complete.
        if name.strip_suffix(".gz").is_some_and(|plain| folder.join(plain).exists()) {
            continue;
        }
        if is_unreadable(Path::new(name)) {
            unread.push(entry.path());
        } else {
            files.push((Reverse(about.modified().ok()), entry.path()));
        }
    }
    files.sort();
    unread.sort();
    if files.is_empty() && unread.is_empty() && !path.exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok((files.into_iter().map(|(_, path)| LogFile::Path(path)).collect(), unread))
}

/// True if the name's ending says that the file cannot be read here.
pub(super) fn is_unreadable(path: &Path) -> bool {
    path.extension().and_then(OsStr::to_str).is_some_and(|form| UNREADABLE.contains(&form))
}

fn is_part(name: &str, base: &str) -> bool {
    match name.strip_prefix(base) {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix(['.', '-'])
            .is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit())),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn rotated_log_files_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("flows.jsonl");
        assert!(rotated(&log, None).is_err(), "there is none");
        let now = crate::clock::wall();
        for (hours, name) in (0..).zip([
            "flows.jsonl",
            "flows.jsonl.1",
            "flows.jsonl.1.gz",
            "flows.jsonl-20260131",
            "flows.jsonl.2.gz",
            "flows.jsonl.3.zst",
            "flows.jsonl.swp",
            "flows.json",
            "other.jsonl",
        ]) {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(now - Duration::from_secs(hours * 3600)).unwrap();
        }
        let names = |since| {
            let (files, unread) = rotated(&log, since).unwrap();
            let prefix = format!("{}/", folder.path().display());
            let files: Vec<_> = files.iter().map(|file| file.to_string().replace(&prefix, "")).collect();
            (files, unread.len())
        };
        let all = ["flows.jsonl", "flows.jsonl.1", "flows.jsonl-20260131", "flows.jsonl.2.gz"];
        assert_eq!(names(None), (all.map(str::to_owned).to_vec(), 1));
        let old = File::options().write(true).open(folder.path().join("flows.jsonl.2.gz")).unwrap();
        old.set_modified(now - Duration::from_secs(48 * 3600)).unwrap();
        let recent = names(Some(now - Duration::from_secs(24 * 3600)));
        assert_eq!(recent.0, all[..3]);
    }
}
