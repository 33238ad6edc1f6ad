//! The option that names the configuration.

use std::path::{Path, PathBuf};

/// The configuration, unless another is named.
pub(super) const DEFAULT_CONFIG: &str = "/etc/egret/egret.toml";

#[derive(Debug, clap::Args)]
pub(super) struct ConfigPath {
    /// The configuration; policy.d/*.toml beside it belongs to it
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG, env = "EGRET_CONFIG")]
    pub(super) config: PathBuf,
}

/// True if both paths lead to the same file, however they are spelled.
pub(super) fn is_same_file(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_of_a_path_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("egret.toml"), dir.path().join("link"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("egret.toml", &link).unwrap();
        assert!(is_same_file(&link, &file) && is_same_file(&dir.path().join(".").join("egret.toml"), &file));
        assert!(!is_same_file(&dir.path().join("other"), &file));
    }
}
