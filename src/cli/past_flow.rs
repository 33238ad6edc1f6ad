//! A past flow from the flow log, and the decision of a configuration on it.

use super::flow_log::{LogError, LogFiles, Recorded, find};
use crate::admin::ExplainReport;
use crate::config::{Config, FlowLogTarget};
use crate::control::Explainer;
use crate::flow::FlowId;
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

/// A flow from the log.
pub(super) struct PastFlow {
    /// Line of the flow log.
    pub(super) line: Value,
    pub(super) record: Recorded,
}

impl PastFlow {
    /// Looks the flow up: in the files given, in that order, else in those of the configured log, the newest first.
    pub(super) fn find(
        configured: Option<&FlowLogTarget>,
        options: &FlowOptions,
        command: &'static str,
    ) -> Result<Self, PastFlowError> {
        let files = options.log.of(configured, None)?;
        let found = find(&files, options.flow, command)?;
        let (record, line) = found.ok_or(PastFlowError::NotFound(options.flow))?;
        Ok(Self { line, record })
    }

    /// Explains the decision of a configuration on the same flow.
    pub(super) fn explain(&self, config: &Config) -> Result<ExplainReport, PastFlowError> {
        Ok(Explainer::new(config)?.explain(&self.record.question())?)
    }
}
