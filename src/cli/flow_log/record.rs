//! One flow's record, read back from the log.

use super::{LogError, LogFile, Progress, read};
use crate::admin::{ExplainQuery, Target};
use crate::gateway::FlowId;
use crate::hostname::Hostname;
use crate::outcome::Outcome;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;

/// What people are told of a flow that has ended. Keys that are not here are skipped.
#[derive(Debug, Deserialize)]
pub(in crate::cli) struct Recorded {
    pub(in crate::cli) time: Timestamp,
    pub(in crate::cli) flow: String,
    pub(in crate::cli) tenant: Option<String>,
    pub(in crate::cli) client: SocketAddr,
    pub(in crate::cli) destination: SocketAddr,
    hostname: Option<String>,
    denied_hostname: Option<String>,
    pub(in crate::cli) protocol: Option<String>,
    #[serde(default)]
    ech: bool,
    pub(in crate::cli) rule: Option<String>,
    pub(in crate::cli) verdict: Option<String>,
    #[serde(default)]
    would_deny: Option<String>,
    outcome: String,
    pub(in crate::cli) detail: Option<String>,
    pub(in crate::cli) source: Option<SocketAddr>,
    #[serde(default)]
    pub(in crate::cli) public: Option<IpAddr>,
    pub(in crate::cli) bytes_up: u64,
    pub(in crate::cli) bytes_down: u64,
    pub(in crate::cli) duration_ms: f64,
}

impl Recorded {
    /// The name that decided: that of the request it was ended for, else the first one.
    pub(in crate::cli) fn name(&self) -> Option<Hostname> {
        self.denied_hostname.as_ref().or(self.hostname.as_ref())?.parse().ok()
    }

    /// How it ended; `None` for a word of another version.
    pub(in crate::cli) fn outcome(&self) -> Option<Outcome> {
        known(&self.outcome)
    }

    /// As the log has it.
    pub(in crate::cli) fn outcome_word(&self) -> &str {
        &self.outcome
    }

    /// Why policy denied it, also where monitor mode let it pass.
    pub(in crate::cli) fn denied_as(&self) -> Option<Outcome> {
        let denied = self.would_deny.as_deref().and_then(known);
        denied.or(self.outcome().filter(|outcome| outcome.is_denial()))
    }

    /// The same flow, asked about anew.
    pub(in crate::cli) fn question(&self) -> ExplainQuery {
        let (to, address) = match self.name() {
            Some(name) => (Target::Name(name, self.destination.port()), Some(self.destination.ip())),
            None => (Target::Address(self.destination), None),
        };
        let other_protocol = address.is_none() && self.protocol.as_deref() == Some("other");
        ExplainQuery { from: self.client.ip(), to, address, ech: self.ech, other_protocol }
    }
}

fn known(word: &str) -> Option<Outcome> {
    Outcome::ALL.iter().copied().find(|outcome| outcome.as_str() == word)
}

/// Looks for a flow's record, in the newest file first: as it is read, and as it stands there.
pub(in crate::cli) fn find(
    files: &[LogFile],
    flow: FlowId,
    command: &'static str,
) -> Result<Option<(Recorded, Value)>, LogError> {
    let wanted = format!("\"{flow}\"");
    let mut progress = Progress::new(command, files);
    let mut found = None;
    for file in files {
        read(file, &mut progress, &mut |line| {
            // Most lines are not it, and need not be parsed.
            if !std::str::from_utf8(line).is_ok_and(|line| line.contains(&wanted)) {
                return ControlFlow::Continue(());
            }
            let record = serde_json::from_slice::<Recorded>(line).ok();
            let Some(record) = record.filter(|record| record.flow == flow.to_string()) else {
                return ControlFlow::Continue(());
            };
            found = serde_json::from_slice(line).ok().map(|raw| (record, raw));
            ControlFlow::Break(())
        })?;
        if found.is_some() {
            break;
        }
    }
    progress.done();
    Ok(found)
}
