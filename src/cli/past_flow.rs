//! A past flow from the flow log, and the current policy's decision on it.

use super::flow_log::{LogError, LogFiles, Recorded, find};
use crate::admin::ExplainReport;
use crate::config::Config;
use crate::control::Explainer;
use crate::flow::FlowId;
use serde::Serialize;
use serde_json::Value;
use std::process::ExitCode;

/// The exit code if something could not be read or written.
pub(super) const FAILED: u8 = 2;

/// Arguments that select a flow.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct FlowOptions {
    /// The flow's ID: `flow` in a refusal and in the flow log, for example 00c0ffee-1f
    #[arg(value_name = "ID")]
    pub(super) flow: FlowId,
    #[command(flatten)]
    pub(super) log: LogFiles,
}

/// A reason why the flow cannot be explained.
#[derive(Debug, thiserror::Error)]
pub(super) enum PastFlowError {
    #[error(
        "no flow {0} in the flow log: a flow is written there when it ends; to read an older log, give --log FILE"
    )]
    NotFound(FlowId),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("cannot judge the flow: {0}")]
    Policy(#[from] crate::policy::CompileError),
    #[error("cannot judge the flow: {0}")]
    Question(#[from] crate::control::ExplainError),
}

impl PastFlowError {
    /// Prints the error, and returns the exit code.
    pub(super) fn report(&self, command: &str) -> ExitCode {
        eprintln!("egret {command}: {self}");
        ExitCode::from(match self {
            Self::NotFound(_) => 1,
            Self::Log(_) | Self::Policy(_) | Self::Question(_) => FAILED,
        })
    }
}

/// A flow from the log, with the current decision.
#[derive(Serialize)]
pub(super) struct PastFlow {
    /// Line of the flow log.
    #[serde(rename = "flow")]
    raw: Value,
    #[serde(skip)]
    pub(super) record: Recorded,
    /// Explanation by the current configuration files.
    pub(super) now: ExplainReport,
}

impl PastFlow {
    /// Looks the flow up: in the files given, in that order, else in those of the configured log, the newest first.
    pub(super) fn find(
        config: &Config,
        options: &FlowOptions,
        command: &'static str,
    ) -> Result<Self, PastFlowError> {
        let files = options.log.of(config, None)?;
        let found = find(&files, options.flow, command)?;
        let (record, raw) = found.ok_or(PastFlowError::NotFound(options.flow))?;
        let now = Explainer::new(config)?.explain(&record.question())?;
        Ok(Self { raw, record, now })
    }
}
