//! Checks that the unit of the service does not hide the configuration files from it, and lets it write where they say.

use super::written::written;
use crate::cli::tool::output;
use crate::config::{Config, Diagnostic, Severity};
use std::path::{Path, PathBuf};

/// Settings of a unit, and the folders that each hides.
const HIDING: [(&str, &[&str], &[&str]); 2] = [
    ("ProtectHome", &["yes", "tmpfs"], &["/home", "/root", "/run/user"]),
    ("PrivateTmp", &["yes"], &["/tmp", "/var/tmp"]),
];

/// Returns an error for each file in a folder that egret.service hides, links resolved, and a warning for each that the configuration
/// has the service write and its unit does not let it. Empty where systemd does not know that unit.
pub(super) fn bounds<'a>(
    files: impl Iterator<Item = &'a Path>,
    main: &Path,
    config: &Config,
) -> Vec<Diagnostic> {
    let unit = unit();
    let hidden = files.filter_map(|file| Some(finding(file, hides(&unit, &file.canonicalize().ok()?)?)));
    let unwritable = written(config).into_iter().filter_map(|(key, path)| {
        Some(unwritable_finding(main, key, &path, cannot_write(&unit, &real(&path))?))
    });
    hidden.chain(unwritable).collect()
}

/// The path with the links of its folder resolved, if there is that folder.
fn real(path: &Path) -> PathBuf {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    folder.zip(path.file_name()).map_or_else(|| path.to_owned(), |(folder, name)| folder.join(name))
}

/// The unit as `systemctl show` shows it; empty where that does not work.
fn unit() -> String {
    const SHOW: &str = "systemctl show egret.service -p LoadState -p ProtectHome -p PrivateTmp -p ProtectSystem -p ReadWritePaths \
                        -p RuntimeDirectory -p StateDirectory -p LogsDirectory";
    output(SHOW).unwrap_or_default()
}

fn value<'u>(unit: &'u str, key: &str) -> &'u str {
    unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
}

/// The setting by which the unit keeps the service from writing a file.
fn cannot_write(unit: &str, file: &Path) -> Option<&'static str> {
    if let Some((setting, _)) = hides(unit, file) {
        return Some(setting);
    }
    if value(unit, "LoadState") != "loaded" || value(unit, "ProtectSystem") != "strict" {
        return None;
    }
    let listed = value(unit, "ReadWritePaths").split_whitespace();
    let mut listed = listed.map(|path| PathBuf::from(path.trim_start_matches(['-', '+'])));
    let made = [("RuntimeDirectory", "/run"), ("StateDirectory", "/var/lib"), ("LogsDirectory", "/var/log")];
    let mut made = made.iter().flat_map(|(key, root)| {
        value(unit, key).split_whitespace().map(|folder| Path::new(root).join(folder))
    });
    let writes = listed.any(|folder| file.starts_with(folder))
        || made.any(|folder| file.starts_with(folder))
        || ["/dev", "/proc", "/sys", "/tmp", "/var/tmp"].iter().any(|folder| file.starts_with(folder));
    (!writes).then_some("ReadWritePaths")
}

fn unwritable_finding(main: &Path, key: &str, path: &Path, setting: &str) -> Diagnostic {
    let folder = path.parent().unwrap_or(path).display();
    let message =
        format!("`{key}`: egret.service does not let the service write {} ({setting}=)", path.display());
    let help = format!(
        "choose a place below /var/log/egret or /run/egret; or let it by `systemctl edit egret` (ReadWritePaths={folder})"
    );
    Diagnostic::of_file(Severity::Warning, main, message, help)
}

/// The setting and its folder that hide a file, as `systemctl show` shows the unit.
fn hides(unit: &str, file: &Path) -> Option<(&'static str, &'static str)> {
    let is_set = |key: &str, values: &[&str]| values.contains(&value(unit, key));
    if !is_set("LoadState", &["loaded"]) {
        return None;
    }
    let mut set = HIDING.iter().filter(|(key, values, _)| is_set(key, values));
    set.find_map(|(key, _, folders)| {
        folders.iter().find(|folder| file.starts_with(folder)).map(|folder| (*key, *folder))
    })
}

fn finding(file: &Path, (setting, folder): (&str, &str)) -> Diagnostic {
    let message = format!("the service cannot read it: egret.service hides {folder} from it ({setting}=)");
    let help = "keep the file itself in /etc/egret, not a link to it".to_owned();
    Diagnostic::of_file(Severity::Error, file, message, help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_a_unit_writes_are_known() {
        let unit = "LoadState=loaded\nProtectHome=yes\nPrivateTmp=yes\nProtectSystem=strict\n\
                    ReadWritePaths=-/var/lib/egret -/var/log/egret\nRuntimeDirectory=egret\n";
        for (file, setting) in [
            ("/var/log/egret/flows.jsonl", None),
            ("/run/egret/admin.sock", None),
            ("/dev/stdout", None),
            ("/var/log/flows.jsonl", Some("ReadWritePaths")),
            ("/var/log/egret2/flows.jsonl", Some("ReadWritePaths")),
            ("/srv/flows.jsonl", Some("ReadWritePaths")),
            ("/home/alice/flows.jsonl", Some("ProtectHome")),
            ("/tmp/flows.jsonl", Some("PrivateTmp")),
        ] {
            assert_eq!(cannot_write(unit, Path::new(file)), setting, "{file}");
        }
        let log = Path::new("/srv/flows.jsonl");
        assert_eq!(cannot_write(&unit.replace("strict", "full"), log), None);
        assert_eq!(cannot_write(&unit.replace("=loaded", "=not-found"), log), None);
        assert_eq!(cannot_write("", log), None);
    }

    /// The unit that is installed lets the service write where the documents put its files.
    #[test]
    fn delivered_unit_writes_usual_files() {
        let delivered = include_str!("../../../deploy/egret.service");
        let unit = format!("LoadState=loaded\n{delivered}");
        for file in ["/var/log/egret/flows.jsonl", "/var/log/egret/audit.jsonl", "/run/egret/admin.sock"] {
            assert_eq!(cannot_write(&unit, Path::new(file)), None, "{file}");
        }
        assert_eq!(cannot_write(&unit, Path::new("/srv/flows.jsonl")), Some("ReadWritePaths"));
    }

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
