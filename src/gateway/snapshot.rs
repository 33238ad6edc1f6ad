//! What the workers go by, swapped as a whole: tenants with all that their flows touch.

use super::admission::{Gate, OwnAddresses};
use super::candidate::Candidate;
use super::flow_table::LiveFlow;
use super::meters::TenantMeters;
use crate::addr::{ClientAddr, OriginalDestination};
use crate::count::Counter;
use crate::egress::{Pool, Share};
use crate::outcome::Outcome;
use crate::policy::{self, Decision, Policy, Seen};
use crate::verify::{Asker, Verifier};
use jiff::Timestamp;
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
    /// `[policy] on_reload`: whether live flows that it does not allow are reset when it comes into force.
    pub revokes: bool,
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

    /// Whether the tenant is as this snapshot has it, and not as one before.
    pub fn has(&self, tenant: &Tenant) -> bool {
        self.tenants.get(tenant.policy.index).is_some_and(|own| std::ptr::eq(&raw const **own, tenant))
    }

    /// Whether a flow that left under another policy may live on under this one: it would be the same tenant's, and would
    /// leave as well. One whose client nobody listened to, or understood, has no name, and needs a rule that asks for
    /// none.
    pub fn allows(&self, flow: &LiveFlow, now: Timestamp) -> bool {
        let dialled = || OriginalDestination::new(flow.destination.socket());
        let to = flow.asked.as_deref().copied().unwrap_or_else(dialled);
        let unknown = Seen::Unclear(Outcome::NoHostname);
        let seen = flow.seen.as_ref().unwrap_or(&unknown);
        let allowed = self.ask(flow.client, &flow.tenant, |rules| {
            rules.decide_unseen(to).is_some() || matches!(rules.judge(seen, to, now), Decision::Permit(_))
        });
        allowed == Some(true)
    }

    /// Asks the rules that hold for a tenant's client: the tenant's, or the candidate's. `None` if there are none, or it is
    /// another tenant's now.
    pub(super) fn ask<A>(
        &self,
        client: ClientAddr,
        tenant: &str,
        ask: impl FnOnce(&policy::Tenant) -> A,
    ) -> Option<A> {
        let tenant = self.policy.tenant_of(client).filter(|now| *now.name == *tenant)?;
        let trial = self.candidate.as_ref().map(|candidate| candidate.trial(client));
        trial.as_ref().map_or(Some(tenant), |trial| trial.lead(tenant)).map(|rules| ask(rules))
    }
}
