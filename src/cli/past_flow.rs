//! A past flow from the flow log, and the decision of a configuration on it.

use super::flow_log::{LogError, LogFiles, Recorded, find};
use crate::admin::{ExplainReport, ExplainedOutcome};
use crate::config::{Config, FlowLogTarget};
use crate::control::Explainer;
use crate::flow::FlowId;
use crate::outcome::Outcome;
use crate::policy::AddressOwner;
use serde_json::Value;
use std::process::ExitCode;

/// The exit code if something could not be read or written.
pub(super) const FAILED: u8 = 2;

/// The reason why an address was private that is public by the files.
const OF_THE_GATEWAY: &str = "in a network of one of the gateway's own links, which no file tells, or was private by the files of then";

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
        explain(config, &self.record)
    }
}

/// Explains the decision of a configuration on a flow of the log. Beside the files it goes by what the record proves: that the
/// address dialled was private, and that the client said nothing.
pub(super) fn explain(config: &Config, record: &Recorded) -> Result<ExplainReport, PastFlowError> {
    let private = record.private_address();
    let mut told = Explainer::with_link_address(config, private)?.explain(&record.question())?;
    if let Some(address) = private
        && told.private == Some(AddressOwner::Connected(address.into()).to_string())
    {
        told.private = Some(OF_THE_GATEWAY.to_owned());
    }
    if record.was_silent() && told.inspected && told.is_let_out() {
        deny_silent(&mut told, config);
    }
    Ok(told)
}

/// Turns a permit for what the client might have asked into the denial of one that says nothing until the deadline.
fn deny_silent(told: &mut ExplainReport, config: &Config) {
    let denied = Outcome::InspectTimeout;
    let denied = ExplainedOutcome {
        name: denied.as_str().to_owned(),
        meaning: denied.meaning().to_owned(),
        remedy: denied.remedy().to_owned(),
    };
    if told.mode.as_deref() == Some("monitor") {
        told.would_deny = Some(denied);
    } else {
        told.allowed = false;
        told.help = config.help.as_deref().map(ToOwned::to_owned);
        (told.rule, told.pool, told.outcome) = (None, None, Some(denied));
    }
}
