//! The files that the configuration has the gateway write.

use crate::config::{AuditTarget, Config, Diagnostic, FlowLogTarget, Severity};
use std::path::{Path, PathBuf};

/// Folders that the installation makes, or the service when it starts.
const MADE: [&str; 2] = ["/run/egret", "/var/log/egret"];

/// Those files, each with its key.
pub(super) fn written(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let flow_log = match &config.flow_log.target {
        FlowLogTarget::File(path) => Some(path),
        FlowLogTarget::Stdout | FlowLogTarget::Off => None,
    };
    let audit = match &config.audit {
        AuditTarget::File(path) => Some(path),
        AuditTarget::Stderr => None,
    };
    let all = [
        ("[flow_log] path", flow_log),
        ("[audit] path", audit),
        ("[gateway] admin", config.gateway.admin.as_ref()),
        ("[steering] repair", config.steering.repair.as_ref()),
    ];
    all.into_iter().filter_map(|(key, path)| Some((key, path?.clone()))).collect()
}

/// Returns a warning for each of them that has no folder, which the gateway does not make.
pub(super) fn without_folder(main: &Path, config: &Config) -> Vec<Diagnostic> {
    let missing =
        |path: &Path| Some(path.parent()?.to_owned()).filter(|folder| !folder.is_dir() && !is_made(folder));
    let found = written(config).into_iter().filter_map(|(key, path)| Some((key, missing(&path)?)));
    found.map(|(key, folder)| finding(main, key, &folder)).collect()
}

fn is_made(folder: &Path) -> bool {
    MADE.iter().any(|made| folder == Path::new(made))
}

fn finding(main: &Path, key: &str, folder: &Path) -> Diagnostic {
    let message = format!("`{key}`: there is no folder {}", folder.display());
    let help = "the gateway does not make it: create it, and let the gateway's user write there".to_owned();
    Diagnostic::of_file(Severity::Warning, main, message, help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn missing_folders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("egret.toml");
        let found = |log: &str, admin: &str| {
            let text = format!(
                "[gateway]\nadmin = \"unix:{admin}\"\n[flow_log]\npath = \"{log}\"\n[steering]\ninterfaces = [\"c0\"]\n\
                 repair = \"off\"\n[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.16\"]\n"
            );
            std::fs::write(&main, text).unwrap();
            let found = without_folder(&main, &config::load(&main).unwrap().config);
            found.iter().map(|one| one.message.clone()).collect::<Vec<_>>()
        };
        let there = folder.path().join("x").display().to_string();
        assert!(found(&there, &there).is_empty());
        assert!(found("/var/log/egret/flows.jsonl", "/run/egret/admin.sock").is_empty());
        assert_eq!(
            found("/nonexistent/flows.jsonl", "/nowhere/admin.sock"),
            [
                "`[flow_log] path`: there is no folder /nonexistent",
                "`[gateway] admin`: there is no folder /nowhere"
            ]
        );
    }
}
