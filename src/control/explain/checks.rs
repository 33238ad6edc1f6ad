//! Checks of name and certificate that the allowing rule requires, answered from the caches. Sends no lookups; a real
//! flow does before it is denied.

use crate::addr::DialAddr;
use crate::admin::ExplainReport;
use crate::family::Family;
use crate::flow::{AddressCheck, CertificateCheck};
use crate::gateway::{EffectiveRules, VerificationHandles, address_refusal, certificate_refusal};
use crate::hostname::{AskedName, Hostname};
use crate::outcome::Outcome;
use crate::policy::{CertificateRule, DestinationRule, FlowFacts, Permit};
use std::net::IpAddr;

/// Port that is taken for plain HTTP, under which no certificate is asked for.
const PLAIN_HTTP: u16 = 80;

/// Returns the permit to dial first after the checks, and those that are dialled after it; or the outcome of the check that fails.
/// `families` are those of the addresses that the gateway may dial.
pub(super) fn checked(
    report: &mut ExplainReport,
    EffectiveRules { rules, verification }: EffectiveRules<'_>,
    asked: &AskedName,
    permit: Permit,
    facts: &FlowFacts<'_>,
    families: &[Family],
) -> Result<(Permit, Vec<Permit>), Outcome> {
    report.destination = Some(permit.destination().as_str().to_owned());
    report.certificate = Some(permit.certificate().as_str().to_owned());
    let cannot_prove = facts.dialled.port() == PLAIN_HTTP && permit.certificate() == CertificateRule::Require;
    let proof = if cannot_prove { Err(Outcome::CertificateUnavailable) } else { Ok(()) };
    let (Some(verification), AskedName::Valid(name), true) = (verification, asked, permit.needs_checks())
    else {
        return proof.map(|()| (permit, Vec::new()));
    };
    let to = |ip| DialAddr::from(facts.dialled).at(ip);
    let leads_to = |ip| rules.judge(&FlowFacts { reached: Some(to(ip)), ..*facts }).allowed().ok();
    let permits = address(report, verification, name, families, permit, leads_to)?;
    proof?;
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

/// Returns the first permit that passes the certificate check, and those after it that are not known to fail.
fn certificate(
    report: &mut ExplainReport,
    VerificationHandles { verifier, asker, .. }: &VerificationHandles,
    name: &Hostname,
    permits: Vec<Permit>,
) -> Result<(Permit, Vec<Permit>), Outcome> {
    let known = |permit: &Permit| verifier.certificates().known(name, permit.dial().socket(), asker);
    let refused_by = |permit: &Permit, found| {
        let refusal = certificate_refusal(found).filter(|_| permit.certificate() == CertificateRule::Require);
        refusal.map(|(outcome, _)| outcome)
    };
    let mut refused = Outcome::NameUnresolved;
    let mut permits = permits.into_iter();
    while let Some(permit) = permits.next() {
        let unknown = permit.destination() != DestinationRule::Resolve && report.address_assumed;
        if permit.certificate() == CertificateRule::Unasked || unknown {
            return Ok((permit, permits.collect()));
        }
        let found = known(&permit);
        report.certificate_check = found.map(|found| CertificateCheck::from(found).as_str().to_owned());
        let Some(outcome) = found.and_then(|found| refused_by(&permit, found)) else {
            let passes =
                |permit: &Permit| known(permit).and_then(|found| refused_by(permit, found)).is_none();
            return Ok((permit, permits.filter(passes).collect()));
        };
        refused = outcome;
    }
    Err(refused)
}
