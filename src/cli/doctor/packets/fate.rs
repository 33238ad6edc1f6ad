//! The fate of a probe's flow, as the running gateway tells it. Once the gateway has let a flow out, what is lost is lost
//! behind it, and not on the way in.

use super::cure::Leg;
use super::unserved::is_unserved;
use crate::admin::ProbedFlow;
use crate::cli::doctor::refusing;
use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::outcome::{FlowPhase, Outcome};

const CHECK: &str = "flow";
/// Effect of a server's silence.
const WHY: &str = "packets of the client arrive, and no server answers them";

/// The finding of a flow that came no further than its server: it was not reached, or says nothing. `None` if the flow ended
/// otherwise, or what is missing belongs to the client's connection.
pub(super) fn beyond_gateway(flow: &ProbedFlow) -> Option<CheckFinding> {
    let outcome = flow.outcome.as_deref().and_then(Outcome::named);
    if outcome == Some(Outcome::ConnectTimeout) || is_waiting(flow) && left_or_lives(outcome) {
        return Some(unanswered(flow));
    }
    match outcome {
        Some(outcome) if has_failed(outcome) => Some(ended(flow, outcome)),
        None if flow.inspected && flow.dialled.is_none() => Some(unchecked(flow)),
        None if took_request_silently(flow) => Some(silent(flow)),
        Some(_) | None => None,
    }
}

/// The same for a flow whose probe waited for an answer in vain. Its end may be no more than the probe's.
pub(super) fn silent_beyond_gateway(flow: &ProbedFlow) -> Option<CheckFinding> {
    let by_probe = || {
        let outcome = flow.outcome.as_deref().and_then(Outcome::named)?;
        let is_good = matches!(outcome, Outcome::Closed | Outcome::ClientReset | Outcome::ClientLeft);
        (is_good && took_request_silently(flow)).then(|| silent(flow))
    };
    beyond_gateway(flow).or_else(by_probe)
}

/// The server has taken the request, and sent nothing.
fn took_request_silently(flow: &ProbedFlow) -> bool {
    flow.connected && flow.bytes_up > 0 && flow.bytes_down == 0
}

/// True while the server has not answered the gateway's SYN.
pub(super) fn is_waiting(flow: &ProbedFlow) -> bool {
    flow.dialled.is_some() && !flow.connected
}

/// True if somebody on the way, or the server, refused the gateway's SYN.
pub(super) fn is_refused(flow: &ProbedFlow) -> bool {
    let outcome = flow.outcome.as_deref().and_then(Outcome::named);
    matches!(outcome, Some(Outcome::UpstreamRefused | Outcome::UpstreamUnreachable))
}

/// The finding of a flow that was denied though `allowed` by the explanation of the gateway, or because the gateway could not
/// serve it.
pub(super) fn denied(flow: &ProbedFlow, allowed: bool) -> Option<CheckFinding> {
    let outcome = flow.outcome.as_deref().and_then(Outcome::named)?;
    (is_unserved(outcome) || allowed && outcome.is_denial()).then(|| ended(flow, outcome))
}

/// The flow lives, or its probe has given up.
fn left_or_lives(outcome: Option<Outcome>) -> bool {
    outcome.is_none_or(|outcome| outcome == Outcome::ClientLeft)
}

/// True for what went wrong behind the gateway, or in it.
fn has_failed(outcome: Outcome) -> bool {
    match outcome.phase() {
        FlowPhase::Dial => true,
        FlowPhase::Denied => false,
        FlowPhase::Early => outcome == Outcome::InternalError,
        FlowPhase::Relayed => {
            !matches!(outcome, Outcome::Closed | Outcome::ClientReset | Outcome::ClientLost)
        }
    }
}

/// Where the flow went, and from where.
fn way(flow: &ProbedFlow) -> String {
    let to = flow.dialled.map(|to| format!(" to {to}")).unwrap_or_default();
    format!("{to}{}", from(flow))
}

fn from(flow: &ProbedFlow) -> String {
    let public = flow.public.map(|public| format!(" (outside {public})")).unwrap_or_default();
    flow.source.map(|source| format!(" from {}{public}", source.ip())).unwrap_or_default()
}

fn ended(flow: &ProbedFlow, outcome: Outcome) -> CheckFinding {
    let detail = flow.detail.as_deref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    CheckFinding::fail(
        CHECK,
        format!("{}{} ended as {outcome}{detail}: {}", flow.flow, way(flow), outcome.meaning()),
        effect(outcome),
        remedy(flow, outcome),
    )
}

/// The cure of plain doctor for a route of this machine that refuses the packets; else the remedy of the outcome.
fn remedy(flow: &ProbedFlow, outcome: Outcome) -> Mend {
    let refusing = flow.dialled.filter(|_| outcome.phase() == FlowPhase::Dial);
    match refusing.and_then(|to| refusing::route_to(to.ip())) {
        Some(route) => Mend::run(format!("ip route del {route}")).and("if it is not meant"),
        None => format!("{} `egret why {}`", outcome.remedy().replace("FLOW", &flow.flow), flow.flow).into(),
    }
}

/// Effect of such an end.
fn effect(outcome: Outcome) -> &'static str {
    match outcome.phase() {
        FlowPhase::Dial => "packets of the client arrive, and no connection to the server comes about",
        FlowPhase::Denied => "packets of the client arrive, and the gateway refuses the flow",
        FlowPhase::Early => "packets of the client arrive, and the gateway dials no server",
        FlowPhase::Relayed => "packets of the client reach a server, and the flow is cut",
    }
}

