//! `egret suggest`: suggests rules for the targets that a tenant reached, from the flow log.
//!
//! Evidence are flows that passed, allowed or in monitor mode, and that the server answered. Denied flows are listed
//! and never suggested: pasting the output must not allow what an attacker tried.

mod by_address;
mod proposal;
mod seen;
mod text;
mod trial;
mod unsuggested;

use super::flow_log::{self, LogError, LogFiles, ReadProgress};
use super::output::{json_page, print};
use crate::clock;
use crate::config::Config;
use crate::policy::{ConnectedNetworks, TenantSpec};
use crate::units::parse_duration;
use ipnet::IpNet;
use jiff::Timestamp;
use proposal::Proposal;
use seen::{LogLine, TenantLog};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const FAILED: u8 = 2;
/// Most tenants listed in a message.
const LISTED: usize = 20;

/// Arguments of `egret suggest`.
#[derive(Debug, Clone, clap::Args)]
pub struct SuggestOptions {
    /// Tenant of the flows
    #[arg(long, value_name = "TENANT")]
    pub tenant: String,
    /// Only flows that began so long ago at most, as in 12h or 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub since: Option<Duration>,
    #[command(flatten)]
    log: LogFiles,
    /// Suggest also what the policy allows already
    #[arg(long)]
    pub all: bool,
    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
}

/// Reason why there is no suggestion. Each message names the remedy.
#[derive(Debug, thiserror::Error)]
enum SuggestError {
    #[error("there is no tenant {0:?}; there are {1}")]
    NoTenant(String, String),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("cannot judge the flows: {0}")]
    Policy(#[from] crate::policy::CompileError),
}

/// Reads the log and prints the rules.
pub fn run(config: &Config, options: &SuggestOptions) -> ExitCode {
    match suggest(config, options) {
        Ok(proposal) => print(&if options.json { json_page(&proposal) } else { text::render(&proposal) }, 0),
        Err(error) => {
            eprintln!("egret suggest: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn suggest(config: &Config, options: &SuggestOptions) -> Result<Proposal, SuggestError> {
    let tenant = tenant(config, &options.tenant)?;
    let since = options.since.and_then(|span| clock::wall().checked_sub(span));
    let files = options.log.of(Some(&config.flow_log.target), since)?;
    let mut progress = ReadProgress::new("suggest", &files);
    let mut seen = TenantLog::new(&tenant.name, since.and_then(|since| Timestamp::try_from(since).ok()));
    for file in &files {
        seen.evidence.files += 1;
        let whole = flow_log::read(file, &mut progress, &mut |line| {
            seen.evidence.lines += 1;
            match serde_json::from_slice::<LogLine<'_>>(line) {
                Ok(read) => seen.note(&read),
                Err(_) => seen.evidence.unreadable += 1,
            }
            ControlFlow::Continue(())
        })?;
        seen.evidence.damaged_files += u64::from(!whole);
    }
    progress.done();
    let connected = ConnectedNetworks::default();
    connected.replace(seen.private.iter().copied().map(IpNet::from), &[]);
    let private = config.private(Arc::new(connected)).and_sources_of(&config.tenants);
    Ok(Proposal::new(tenant, &private, seen, options.all)?)
}

fn tenant<'c>(config: &'c Config, name: &str) -> Result<&'c TenantSpec, SuggestError> {
    config.tenants.iter().find(|tenant| *tenant.name == *name).ok_or_else(|| {
        let names: Vec<_> = config.tenants.iter().take(LISTED).map(|tenant| &*tenant.name).collect();
        let more = if config.tenants.len() > LISTED { ", …" } else { "" };
        SuggestError::NoTenant(name.to_owned(), names.join(", ") + more)
    })
}
