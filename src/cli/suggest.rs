//! `egret suggest`: rules for what a tenant was seen to reach, from the flow log.
//!
//! What passed is evidence: flows that were allowed, or that a tenant in monitor mode made although they would have
//! been denied, and that the server answered. What was denied is told, and never suggested: pasting the output must
//! not open what an attacker tried.
//!
//! Exit codes, stable: 0 told, also if there is nothing to suggest; 2 the log or the configuration could not be read.

mod lines;
mod logs;
mod progress;
mod proposal;
mod seen;
mod text;

use super::output::{json_page, print};
use crate::clock;
use crate::config::{Config, FlowLogTarget};
use crate::policy::TenantSpec;
use crate::units::parse_duration;
use jiff::Timestamp;
use logs::LogFile;
use progress::Progress;
use proposal::Proposal;
use seen::TenantLog;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

const FAILED: u8 = 2;
/// Tenants that a message lists.
const LISTED: usize = 20;

/// What is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Whose flows
    #[arg(long, value_name = "TENANT")]
    pub tenant: String,
    /// Only flows that began so long ago at most, as in 12h or 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub since: Option<Duration>,
    /// Flow logs, plain or gzip, or `-` for standard input; the configured one and its rotated siblings unless given
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub log: Vec<PathBuf>,
    /// Suggest also what the policy allows already
    #[arg(long)]
    pub all: bool,
    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
}

/// Why there is no suggestion. Each says what to do.
#[derive(Debug, thiserror::Error)]
enum SuggestError {
    #[error("there is no tenant {0:?}; there are {1}")]
    NoTenant(String, String),
    #[error(
        "the flow log goes to standard output: give it by --log, as in \
         `journalctl -u egret -o cat | egret suggest --tenant {0} --log -`"
    )]
    Stdout(String),
    #[error("the flow log is off: set [flow_log] path, or give a log by --log")]
    Off,
    #[error("there is no {0}: has the gateway run with this configuration? --log reads another flow log")]
    NoLog(String),
    #[error("{0} is compressed, and not by gzip: give it by --log -, uncompressed")]
    OtherForm(String),
    #[error("cannot read {0}: {1}{remedy}", remedy = remedy(.0, .1))]
    Read(String, io::Error),
    #[error("cannot judge the flows: {0}")]
    Policy(#[from] crate::policy::CompileError),
}

fn remedy(file: &str, error: &io::Error) -> String {
    let kind = error.kind();
    if kind == io::ErrorKind::PermissionDenied {
        format!("; run this as root or as one of the group that `ls -l {file}` shows")
    } else if kind == io::ErrorKind::NotFound {
        "; if the log was rotated just now, ask again".to_owned()
    } else {
        String::new()
    }
}

/// Reads the log and prints the rules.
pub fn run(config: &Config, options: &Options) -> ExitCode {
    match suggest(config, options) {
        Ok(proposal) => print(&if options.json { json_page(&proposal) } else { text::render(&proposal) }, 0),
        Err(error) => {
            eprintln!("egret suggest: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn suggest(config: &Config, options: &Options) -> Result<Proposal, SuggestError> {
    let tenant = tenant(config, &options.tenant)?;
    let since = options.since.and_then(|span| clock::wall().checked_sub(span));
    let files = files(config, options, since)?;
    let mut progress = Progress::new(&files);
    let mut seen = TenantLog::new(&tenant.name, since.and_then(|since| Timestamp::try_from(since).ok()));
    for file in &files {
        lines::read(file, &mut seen, &mut progress).map_err(|e| SuggestError::Read(file.to_string(), e))?;
    }
    progress.done();
    Ok(Proposal::new(tenant, config.private_destinations, seen, options.all)?)
}

fn tenant<'c>(config: &'c Config, name: &str) -> Result<&'c TenantSpec, SuggestError> {
    config.tenants.iter().find(|tenant| *tenant.name == *name).ok_or_else(|| {
        let names: Vec<_> = config.tenants.iter().take(LISTED).map(|tenant| &*tenant.name).collect();
        let more = if config.tenants.len() > LISTED { ", …" } else { "" };
        SuggestError::NoTenant(name.to_owned(), names.join(", ") + more)
    })
}

fn files(
    config: &Config,
    options: &Options,
    since: Option<SystemTime>,
) -> Result<Vec<LogFile>, SuggestError> {
    if !options.log.is_empty() {
        let is_other = |path: &&PathBuf| logs::is_in_other_form(path);
        return match options.log.iter().find(is_other) {
            Some(path) => Err(SuggestError::OtherForm(path.display().to_string())),
            None => Ok(options.log.iter().map(|path| LogFile::given(path)).collect()),
        };
    }
    match &config.flow_log.target {
        FlowLogTarget::Stdout => Err(SuggestError::Stdout(options.tenant.clone())),
        FlowLogTarget::Off => Err(SuggestError::Off),
        FlowLogTarget::File(path) => {
            let shown = path.display().to_string();
            let (files, unread) = match logs::rotated(path, since) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => {
                    return Err(SuggestError::NoLog(shown));
                }
                found => found.map_err(|error| SuggestError::Read(shown, error))?,
            };
            for path in unread {
                let path = path.display();
                eprintln!("egret suggest: {path} is left out: give it by --log -, uncompressed");
            }
            Ok(files)
        }
    }
}
