//! The gateway's own explanation of a flow.

use super::request::Language;
use crate::admin::{ClientTarget, ExplainQuery, ExplainReport};
use crate::cli::explain::{live, verdict_of};
use crate::cli::findings::CheckFinding;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The verdict on such a flow, and the outcome with which it ends, as `egret explain --live` names them. `None` if the
/// gateway cannot be asked.
pub(super) fn verdict(socket: &Path, from: IpAddr, name: &str, server: SocketAddr) -> Option<CheckFinding> {
    const CHECK: &str = "verdict";
    let to: ClientTarget = match name.parse::<IpAddr>() {
        Ok(_) => match Language::of_port(server.port()) {
            Language::Tls => ClientTarget::Address(server),
            Language::Http => ClientTarget::NotHostname(server),
        },
        Err(_) => ClientTarget::Name(name.parse().ok()?, server.port()),
    };
    let address = matches!(to, ClientTarget::Name(..)).then(|| server.ip());
    let query = ExplainQuery { from, to, address, ech: false, other_protocol: false };
    let report = live(socket, &query).ok()?;
    Some(CheckFinding::ok(CHECK, told(&report)))
}

fn told(report: &ExplainReport) -> String {
    let verdict = verdict_of(report);
    match &report.outcome {
        Some(outcome) => {
            format!("{verdict}, outcome {}: {} {}", outcome.name, outcome.meaning, outcome.remedy)
        }
        None => verdict,
    }
}
