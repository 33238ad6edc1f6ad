//! Reading flow logs back: which files one is made of, their lines, and one flow's record.

mod files;
mod lines;
mod progress;
mod record;

use crate::config::{Config, FlowLogTarget};
pub(super) use files::LogFile;
pub(super) use lines::read;
pub(super) use progress::Progress;
pub(super) use record::{Recorded, find};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

/// Where to read.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct LogFiles {
    /// Flow logs, plain or gzip, or `-` for standard input; the configured one and its rotated siblings unless given
    #[arg(long, value_name = "FILE", num_args = 1..)]
    log: Vec<PathBuf>,
}

/// Why a flow log cannot be read. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error(
        "the flow log goes to standard output: pipe it in with --log -, for example from `journalctl -u egret -o cat`"
    )]
    Stdout,
    #[error("the flow log is off: set [flow_log] path, or give a log by --log")]
    Off,
    #[error("there is no {0}: has the gateway run with this configuration? --log reads another flow log")]
    NoLog(String),
    #[error("{0} is compressed, and not by gzip: give it by --log -, uncompressed")]
    OtherForm(String),
    #[error("cannot read {0}: {1}{remedy}", remedy = remedy(.0, .1))]
    Read(String, io::Error),
}

fn remedy(file: &str, error: &io::Error) -> String {
    let kind = error.kind();
    if kind == io::ErrorKind::PermissionDenied {
        format!("; run this as root or as one of the group that `ls -l {file}` shows")
    } else if kind == io::ErrorKind::NotFound {
        "; if the log was rotated just now, ask again".to_owned()
    } else if kind == io::ErrorKind::InvalidInput {
        "; feed it to `--log -`".to_owned()
    } else {
        String::new()
    }
}

impl LogFiles {
    /// Those given, else the configured log and what was rotated away from it, last written after `since`.
    pub(super) fn of(&self, config: &Config, since: Option<SystemTime>) -> Result<Vec<LogFile>, LogError> {
        if !self.log.is_empty() {
            return match self.log.iter().find(|path| files::is_in_other_form(path)) {
                Some(path) => Err(LogError::OtherForm(path.display().to_string())),
                None => Ok(self.log.iter().map(|path| LogFile::given(path)).collect()),
            };
        }
        let path = match &config.flow_log.target {
            FlowLogTarget::Stdout => return Err(LogError::Stdout),
            FlowLogTarget::Off => return Err(LogError::Off),
            FlowLogTarget::File(path) => path,
        };
        let shown = path.display().to_string();
        let (files, unread) = match files::rotated(path, since) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => {
                return Err(LogError::NoLog(shown));
            }
            found => found.map_err(|error| LogError::Read(shown, error))?,
        };
        for path in unread {
            eprintln!("egret: {} is left out: give it by --log -, uncompressed", path.display());
        }
        Ok(files)
    }
}