fn unanswered(flow: &ProbedFlow) -> CheckFinding {
    let to = flow.dialled.map(|to| to.to_string()).unwrap_or_default();
    let source = flow.public.or(flow.source.map(|source| source.ip()));
    let source = source.map_or_else(|| "the pool's address".to_owned(), |source| source.to_string());
    CheckFinding::fail(
        CHECK,
        format!(
            "the server {to} does not answer SYNs{} ({}): flow {}",
            from(flow),
            Outcome::ConnectTimeout,
            flow.flow
        ),
        WHY,
        format!(
            "the server's firewall or security group must let {source} in, what it answers must find the way back to this machine \
             (routes, and where the cloud maps the pool's address to a public one, that mapping), and this machine must let it \
             out and in: `egret doctor` tries that (packets out); `egret why {}` once the flow has ended",
            flow.flow
        ),
    )
}

fn silent(flow: &ProbedFlow) -> CheckFinding {
    CheckFinding::fail(
        CHECK,
        format!("{}{}: the server has accepted the connection, and sends nothing", flow.flow, way(flow)),
        WHY,
        format!(
            "look at the server's log, and at what lies between for a limit on large packets (MTU); `egret why {}` once the \
             flow has ended",
            flow.flow
        ),
    )
}

fn unchecked(flow: &ProbedFlow) -> CheckFinding {
    CheckFinding::fail(
        CHECK,
        format!(
            "{}: the gateway has read the request, and its rule's checks of DNS or of the certificate have no result",
            flow.flow
        ),
        WHY,
        format!(
            "look at the DNS servers (`egret doctor` asks them), and at the server whose certificate is checked; `egret why {}` \
             once the flow has ended",
            flow.flow
        ),
    )
}

/// The cause that this machine itself is, of a server's silence.
pub(super) fn own_fault(flow: &ProbedFlow, cause: super::evidence::LossCause) -> CheckFinding {
    let super::evidence::LossCause { found, cure } = cause;
    CheckFinding::fail(
        Leg::Pool.check(),
        format!("flow {}{}: {found}", flow.flow, way(flow)),
        Leg::Pool.why(),
        cure,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(outcome: Option<Outcome>) -> ProbedFlow {
        ProbedFlow {
            flow: "00c0ffee-1f".into(),
            outcome: outcome.map(|outcome| outcome.to_string()),
            inspected: true,
            dialled: "192.0.2.1:443".parse().ok(),
            source: "203.0.113.16:5000".parse().ok(),
            ..ProbedFlow::default()
        }
    }

    fn said(flow: &ProbedFlow) -> String {
        beyond_gateway(flow).map(|finding| finding.found).unwrap_or_default()
    }

    #[test]
    fn flow_tells_where_packets_end() {
        let connected = |outcome| ProbedFlow { connected: true, bytes_up: 517, ..flow(outcome) };
        for silent in [None, Some(Outcome::ClientLeft), Some(Outcome::ConnectTimeout)] {
            let said = said(&flow(silent));
            assert!(
                said.contains("192.0.2.1:443 does not answer SYNs from 203.0.113.16 (connect_"),
                "{said}"
            );
        }
        assert!(said(&flow(Some(Outcome::UpstreamRefused))).contains("ended as upstream_refused"));
        assert!(said(&connected(Some(Outcome::UpstreamReset))).contains("ended as upstream_reset"));
        assert!(said(&connected(None)).contains("sends nothing"));
        assert!(said(&ProbedFlow { dialled: None, ..flow(None) }).contains("checks"));
        // The client's connection is to blame, or nothing.
        for other in [
            ProbedFlow { bytes_down: 100, ..connected(None) },
            ProbedFlow { bytes_up: 0, ..connected(None) },
            flow(Some(Outcome::NotAllowed)),
            ProbedFlow::default(),
        ] {
            assert_eq!(said(&other), "", "{other:?}");
        }
        for allowed in [true, false] {
            assert!(denied(&flow(Some(Outcome::PortsExhausted)), allowed).is_some());
        }
        assert_eq!(denied(&flow(Some(Outcome::NotAllowed)), false), None);
    }

    #[test]
    fn silence_counts_after_the_probes_end() {
        let ended = |outcome| ProbedFlow { connected: true, bytes_up: 517, ..flow(Some(outcome)) };
        for outcome in [Outcome::Closed, Outcome::ClientReset, Outcome::ClientLeft] {
            let finding = silent_beyond_gateway(&ended(outcome)).map(|finding| finding.found);
            assert!(finding.is_some_and(|found| found.contains("sends nothing")), "{outcome}");
            assert_eq!(silent_beyond_gateway(&ProbedFlow { bytes_down: 1, ..ended(outcome) }), None);
        }
        assert_eq!(beyond_gateway(&ended(Outcome::Closed)), None, "its end may be an answer");
    }

    #[test]
    fn effect_is_that_of_the_outcome() {
        let why = |outcome| denied(&flow(Some(outcome)), true).or(beyond_gateway(&flow(Some(outcome))));
        assert!(why(Outcome::PortsExhausted).is_some_and(|finding| finding.why.contains("refuses the flow")));
        assert!(why(Outcome::UpstreamRefused).is_some_and(|finding| finding.why.contains("no connection")));
        assert!(why(Outcome::ConnectTimeout).is_some_and(|finding| finding.why == WHY));
        assert!(why(Outcome::Drained).is_some_and(|finding| finding.why.contains("is cut")));
    }
}
