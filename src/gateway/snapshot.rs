//! What the workers go by, swapped as a whole: tenants with all that their flows touch.

use super::admission::{Gate, OwnAddresses};
use super::candidate::Candidate;
use super::meters::TenantMeters;
use crate::addr::ClientAddr;
use crate::count::Counter;
use crate::egress::{Pool, Share};
use crate::policy::{self, Policy};
use crate::verify::{Asker, Verifier};
use std::sync::{Arc, LazyLock};

/// The running configuration, as far as flows see it.
#[derive(Clone)]
pub struct Snapshot {
    /// Whose a flow is.
    pub policy: Arc<Policy>,
    /// By [`policy::Tenant::index`].
    pub tenants: Vec<Arc<Tenant>>,
    /// Addresses that nobody may dial.
    pub own: Arc<OwnAddresses>,
    /// Judged beside the policy, if one is loaded.
    pub candidate: Option<Arc<Candidate>>,
    /// There if a rule of any tenant asks whether addresses are those of names.
    pub verifier: Option<Arc<Verifier>>,
}

/// Resolves one tenant's meters.
pub type ResolveMeters = Box<dyn FnOnce() -> TenantMeters + Send>;

/// One tenant, with handles to everything that its flows touch.
pub struct Tenant {
    /// Its rules.
    pub policy: Arc<policy::Tenant>,
    /// Where its flows leave from.
    pub pool: Arc<Pool>,
    /// In whose name they lease their ports.
    pub share: Share,
    /// Its metrics, resolved with its first flow: a tenant without flows has no series.
    pub meters: LazyLock<TenantMeters, ResolveMeters>,
    /// `limits.flows`
    pub flows: Arc<Gate>,
    /// `[inspect] max_pending`
    pub inspections: Arc<Gate>,
    /// There if a rule of the tenant asks whether addresses are those of names.
    pub verification: Option<Verification>,
}

/// What a tenant's flows need to find out whether addresses are those of names.
pub struct Verification {
    /// Knows the names.
    pub verifier: Arc<Verifier>,
    /// In whose name they are looked up.
    pub asker: Asker,
    /// `egret_verify_total`, by `check as usize`; as long as [`AddressCheck::ALL`](super::AddressCheck::ALL).
    pub address_checks: Box<[Counter]>,
    /// `egret_certificate_checks_total`, likewise by [`CertificateCheck`](super::CertificateCheck).
    pub certificate_checks: Box<[Counter]>,
}

impl Snapshot {
    /// By the longest prefix of the client's address.
    pub fn tenant_of(&self, client: ClientAddr) -> Option<&Arc<Tenant>> {
        self.policy.tenant_of(client).map(|tenant| &self.tenants[tenant.index])
    }
}
