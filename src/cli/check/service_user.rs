//! Checks that the service's user can read the configuration files.

use crate::config::{Diagnostic, Severity};
use crate::files::{SERVICE, group_read};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Prints the arguments that the user cannot read, or enter if they are folders, each followed by a NUL. A folder that
/// ends in `/.` must be readable too.
const TEST: &str = r#"for f; do
    { [ ! -d "$f" ] || [ -x "$f" ]; } && case $f in */.) [ -r "$f" ] ;; *) [ -d "$f" ] || [ -r "$f" ] ;; esac ||
        printf '%s\0' "$f"
done"#;

/// Returns a finding for each file or folder that the service cannot access. Empty unless run as root on a machine with
/// that user. Errors if the service uses this configuration, else warnings.
pub(super) fn unreadable<'a>(
    main: &Path,
    is_the_services: bool,
    files: impl Iterator<Item = &'a Path>,
) -> Vec<Diagnostic> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root {
        return Vec::new();
    }
    let Ok(main) = std::path::absolute(main) else { return Vec::new() };
    let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
    for file in files.filter_map(|file| std::path::absolute(file).ok()) {
        paths.extend(file.ancestors().map(Path::to_owned));
    }
    let policies = main.with_file_name("policy.d");
    if policies.is_dir() {
        paths.insert(policies.join("."));
    }
    let denied = denied(&paths);
    // Only outermost folders are reported: they hide their content.
    let outermost =
        denied.iter().filter(|path| !path.ancestors().skip(1).any(|above| denied.contains(above)));
    let severity = if is_the_services { Severity::Error } else { Severity::Warning };
    outermost.map(|path| finding(path, severity)).collect()
}

fn finding(path: &Path, severity: Severity) -> Diagnostic {
    let message = format!("the service cannot read it, because it runs as the user {SERVICE}");
    Diagnostic::of_file(severity, path, message, group_read(path))
}

/// Asks the kernel by running as that user, so that access control lists count too.
fn denied(paths: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let user = [format!("--reuid={SERVICE}"), format!("--regid={SERVICE}")];
    let output = Command::new("setpriv")
        .args(user)
        .args(["--init-groups", "--inh-caps=-all", "--", "sh", "-c", TEST, "sh"])
        .args(paths)
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else { return BTreeSet::new() };
    let paths = output.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    paths.map(|path| Path::new(OsStr::from_bytes(path)).components().collect()).collect()
}
