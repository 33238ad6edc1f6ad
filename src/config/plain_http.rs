//! Warnings for rules that name the port of plain HTTP, and require a certificate that no server shows there.

use super::diagnostic::Diagnostics;
use super::tenants::TenantDraft;
use crate::addr::PortRange;
use crate::policy::CertificateRule;

const PLAIN_HTTP: u16 = 80;

/// Checks the rules of one tenant. Without `ports`, a rule is taken to be meant for TLS.
pub(super) fn check(tenant: &TenantDraft, steered: &[PortRange], out: &mut Diagnostics) {
    let has = |ports: &[PortRange]| ports.iter().any(|range| range.contains(PLAIN_HTTP));
    for (rule, at) in tenant.spec.rules.iter().zip(&tenant.rules_at) {
        if rule.certificate == CertificateRule::Require && has(&rule.ports) && has(steered) {
            out.warning(
                at.ports,
                "`ports`: plain HTTP, which goes to port 80, shows no certificate: it ends as `certificate_unavailable`",
                "take port 80 out, or let plain HTTP out by a rule without `certificate`",
            );
        }
    }
}
