//! The gateway's own explanation of a flow.

use crate::admin::{ClientTarget, ExplainQuery, ExplainReport, ExplainedCanary};
use crate::cli::explain::{live, verdict_of};
use crate::cli::findings::CheckFinding;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The explanation of such a flow, as `egret explain --live` has it. `None` if the gateway cannot be asked.
pub(super) fn explained(
    socket: &Path,
    from: IpAddr,
    to: ClientTarget,
    server: SocketAddr,
) -> Option<ExplainReport> {
    let address = matches!(to, ClientTarget::Name(..)).then(|| server.ip());
    let query = ExplainQuery { from, to, address, ech: false, other_protocol: false };
    live(socket, &query).ok()
}

/// The verdict, who decided, and the outcome of a denial.
pub(super) fn verdict(report: &ExplainReport) -> CheckFinding {
    let canary = report.canary.as_ref().map(|ExplainedCanary { percent, in_force, .. }| {
        let in_force = verdict_of(in_force);
        format!("; by the candidate, a canary of {percent} % of the clients (in force: {in_force})")
    });
    CheckFinding::ok("verdict", told(report) + &canary.unwrap_or_default())
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
