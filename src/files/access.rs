//! Remedies for files that a process may not open.

use nix::unistd::{Gid, Group, Uid, User};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// User and group that scripts/install.sh creates.
pub const SERVICE: &str = "egret";

/// Remedy for a file or socket that this process may not open: for the service, the mode of the file; for an operator, the rights
/// of docs/install.md.
pub fn access_remedy(path: &Path) -> String {
    let user = User::from_uid(Uid::effective()).ok().flatten();
    if user.is_some_and(|user| user.name == SERVICE) {
        return group_read(path);
    }
    operator_remedy(&group_of(path).unwrap_or_else(|| SERVICE.to_owned()))
}

/// Commands that let the service read a file or folder.
pub fn group_read(path: &Path) -> String {
    let (shown, is_folder) = (path.display(), path.is_dir());
    let mode = if is_folder { "g+rxs" } else { "g+r" };
    let inherited = if is_folder { "; what is made in it belongs to the group from then on" } else { "" };
    format!("`chgrp {SERVICE} {shown} && chmod {mode} {shown}`{inherited}")
}

fn operator_remedy(group: &str) -> String {
    format!(
        "run this as root (sudo), or as a member of the group {group}: `sudo usermod -aG {group} \"$USER\"` makes you one from your next \
         login on"
    )
}

/// The group that may read the file, or enter the folder that hides it; `None` if none may.
fn group_of(path: &Path) -> Option<String> {
    let about = path.ancestors().find_map(|path| fs::metadata(path).ok())?;
    let needed = if about.is_dir() { 0o010 } else { 0o040 };
    if about.mode() & needed == 0 {
        return None;
    }
    Group::from_gid(Gid::from_raw(about.gid())).ok()?.map(|group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn remedy_names_the_group_that_may() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("egret.toml");
        fs::write(&file, "").unwrap();
        let own = Group::from_gid(Gid::from_raw(fs::metadata(&file).unwrap().gid())).unwrap().unwrap().name;
        for (mode, group) in [(0o640, Some(own)), (0o600, None)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(group_of(&file), group);
        }
        let said = access_remedy(&file);
        assert!(said.contains("sudo usermod -aG egret ") && !said.contains("chgrp"), "{said}");
    }
}
