//! Fingerprints of the files of a load, to detect changes since.

use super::policy_folder::policy_files;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The files of one load, with their metadata just before each was read. Equal if nothing was written, replaced, added
/// or removed in between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileStamps {
    /// Folder of the main file.
    folder: PathBuf,
    /// `None`: absent, or not examined.
    files: Vec<(PathBuf, Option<FileStamp>)>,
    /// `None`: the folder could not be listed.
    policies: Option<Vec<PathBuf>>,
}

/// Metadata that changes when a file is written or replaced; `changed` cannot be set back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamps {
    /// Starts the footprint of a load of this main file.
    pub(super) fn new(main: &Path) -> Self {
        let folder = main.parent().unwrap_or(Path::new("")).to_owned();
        Self { policies: policy_files(&folder).ok(), folder, files: Vec::new() }
    }

    /// Records a file that is about to be read.
    pub(super) fn note(&mut self, path: &Path) {
        self.files.push((path.to_owned(), stamp(path)));
    }

    /// Returns the footprint of the same files as they are now. Follows symbolic links, as reading does.
    #[must_use]
    pub fn now(&self) -> Self {
        Self {
            folder: self.folder.clone(),
            files: self.files.iter().map(|(path, _)| (path.clone(), stamp(path))).collect(),
            policies: policy_files(&self.folder).ok(),
        }
    }
}

fn stamp(path: &Path) -> Option<FileStamp> {
    let of = |found: Metadata| FileStamp {
        file: (found.dev(), found.ino()),
        size: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    };
    fs::metadata(path).ok().map(of)
}

#[cfg(test)]
mod tests {
    use crate::config;
    use std::fs;
    use std::path::Path;

    const MAIN: &str = "[steering]\ninterfaces = [\"ens6\"]\n[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.16\"]\n\
        [[tenant]]\nname = \"acme\"\nsources = [\"10.0.1.0/24\"]\npool = \"p\"\n\
        [[tenant.allow]]\nhosts_file = \"lists/names.txt\"\n";

    fn replace(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[test]
    fn footprint_detects_every_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (main, names, policy) = (at("egret.toml"), at("lists/names.txt"), at("policy.d/beta.toml"));
        fs::create_dir(at("lists")).unwrap();
        fs::write(&main, MAIN).unwrap();
        fs::write(&names, "a.example.com\n").unwrap();
        let read = || config::load(&main).map_or_else(|report| report.read, |loaded| loaded.read);
        let beta = "[[tenant]]\nname = \"beta\"\nsources = [\"10.0.2.0/24\"]\npool = \"p\"\n";
        let steps: [(&str, &dyn Fn()); 9] = [
            ("replaced by one of the same size", &|| replace(&names, "b.example.com\n")),
            ("written in place", &|| fs::write(&names, "b.example.com\nc.example.com\n").unwrap()),
            ("a folder that was not there", &|| fs::create_dir(at("policy.d")).unwrap()),
            ("a policy file", &|| fs::write(&policy, beta).unwrap()),
            ("a policy file that is replaced", &|| replace(&policy, &format!("# again\n{beta}"))),
            ("a policy file that is gone", &|| fs::remove_file(&policy).unwrap()),
            ("a list that is gone", &|| fs::remove_file(&names).unwrap()),
            // Through a symbolic link, as Kubernetes mounts a ConfigMap.
            ("a list that is back", &|| {
                fs::write(at("elsewhere.txt"), "a.example.com\n").unwrap();
                std::os::unix::fs::symlink(at("elsewhere.txt"), &names).unwrap();
            }),
            ("what a link leads to", &|| replace(&at("elsewhere.txt"), "z.example.com\n")),
        ];
        for (what, change) in steps {
            let before = read();
            assert_eq!(before.now(), before, "before: {what}");
            change();
            if what != "a folder that was not there" {
                assert_ne!(before.now(), before, "{what}");
            }
        }
        let before = read();
        fs::write(at("policy.d/.beta.toml.swp"), "an editor's").unwrap();
        fs::write(at("flows.jsonl"), "{}").unwrap();
        assert_eq!(before.now(), before);
    }
}
