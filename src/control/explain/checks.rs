//! Checks of name and certificate that the allowing rule requires, answered from the caches. Sends no lookups; a real
//! flow does before it is denied.

use crate::addr::{DialAddr, Family};
use crate::admin::ExplainReport;
use crate::flow::{AddressCheck, CertificateCheck};
use crate::gateway::{EffectiveRules, VerificationHandles, address_refusal, certificate_refusal};
use crate::hostname::{AskedName, Hostname};
use crate::outcome::Outcome;
use crate::policy::{CertificateRule, DestinationRule, FlowFacts, Permit};
use std::net::IpAddr;

/// Returns the permit to dial after the checks; or the outcome of the one that fails. `families` are those of the addresses
/// that the gateway may dial.
pub(super) fn checked(
    report: &mut ExplainReport,
    EffectiveRules { rules, verification }: EffectiveRules<'_>,
    asked: &AskedName,
    permit: Permit,
    facts: &FlowFacts<'_>,
    families: &[Family],
) -> Result<Permit, Outcome> {
    report.destination = Some(permit.destination().as_str().to_owned());
    report.certificate = Some(permit.certificate().as_str().to_owned());
    let (Some(verification), AskedName::Valid(name)) = (verification, asked) else {
        return Ok(permit);
    };
    if !permit.needs_checks() {
        return Ok(permit);
    }
    let to = |ip| DialAddr::from(facts.dialled).at(ip);
    let leads_to = |ip| rules.judge(&FlowFacts { reached: Some(to(ip)), ..*facts }).allowed().ok();
    let permits = address(report, verification, name, families, permit, leads_to)?;
    certificate(report, verification, name, permits)
}

/// Returns the permits after the address check; at least one.
fn address(
    report: &mut ExplainReport,
    VerificationHandles { verifier, asker, .. }: &VerificationHandles,
    name: &Hostname,
    families: &[Family],
    permit: Permit,
    leads_to: impl Fn(IpAddr) -> Option<Permit>,
) -> Result<Vec<Permit>, Outcome> {
    let names = verifier.names();
    if permit.destination() != DestinationRule::Original {
        report.known_addresses = Some(names.known(name, families, Some(asker)));
    }
    match permit.destination() {
        DestinationRule::Original => {}
        DestinationRule::Observe | DestinationRule::Verify if report.address_assumed => {}
        DestinationRule::Observe | DestinationRule::Verify => {
            let found = names.judge(name, permit.dial().ip(), asker);
            report.address_check = found.map(|found| AddressCheck::from(found).as_str().to_owned());
            let refusal = found.and_then(address_refusal);
            if let Some((outcome, _)) = refusal.filter(|_| permit.destination() == DestinationRule::Verify) {
                return Err(outcome);
            }
        }
        DestinationRule::Resolve => {
            let known = report.known_addresses.iter().flatten();
            let permits: Vec<_> = known.filter_map(|&ip| leads_to(ip)).collect();
            if !permits.is_empty() {
                report.address_check = Some(AddressCheck::Resolved.as_str().to_owned());
                return Ok(permits);
            }
        }
    }
    Ok(vec![permit])
}

/// Returns the first permit that passes the certificate check.
fn certificate(
    report: &mut ExplainReport,
    VerificationHandles { verifier, asker, .. }: &VerificationHandles,
    name: &Hostname,
    permits: Vec<Permit>,
) -> Result<Permit, Outcome> {
    let mut refused = Err(Outcome::NameUnresolved);
    for permit in permits {
        let unknown = permit.destination() != DestinationRule::Resolve && report.address_assumed;
        if permit.certificate() == CertificateRule::Unasked || unknown {
            return Ok(permit);
        }
        let found = verifier.certificates().known(name, permit.dial().socket(), asker);
        report.certificate_check = found.map(|found| CertificateCheck::from(found).as_str().to_owned());
        match found.and_then(certificate_refusal) {
            Some((outcome, _)) if permit.certificate() == CertificateRule::Require => refused = Err(outcome),
            _ => return Ok(permit),
        }
    }
    refused
}
