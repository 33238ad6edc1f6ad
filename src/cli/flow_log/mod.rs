//! Reads flow logs: their files, lines, and single records.

mod files;
mod lines;
mod progress;
mod record;

use crate::config::FlowLogTarget;
use crate::files::access_remedy;
pub(super) use files::LogFile;
pub(super) use lines::read;
pub(super) use progress::ReadProgress;
pub(super) use record::{Recorded, find};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Arguments that select the flow log.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct LogFiles {
    /// Flow logs, plain or gzip, or `-` for standard input [default: the configured log and its rotated files]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    log: Vec<PathBuf>,
}

/// A reason why a flow log cannot be read, with its remedy.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error(
        "the flow log goes to standard output: pipe it in with --log -, for example from `journalctl -u egret -o cat`"
    )]
    Stdout,
    #[error("the configuration does not tell where the flow log is: give it with --log FILE")]
    Untold,
    #[error("the flow log is off: set [flow_log] path, or give a log with --log")]
    Off,
    #[error(
        "there is no flow log {0}: has the gateway run with this configuration? To read another log, give --log FILE"
    )]
    NoLog(String),
    #[error("{0} is compressed in a format other than gzip: decompress it and pipe it in with --log -")]
    Unreadable(String),
    #[error("cannot read {0}: {1}{remedy}", remedy = remedy(.0, .1))]
    Read(String, io::Error),
}

fn remedy(file: &str, error: &io::Error) -> String {
    let kind = error.kind();
    if kind == io::ErrorKind::PermissionDenied {
        format!("; {}", access_remedy(Path::new(file)))
    } else if kind == io::ErrorKind::NotFound {
        "; if the log was being rotated, run the command again".to_owned()
    } else if kind == io::ErrorKind::InvalidInput {
        "; pipe it in with `--log -`".to_owned()
    } else {
        String::new()
    }
}

impl LogFiles {
    /// True if the command line names the log.
    pub(super) fn is_given(&self) -> bool {
        !self.log.is_empty()
    }

    /// The files given, else the configured log and its rotated files that were last written after `since`.
    /// `configured` is `None` if the configuration does not tell it.
    pub(super) fn of(
        &self,
        configured: Option<&FlowLogTarget>,
        since: Option<SystemTime>,
    ) -> Result<Vec<LogFile>, LogError> {
        if !self.log.is_empty() {
            return match self.log.iter().find(|path| files::is_unreadable(path)) {
                Some(path) => Err(LogError::Unreadable(path.display().to_string())),
                None => Ok(self.log.iter().map(|path| LogFile::given(path)).collect()),
            };
        }
        let path = match configured {
            None => return Err(LogError::Untold),
            Some(FlowLogTarget::Stdout) => return Err(LogError::Stdout),
            Some(FlowLogTarget::Off) => return Err(LogError::Off),
            Some(FlowLogTarget::File(path)) => path,
        };
        let shown = path.display().to_string();
        let (files, unread) = match files::rotated(path, since) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => {
                return Err(LogError::NoLog(shown));
            }
            found => found.map_err(|error| LogError::Read(shown, error))?,
        };
        for path in unread {
            eprintln!("egret: skipping {}: decompress it and pipe it in with --log -", path.display());
        }
        Ok(files)
    }
}
