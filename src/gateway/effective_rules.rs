//! One policy's rules for a client, with all that their checks of names need.

use crate::policy::TenantRules;
use crate::verify::{TenantLookups, Verifier};
use metrics::Counter;
use std::sync::Arc;

/// Rules for a client, with the handles for their checks.
#[derive(Clone, Copy)]
pub struct EffectiveRules<'a> {
    /// The rules.
    pub rules: &'a Arc<TenantRules>,
    /// Present if a rule has checks of names.
    pub verification: Option<&'a Arc<VerificationHandles>>,
}

/// Handles that a tenant's flows need for checks of names.
pub struct VerificationHandles {
    /// Looks up names and probes certificates.
    pub verifier: Arc<Verifier>,
    /// Tenant that lookups are made for.
    pub asker: TenantLookups,
    /// `egret_verify_total`, by `check as usize`; as long as [`AddressCheck::ALL`](crate::flow::AddressCheck::ALL).
    pub address_checks: Box<[Counter]>,
    /// `egret_certificate_checks_total`, likewise by [`CertificateCheck`](crate::flow::CertificateCheck).
    pub certificate_checks: Box<[Counter]>,
}
