//! Remedies for files that a process may not open.

use nix::unistd::{Gid, Group, Uid, User};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// User and group that scripts/install.sh creates.
pub const SERVICE: &str = "egret";

/// Remedy for a file or socket that this process may not open: for the service, the mode of the file or of the folder that hides
/// it; for an operator, the rights of docs/install.md.
pub fn access_remedy(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let closed = path.ancestors().find(|path| fs::metadata(path).is_ok()).unwrap_or(&path);
    let user = User::from_uid(Uid::effective()).ok().flatten();
    if user.is_some_and(|user| user.name == SERVICE) {
        return group_read(closed);
    }
    let about = fs::metadata(closed);
    let gid = about.ok().and_then(|about| opening_group(about.mode(), about.gid(), closed == path));
    operator_remedy(
        gid.and_then(|gid| Group::from_gid(Gid::from_raw(gid)).ok()?).map(|group| group.name).as_deref(),
    )
}

/// Commands that let the service read a file or folder.
pub fn group_read(path: &Path) -> String {
    let (shown, is_folder) = (path.display(), path.is_dir());
    let mode = if is_folder { "g+rxs" } else { "g+r" };
    let inherited = if is_folder { "; what is made in it belongs to the group from then on" } else { "" };
    format!("`chgrp {SERVICE} {shown} && chmod {mode} {shown}`{inherited}")
}

fn operator_remedy(group: Option<&str>) -> String {
    let Some(group) = group else { return "run this as root (sudo)".to_owned() };
    format!(
        "run this as root (sudo), or as a member of the group {group}: `sudo usermod -aG {group} \"$USER\"` makes you one from your next \
         login on"
    )
}

/// The group that the mode lets open a file or socket, read a folder, or enter one that hides what is wanted (`is_wanted` is
/// false). `None` if it lets none, or root's, in which nobody is to be.
fn opening_group(mode: u32, gid: u32, is_wanted: bool) -> Option<u32> {
    let needed = match mode & libc::S_IFMT {
        libc::S_IFDIR if is_wanted => 0o050,
        libc::S_IFDIR => 0o010,
        libc::S_IFSOCK => 0o020,
        _ => 0o040,
    };
    (gid != 0 && mode & needed == needed).then_some(gid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn group_that_the_mode_lets_in_is_named() {
        let (file, folder, socket) = (libc::S_IFREG, libc::S_IFDIR, libc::S_IFSOCK);
        for (mode, gid, is_wanted, lets_in) in [
            (file | 0o640, 7, true, true),
            (file | 0o640, 0, true, false),
            (file | 0o600, 7, true, false),
            (folder | 0o750, 7, true, true),
            (folder | 0o740, 7, true, false),
            (folder | 0o710, 7, true, false),
            (folder | 0o710, 7, false, true),
            (folder | 0o740, 7, false, false),
            (socket | 0o660, 7, true, true),
            (socket | 0o640, 7, true, false),
        ] {
            let group = opening_group(mode, gid, is_wanted);
            assert_eq!(group, lets_in.then_some(gid), "{mode:o} {gid} {is_wanted}");
        }
    }

    #[test]
    fn file_without_readers_takes_root() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("egret.toml");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(access_remedy(&file), "run this as root (sudo)");
        let said = operator_remedy(Some("egret"));
        assert!(said.contains("sudo usermod -aG egret ") && !said.contains("chgrp"), "{said}");
    }
}
