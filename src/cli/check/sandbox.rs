//! Checks that the unit of the service does not hide the configuration files from it.

use crate::cli::tool::output;
use crate::config::{Diagnostic, Severity};
use std::path::Path;

/// Settings of a unit, and the folders that each hides.
const HIDING: [(&str, &[&str], &[&str]); 2] = [
    ("ProtectHome", &["yes", "tmpfs"], &["/home", "/root", "/run/user"]),
    ("PrivateTmp", &["yes"], &["/tmp", "/var/tmp"]),
];

/// Returns an error for each file in a folder that egret.service hides, links resolved. Empty where systemd does not know
/// that unit.
pub(super) fn hidden<'a>(files: impl Iterator<Item = &'a Path>) -> Vec<Diagnostic> {
    let Ok(unit) = output("systemctl show egret.service -p LoadState -p ProtectHome -p PrivateTmp") else {
        return Vec::new();
    };
    files.filter_map(|file| Some(finding(file, hides(&unit, &file.canonicalize().ok()?)?))).collect()
}

/// The setting and its folder that hide a file, as `systemctl show` shows the unit.
fn hides(unit: &str, file: &Path) -> Option<(&'static str, &'static str)> {
    let is_set = |key: &str, values: &[&str]| {
        let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.is_some_and(|value| values.contains(&value))
    };
    if !is_set("LoadState", &["loaded"]) {
        return None;
    }
    let mut set = HIDING.iter().filter(|(key, values, _)| is_set(key, values));
    set.find_map(|(key, _, folders)| {
        folders.iter().find(|folder| file.starts_with(folder)).map(|folder| (*key, *folder))
    })
}

fn finding(file: &Path, (setting, folder): (&str, &str)) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        file: file.to_string_lossy().into(),
        line: 0,
        column: 0,
        message: format!("the service cannot read it: egret.service hides {folder} from it ({setting}=)"),
        help: "keep the file itself in /etc/egret, not a link to it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_a_unit_hides_are_known() {
        let unit = "LoadState=loaded\nProtectHome=yes\nPrivateTmp=yes\n";
        for (file, setting) in [
            ("/home/alice/policy.toml", Some("ProtectHome")),
            ("/root/egret.toml", Some("ProtectHome")),
            ("/var/tmp/names.txt", Some("PrivateTmp")),
            ("/etc/egret/egret.toml", None),
            ("/homes/egret.toml", None),
        ] {
            assert_eq!(hides(unit, Path::new(file)).map(|found| found.0), setting, "{file}");
        }
        let home = Path::new("/home/alice/policy.toml");
        assert_eq!(hides("LoadState=not-found\nProtectHome=yes\n", home), None);
        assert_eq!(hides("LoadState=loaded\nProtectHome=no\nPrivateTmp=yes\n", home), None);
        assert_eq!(hides("LoadState=loaded\nProtectHome=read-only\n", home), None);
    }
}
