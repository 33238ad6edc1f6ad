//! Immutable configuration snapshot read by workers, replaced as a whole: tenants with all that their flows use.

use super::admission::Limit;
use super::candidate::Candidate;
use super::effective_rules::{EffectiveRules, VerificationHandles};
use super::meters::TenantMeters;
use super::unsteered_addresses::UnsteeredAddresses;
use crate::addr::ClientAddr;
use crate::egress::{Pool, Share};
use crate::policy::{self, ConnectedNetworks, Policy};
use crate::verify::Verifier;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// The running configuration, as far as flows see it.
#[derive(Clone)]
pub struct Snapshot {
    /// Tenants by client address, and their rules.
    pub policy: Arc<Policy>,
    /// By [`policy::TenantRules::index`].
    pub tenants: Vec<Arc<TenantRuntime>>,
    /// Addresses that no flow may dial or come from.
    pub unsteered: Arc<UnsteeredAddresses>,
    /// Networks of the machine's own links, for the policies of this snapshot and of those after it.
    pub connected: Arc<ConnectedNetworks>,
    /// Evaluated beside the policy, if one is loaded.
    pub candidate: Option<Arc<Candidate>>,
    /// Present if any tenant has a rule with checks of names.
    pub verifier: Option<Arc<Verifier>>,
    /// `[policy] on_reload`: true if live flows that it does not allow are reset when it comes into force.
    pub revokes: bool,
    /// `[policy] help`: where people who are denied find help.
    pub help: Option<Arc<str>>,
}

/// Resolves one tenant's meters.
pub type ResolveMeters = Box<dyn FnOnce() -> TenantMeters + Send>;

/// One tenant, with handles to all that its flows use.
pub struct TenantRuntime {
    /// Its rules.
    pub policy: Arc<policy::TenantRules>,
    /// Pool that its flows leave from.
    pub pool: Arc<Pool>,
    /// Its share of the ports.
    pub share: Share,
    /// Its metrics, resolved with its first flow: a tenant without flows has no series.
    pub meters: LazyLock<TenantMeters, ResolveMeters>,
    /// `limits.flows`; `None`: no limit.
    pub most_flows: Option<u32>,
    /// Its flows, bounded by that once the snapshot is in force.
    pub flows: Arc<Limit>,
    /// Its attempts to dial beyond each flow's first.
    pub attempts: Arc<Limit>,
    /// `[inspect] max_pending`
    pub inspections: Arc<Limit>,
    /// Present if the tenant has a rule with checks of names.
    pub verification: Option<Arc<VerificationHandles>>,
}

impl Snapshot {
    /// Returns the tenant by the longest matching prefix of the client's address.
    pub fn tenant_of(&self, client: ClientAddr) -> Option<&Arc<TenantRuntime>> {
        self.policy.tenant_of(client).map(|tenant| &self.tenants[tenant.index])
    }

    /// The tenants by name.
    pub fn tenants_by_name(&self) -> HashMap<&str, &TenantRuntime> {
        self.tenants.iter().map(|tenant| (&*tenant.policy.name, &**tenant)).collect()
    }

    /// True if the tenant is the one of this snapshot, not of an earlier one.
    pub fn has(&self, tenant: &TenantRuntime) -> bool {
        self.tenants.get(tenant.policy.index).is_some_and(|own| std::ptr::eq(&raw const **own, tenant))
    }

    /// Verifiers of the policy in force, and of the candidate if it has one of its own.
    pub fn verifiers(&self) -> impl Iterator<Item = &Arc<Verifier>> {
        let own = self.verifier.as_ref();
        let candidates = self.candidate.as_ref().and_then(|candidate| candidate.verifier());
        let other = candidates.filter(|other| own.is_none_or(|own| !Arc::ptr_eq(own, other)));
        own.into_iter().chain(other)
    }

    /// Returns the tenant of this name, if the client still belongs to it.
    pub(super) fn tenant_if_unchanged(
        &self,
        client: ClientAddr,
        tenant: &str,
    ) -> Option<&Arc<TenantRuntime>> {
        self.tenant_of(client).filter(|now| *now.policy.name == *tenant)
    }
}

impl TenantRuntime {
    /// The tenant's own rules.
    pub fn own_rules(&self) -> EffectiveRules<'_> {
        EffectiveRules { rules: &self.policy, verification: self.verification.as_ref() }
    }
}
