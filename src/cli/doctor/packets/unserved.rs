//! Refusals of flows that the gateway could not serve, apart from those that its policy decided.

use super::request::refusal;
use crate::cli::findings::CheckFinding;
use crate::outcome::Outcome;

/// True for a denial because the gateway, or something that it asks, lacked what the flow needs. False for what policy, or a
/// check that came to a result, decided of it; and for what is no denial.
pub(super) fn is_unserved(outcome: Outcome) -> bool {
    match outcome {
        Outcome::NameUnresolved
        | Outcome::ResolverUnavailable
        | Outcome::CertificateUnavailable
        // The probe sends its request at once and whole.
        | Outcome::InspectTimeout
        | Outcome::InspectionBusy
        | Outcome::TenantFlowLimit
        | Outcome::GatewayFull
        | Outcome::NoSourceAddress
        | Outcome::TenantPortCeiling
        | Outcome::PortsExhausted => true,
        Outcome::UnknownTenant
        | Outcome::DestinationLocal
        | Outcome::DestinationPrivate
        | Outcome::DestinationMismatch
        | Outcome::CertificateInvalid
        | Outcome::HelloTooLarge
        | Outcome::MalformedTls
        | Outcome::MalformedHttp
        | Outcome::HelloChanged
        | Outcome::EchDenied
        | Outcome::InvalidHostname
        | Outcome::NoHostname
        | Outcome::UnknownProtocol
        | Outcome::DeniedByRule
        | Outcome::NotAllowed
        // No denials.
        | Outcome::Closed
        | Outcome::ClientReset
        | Outcome::UpstreamReset
        | Outcome::ClientLost
        | Outcome::UpstreamLost
        | Outcome::IdleTimeout
        | Outcome::HalfOpenTimeout
        | Outcome::Drained
        | Outcome::PolicyRevoked
        | Outcome::RelayFailed
        | Outcome::ClientLeft
        | Outcome::InternalError
        | Outcome::UpstreamRefused
        | Outcome::UpstreamUnreachable
        | Outcome::ConnectTimeout
        | Outcome::DialFailed => false,
    }
}

/// The finding of a flow of which no more is known than the gateway's own answer, if that is such a refusal.
pub(super) fn by_answer(check: &'static str, who: &str, answer: &[u8]) -> Option<CheckFinding> {
    let outcome = refusal(answer).filter(|outcome| is_unserved(*outcome))?;
    Some(CheckFinding::fail(
        check,
        format!("{who}: packets pass, and the gateway answers {outcome}: {}", outcome.meaning()),
        "the gateway refuses flows that its policy may allow",
        outcome.remedy(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::FlowPhase;

    #[test]
    fn only_denials_are_unserved() {
        for outcome in Outcome::ALL.iter().filter(|outcome| is_unserved(**outcome)) {
            assert_eq!(outcome.phase(), FlowPhase::Denied, "{outcome}");
        }
    }

    #[test]
    fn refusals_for_want_of_something_fail() {
        let answered = |reason: &str| {
            let page = format!(
                "HTTP/1.1 503 x\r\n\r\nEgret, the egress gateway, refused this request.\nreason: {reason}\n"
            );
            by_answer("packets in", "alpha", page.as_bytes())
        };
        for reason in ["ports_exhausted", "tenant_flow_limit", "tenant_port_ceiling (its ports_ceiling is 9)"]
        {
            let finding = answered(reason).unwrap();
            assert!(
                finding.found.contains(reason.split(' ').next().unwrap()) && finding.mend.is_some(),
                "{finding:?}"
            );
        }
        assert_eq!(answered("not_allowed"), None);
        assert_eq!(
            by_answer("packets in", "alpha", b"HTTP/1.1 200 OK\r\n\r\nreason: ports_exhausted\n"),
            None
        );
    }
}
