//! Answers while the configuration has errors: by the last good one, which the gateway keeps.

use super::config_path::DEFAULT_CONFIG;
use super::findings::CheckFinding;
use super::mend::Mend;
use super::{journal, steering};
use crate::clock;
use crate::config::{self, Config, ConfigReport};
use crate::control::{LastGoodStore, last_monitor_end, steering_params};
use crate::files::access_remedy;
use crate::steering::{RefusedSteering, replace, steered_interfaces};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::io;
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;

/// `--state` of the service.
const STATE: &str = "/var/lib/egret";

/// A configuration to answer by.
pub(super) struct UsableConfig {
    pub(super) config: Config,
    /// The reason why the files are not in force, if it is the last good one instead.
    pub(super) refusal: Option<FilesRefusal>,
}

/// Reason for which a gateway keeps the last good configuration.
pub(super) enum FilesRefusal {
    /// The files have errors.
    Errors(ConfigReport),
    /// By them steering would cut off clients, or hosts that the machine needs.
    Steering(RefusedSteering),
}

impl UsableConfig {
    /// The finding about files with errors.
    pub(super) fn finding(&self, path: &Path) -> Option<CheckFinding> {
        let report = match self.refusal.as_ref()? {
            FilesRefusal::Errors(report) => report,
            FilesRefusal::Steering(refused) => return Some(not_in_force(path, refused)),
        };
        let told = report.diagnostics.iter().find(|error| !may_not_read(Path::new(&*error.file)));
        let first = told.or(report.diagnostics.first()).map(ToString::to_string).unwrap_or_default();
        Some(broken(path, &first, told.is_none()))
    }
}

/// True for a file that this user may not read. The gateway's may.
fn may_not_read(path: &Path) -> bool {
    access(path, AccessFlags::R_OK) == Err(Errno::EACCES)
}

const CHECK: &str = "configuration";
const INSTEAD: &str = "all else here goes by the last good configuration";

fn not_in_force(path: &Path, refused: &RefusedSteering) -> CheckFinding {
    CheckFinding::fail(
        CHECK,
        format!("{} is not in force: {}; {INSTEAD}", path.display(), refused.found()),
        "the gateway refuses to reload such files, and whenever it starts it goes by the last good ones",
        format!("{}; then `egret reload`", refused.fix()),
    )
}

fn broken(path: &Path, first: &str, is_hidden: bool) -> CheckFinding {
    let shown = path.display();
    if is_hidden {
        return CheckFinding::warn(
            CHECK,
            format!("{shown} cannot be loaded by this user: {first}; {INSTEAD}"),
            "what the files say now is not known",
            access_remedy(path),
        );
    }
    CheckFinding::fail(
        CHECK,
        format!("{shown} has errors, the first: {first}; {INSTEAD}"),
        "the gateway cannot reload such files, and whenever it starts it goes by the last good ones",
        Mend::run("egret check").and(
            "it shows all errors; correct them, then `egret reload` and `systemctl restart egret-steering`",
        ),
    )
}

/// Loads the files, or the last good configuration with a warning. The error is the report on the files.
///
/// A `monitor_until` that has come for the gateway is past from now on, also where the clock was set back.
pub(super) fn load(path: &Path) -> Result<UsableConfig, ConfigReport> {
    match last_monitor_end(&state_folder()) {
        Ok(date) => date.into_iter().for_each(clock::note_reached),
        // Another user than the gateway's may not read it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => eprintln!("warning: {error}; a `monitor_until` that has come may count as one to come"),
    }
    match config::load(path) {
        Ok(loaded) => Ok(UsableConfig { config: loaded.config, refusal: None }),
        Err(report) => {
            let Some(config) = last_good(path) else { return Err(report) };
            warn(path, "this goes by the last good configuration");
            Ok(UsableConfig { config, refusal: Some(FilesRefusal::Errors(report)) })
        }
    }
}

/// Loads what is in force: as [`load`] does, and the last good configuration in place of files whose steering a reload refuses.
pub(super) fn load_in_force(path: &Path) -> Result<UsableConfig, ConfigReport> {
    let usable = load(path)?;
    let refused = replace(&steered_interfaces(), &steering_params(&usable.config)).err();
    let Some((refused, config)) = refused.filter(|_| usable.refusal.is_none()).zip(last_good(path)) else {
        return Ok(usable);
    };
    warn(path, "this goes by the last good configuration");
    Ok(UsableConfig { config, refusal: Some(FilesRefusal::Steering(refused)) })
}

/// The control socket of a gateway whose main file does not tell it: the last good configuration's, or for the default file the
/// default one, with a warning. `None` if there is neither, or if the socket is off.
pub(super) fn control_socket(path: &Path) -> Option<PathBuf> {
    let socket = match last_good(path) {
        Some(config) => config.gateway.admin?,
        // Another file may be of another gateway, which must not get the order.
        None => (path == Path::new(DEFAULT_CONFIG) && path.exists()).then(|| config::ADMIN_SOCKET.into())?,
    };
    warn(path, &format!("this asks on the control socket {}", socket.display()));
    Some(socket)
}

/// Says on standard error that the files have errors, or cannot be read, and what comes of it.
pub(super) fn warn(path: &Path, consequence: &str) {
    eprintln!("egret: warning: {} cannot be put in force (run `egret check`); {consequence}", path.display());
}

/// Prints all errors of a configuration without which there is no answer. Returns the exit code.
pub(super) fn refused(report: &ConfigReport) -> ExitCode {
    journal::error(&report.to_string());
    if steering::fallback().is_some() {
        journal::error("egret: meanwhile steering runs on its last good rules");
    }
    ExitCode::from(2)
}

/// The state directory.
pub(super) fn state_folder() -> PathBuf {
    std::env::var_os("STATE_DIRECTORY").map_or_else(|| STATE.into(), PathBuf::from)
}

fn last_good(path: &Path) -> Option<Config> {
    LastGoodStore::new(Some(state_folder()), &absolute(path).ok()?).newest()
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
