//! Denials that monitor mode waives.

use super::address_class::{self, AddressClass};
use super::decision::{Denial, Permit};
use crate::addr::OriginalDestination;
use crate::outcome::Outcome;

impl Denial {
    /// Applies monitor mode: a permit for the address that the client dialled; or the denial itself, if it holds in any
    /// mode.
    ///
    /// Addresses that a name may never lead to stay denied. Without a gateway, no packet to such an address would leave
    /// the client's host or link; here it would reach the *gateway's* metadata service and its neighbours.
    pub(super) fn apply_mode(self, to: OriginalDestination) -> Result<Permit, Self> {
        if can_be_waived(self.outcome) && address_class::of(to.ip()) != AddressClass::Never {
            Ok(Permit::waived(self, to))
        } else {
            Err(self)
        }
    }
}

/// True if the flow would have been possible without a gateway, and is possible with this one: denials by policy, and
/// clients whose first bytes could not be judged. Limits, ports and loops hold in any mode.
pub fn can_be_waived(outcome: Outcome) -> bool {
    match outcome {
        Outcome::DestinationPrivate
        | Outcome::DestinationMismatch
        | Outcome::NameUnresolved
        | Outcome::CertificateInvalid
        | Outcome::CertificateUnavailable
        | Outcome::ResolverUnavailable
        | Outcome::InspectTimeout
        | Outcome::HelloTooLarge
        | Outcome::InspectionBusy
        | Outcome::MalformedTls
        | Outcome::MalformedHttp
        | Outcome::EchDenied
        | Outcome::HelloChanged
        | Outcome::InvalidHostname
        | Outcome::UnknownProtocol
        | Outcome::NoHostname
        | Outcome::DeniedByRule
        | Outcome::NotAllowed => true,
        Outcome::UnknownTenant
        | Outcome::DestinationLocal
        | Outcome::TenantFlowLimit
        | Outcome::GatewayFull
        | Outcome::NoSourceAddress
        | Outcome::TenantPortCeiling
        | Outcome::PortsExhausted
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

#[cfg(test)]
mod tests {
    use super::*;

    fn to(address: &str) -> OriginalDestination {
        OriginalDestination::tcp(address.parse().unwrap())
    }

    #[test]
    fn waived_denial_keeps_its_rule() {
        let denial = Denial { outcome: Outcome::DeniedByRule, rule: Some("no-mail".into()) };
        let permit = denial.apply_mode(to("198.51.100.9:25")).unwrap();
        assert_eq!(permit.would_deny(), Some(Outcome::DeniedByRule));
        assert_eq!(permit.rule().map(|rule| &**rule), Some("no-mail"));
        assert_eq!(permit.dial().socket(), "198.51.100.9:25".parse().unwrap());
    }

    #[test]
    fn limits_and_loops_are_never_waived() {
        for &outcome in Outcome::ALL {
            let waived = Denial { outcome, rule: None }.apply_mode(to("10.0.0.1:443")).is_ok();
            assert_eq!(waived, can_be_waived(outcome));
            assert!(outcome.is_denial() || !waived, "{outcome}");
        }
        assert!(!can_be_waived(Outcome::DestinationLocal) && !can_be_waived(Outcome::PortsExhausted));
    }

    #[test]
    fn monitor_keeps_metadata_addresses_closed() {
        for address in ["169.254.169.254:80", "[fd00:ec2::254]:80", "[fe80::1]:443", "224.0.0.1:443"] {
            let denial = Denial { outcome: Outcome::NotAllowed, rule: None };
            assert_eq!(denial.clone().apply_mode(to(address)), Err(denial), "{address}");
        }
    }
}
