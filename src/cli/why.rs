//! `egret why`: what became of a flow, from the flow log, and what the policy of today would make of it.
//!
//! Exit codes, stable: 0 told, 1 no such flow in the log, 2 the log or the configuration could not be read.

use super::explain::show;
use super::flow_log::{LogError, LogFiles, Recorded, find};
use super::output::{json_page, print};
use crate::admin::ExplainReport;
use crate::app::Explainer;
use crate::config::Config;
use crate::gateway::FlowId;
use crate::outcome::Outcome;
use crate::units::format_size;
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::process::ExitCode;

pub(super) const FAILED: u8 = 2;

/// Which flow.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The flow's ID: `flow` in a refusal and in the flow log, for example 00c0ffee-1f
    #[arg(value_name = "ID")]
    flow: FlowId,
    #[command(flatten)]
    log: LogFiles,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Why nothing can be said of the flow.
#[derive(Debug, thiserror::Error)]
pub(super) enum WhyError {
    #[error(
        "no flow {0} in the flow log: flows are there once they have ended; older logs are read with --log FILE"
    )]
    NotFound(FlowId),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("cannot judge the flow: {0}")]
    Policy(#[from] crate::policy::CompileError),
    #[error("cannot judge the flow: {0}")]
    Question(#[from] crate::app::Unanswerable),
}

impl WhyError {
    /// Says it, and yields the exit code.
    pub(super) fn tell(&self, command: &str) -> ExitCode {
        eprintln!("egret {command}: {self}");
        ExitCode::from(match self {
            Self::NotFound(_) => 1,
            Self::Log(_) | Self::Policy(_) | Self::Question(_) => FAILED,
        })
    }
}

/// A flow that was found, and the same flow asked about anew.
#[derive(Serialize)]
pub(super) struct Flow {
    /// Its line of the flow log.
    #[serde(rename = "flow")]
    raw: Value,
    #[serde(skip)]
    pub(super) record: Recorded,
    /// By the files as they are now.
    pub(super) now: ExplainReport,
}

impl Flow {
    /// Looks it up.
    pub(super) fn find(
        config: &Config,
        flow: FlowId,
        log: &LogFiles,
        command: &'static str,
    ) -> Result<Self, WhyError> {
        let mut files = log.of(config, None)?;
        files.reverse();
        let found = find(&files, flow, command)?;
        let (record, raw) = found.ok_or(WhyError::NotFound(flow))?;
        let now = Explainer::new(config)?.explain(&record.question())?;
        Ok(Self { raw, record, now })
    }
}

/// Tells about the flow.
pub fn run(config: &Config, options: &Options) -> ExitCode {
    match Flow::find(config, options.flow, &options.log, "why") {
        Ok(flow) => print(&if options.json { json_page(&flow) } else { text(&flow) }, 0),
        Err(error) => error.tell("why"),
    }
}

fn text(Flow { record, now, .. }: &Flow) -> String {
    let mut text = String::new();
    let Recorded { time, flow, client, destination, duration_ms, .. } = record;
    let tenant = record.tenant.as_deref().unwrap_or("unknown");
    let _ = writeln!(text, "flow     {flow}, {time:.0}, lasted {duration_ms} ms");
    let _ = writeln!(text, "from     {client}, tenant {tenant}");
    let protocol = record.protocol.as_deref().map(|protocol| format!(" ({protocol})")).unwrap_or_default();
    let _ = match record.name() {
        Some(name) => writeln!(text, "to       {name} at {destination}{protocol}"),
        None => writeln!(text, "to       {destination}, without a name{protocol}"),
    };
    if let Some(source) = record.source {
        let public = record.public.map(|public| format!(", outside {public}")).unwrap_or_default();
        let _ = writeln!(text, "left     from {source}{public}");
    }
    let (up, down) = (format_size(record.bytes_up), format_size(record.bytes_down));
    let _ = writeln!(text, "bytes    {up} up, {down} down");
    let by = record.rule.as_deref().map(|rule| format!(" ({rule})")).unwrap_or_default();
    let verdict = record.verdict.as_deref().unwrap_or("none: it ended before there was one");
    let _ = writeln!(text, "verdict  {verdict}{by}");
    write_outcome(&mut text, record);
    let _ = writeln!(text, "\nThe same flow by the configuration as it is now:");
    text + &show(now)
}

fn write_outcome(text: &mut String, record: &Recorded) {
    let detail = record.detail.as_deref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    let meaning = |outcome: Option<Outcome>| outcome.map_or("", Outcome::meaning);
    let word = record.outcome_word();
    let _ = writeln!(text, "outcome  {word}{detail}: {}", meaning(record.outcome()));
    match record.denied_as() {
        Some(denied) if record.outcome() != Some(denied) => {
            let _ = writeln!(
                text,
                "         monitor mode let it pass; enforced, it is {denied}: {}",
                denied.meaning()
            );
        }
        Some(denied) => {
            let _ = writeln!(text, "         {}", denied.remedy());
            if super::allow::can_help(denied) {
                let _ = writeln!(
                    text,
                    "         `egret allow {}` writes the rule that would allow it",
                    record.flow
                );
            }
        }
        None => {}
    }
}
