//! A flow's record, read from the log.

use super::{LogError, LogFile, ReadProgress, read};
use crate::admin::{ClientTarget, ExplainQuery};
use crate::flow::FlowId;
use crate::hostname::Hostname;
use crate::outcome::Outcome;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;

/// The keys of a record that commands show; others are ignored.
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
    /// Time until the server answered; `None` if it did not.
    #[serde(default)]
    pub(in crate::cli) connect_ms: Option<f64>,
    #[serde(default)]
    address_check: Option<String>,
    /// True if a candidate decided.
    #[serde(default)]
    pub(in crate::cli) canary: bool,
    #[serde(default)]
    pub(in crate::cli) public: Option<IpAddr>,
    pub(in crate::cli) bytes_up: u64,
    pub(in crate::cli) bytes_down: u64,
    pub(in crate::cli) duration_ms: f64,
}

impl Recorded {
    /// The name that the verdict is about: that of the request for which the flow was ended, else the first one; `None`
    /// if that is no hostname.
    pub(in crate::cli) fn name(&self) -> Option<Hostname> {
        if self.has_invalid_name() {
            return None;
        }
        self.denied_hostname.as_ref().or(self.hostname.as_ref())?.parse().ok()
    }

    /// True if it was denied because the client sent something that is no hostname.
    pub(in crate::cli) fn has_invalid_name(&self) -> bool {
        self.denied_as() == Some(Outcome::InvalidHostname)
    }

    /// The outcome; `None` for one that this version does not know.
    pub(in crate::cli) fn outcome(&self) -> Option<Outcome> {
        Outcome::named(&self.outcome)
    }

    /// The outcome as the log has it.
    pub(in crate::cli) fn outcome_word(&self) -> &str {
        &self.outcome
    }

    /// The reason of the denial, also where monitor mode let the flow pass.
    pub(in crate::cli) fn denied_as(&self) -> Option<Outcome> {
        let denied = self.would_deny.as_deref().and_then(Outcome::named);
        denied.or(self.outcome().filter(|outcome| outcome.is_denial()))
    }

    /// True if it was denied because the client sent nothing that can be inspected; perhaps its server speaks first.
    pub(in crate::cli) fn was_silent(&self) -> bool {
        self.denied_as() == Some(Outcome::InspectTimeout) && self.name().is_none()
    }

    /// True if the denial may be about an address that the name was resolved to, which no file tells.
    pub(in crate::cli) fn was_resolved(&self) -> bool {
        self.address_check.as_deref() == Some("resolved")
    }

    /// True if the denial, if there is one, was waived by monitor mode.
    pub(in crate::cli) fn was_waived(&self) -> bool {
        self.would_deny.is_some()
    }

    /// The address dialled, if a rule by name was not to lead to it.
    pub(in crate::cli) fn private_address(&self) -> Option<IpAddr> {
        let denied = self.denied_as() == Some(Outcome::DestinationPrivate) && !self.was_resolved();
        denied.then(|| self.destination.ip())
    }

    /// The query that has the same flow explained.
    pub(in crate::cli) fn question(&self) -> ExplainQuery {
        let (to, address) = match self.name() {
            Some(name) => (ClientTarget::Name(name, self.destination.port()), Some(self.destination.ip())),
            None if self.has_invalid_name() => (ClientTarget::NotHostname(self.destination), None),
            None => (ClientTarget::Address(self.destination), None),
        };
        let other_protocol =
            matches!(to, ClientTarget::Address(_)) && self.protocol.as_deref() == Some("other");
        ExplainQuery { from: self.client.ip(), to, address, ech: self.ech, other_protocol }
    }
}

/// Finds a flow's record, in the order of the files: parsed, and as it is written.
pub(in crate::cli) fn find(
    files: &[LogFile],
    flow: FlowId,
    command: &'static str,
) -> Result<Option<(Recorded, Value)>, LogError> {
    let wanted = format!("\"{flow}\"");
    let mut progress = ReadProgress::new(command, files);
    let mut found = None;
    for file in files {
        read(file, &mut progress, &mut |line| {
            // Avoids parsing most lines.
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
