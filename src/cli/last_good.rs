//! Answers while the configuration has errors: by the last good one, which the gateway keeps.

use super::config_path::DEFAULT_CONFIG;
use super::findings::CheckFinding;
use super::{journal, steering};
use crate::config::{self, Config, ConfigReport};
use crate::control::LastGoodStore;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;

/// `StateDirectory` of the service.
const STATE: &str = "/var/lib/egret";

/// A configuration to answer by.
pub(super) struct UsableConfig {
    pub(super) config: Config,
    /// The errors of the files, if it is the last good one instead.
    pub(super) errors: Option<ConfigReport>,
}

impl UsableConfig {
    /// The finding about files with errors.
    pub(super) fn finding(&self, path: &Path) -> Option<CheckFinding> {
        let report = self.errors.as_ref()?;
        let is_hidden = report.diagnostics.iter().any(|error| may_not_read(Path::new(&*error.file)));
        let report = report.to_string();
        Some(broken(path, report.lines().next().unwrap_or_default(), is_hidden))
    }
}

/// True for a file that this user may not read. The gateway's may.
fn may_not_read(path: &Path) -> bool {
    access(path, AccessFlags::R_OK) == Err(Errno::EACCES)
}

fn broken(path: &Path, first: &str, is_hidden: bool) -> CheckFinding {
    const CHECK: &str = "configuration";
    const INSTEAD: &str = "all else here goes by the last good configuration";
    let path = path.display();
    if is_hidden {
        return CheckFinding::warn(
            CHECK,
            format!("{path} cannot be loaded by this user: {first}; {INSTEAD}"),
            "what the files say now is not known",
            "run this as root, or as one of the group that may read them",
        );
    }
    CheckFinding::fail(
        CHECK,
        format!("{path} has errors, the first: {first}; {INSTEAD}"),
        "the gateway cannot reload such files, and whenever it starts it goes by the last good ones",
        "egret check shows all errors; correct them, then: egret reload; systemctl restart egret-steering",
    )
}

/// Loads the files, or the last good configuration with a warning. The error is the report on the files.
pub(super) fn load(path: &Path) -> Result<UsableConfig, ConfigReport> {
    match config::load(path) {
        Ok(loaded) => Ok(UsableConfig { config: loaded.config, errors: None }),
        Err(report) => {
            let Some(config) = last_good(path) else { return Err(report) };
            warn(path, "this goes by the last good configuration");
            Ok(UsableConfig { config, errors: Some(report) })
        }
    }
}

/// The control socket of a gateway whose main file does not tell it: the last good configuration's, or for the default file the
/// default one, with a warning. `None` if there is neither, or if the socket is off.
pub(super) fn control_socket(path: &Path) -> Option<PathBuf> {
    let socket = match last_good(path) {
        Some(config) => config.gateway.admin?.path,
        // Another file may be of another gateway, which must not get the order.
        None => (path == Path::new(DEFAULT_CONFIG) && path.exists()).then(|| config::ADMIN_SOCKET.into())?,
    };
    warn(path, &format!("this asks on the control socket {}", socket.display()));
    Some(socket)
}

/// Says on standard error that the files have errors, or cannot be read, and what comes of it.
pub(super) fn warn(path: &Path, consequence: &str) {
    eprintln!("egret: warning: {} cannot be loaded (run `egret check`); {consequence}", path.display());
}

/// Prints all errors of a configuration without which there is no answer. Returns the exit code.
pub(super) fn refused(report: &ConfigReport) -> ExitCode {
    journal::error(&report.to_string());
    if steering::fallback().is_some() {
        journal::error("egret: meanwhile steering runs on its last good rules");
    }
    ExitCode::from(2)
}

fn last_good(path: &Path) -> Option<Config> {
    let folder = std::env::var_os("STATE_DIRECTORY").map_or_else(|| STATE.into(), PathBuf::from);
    LastGoodStore::new(Some(folder), &absolute(path).ok()?).newest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::findings::FindingLevel;

    #[test]
    fn hidden_files_are_no_errors() {
        let path = Path::new("/etc/egret/egret.toml");
        let said = |is_hidden| {
            let finding = broken(path, "cannot be read: Permission denied", is_hidden);
            (finding.level, finding.found.contains("has errors"))
        };
        assert_eq!(said(true), (FindingLevel::Warn, false));
        assert_eq!(said(false), (FindingLevel::Fail, true));
        assert!(!may_not_read(Path::new("/nonexistent")), "only a file that is there is hidden");
    }
}
