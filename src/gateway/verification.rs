//! Address checks (is the address one of the name's?), and the dialling of addresses that Egret resolved itself.
//! docs/verify.md says what each result guarantees.

use super::address_mismatches::AddressMismatch;
use super::candidate::effective_decision::EffectiveDecision;
use super::candidate::{CandidateEvaluation, EffectiveRules};
use super::ending::EarlyEnd;
use super::flow::Flow;
use super::session;
use super::snapshot::{TenantRuntime, VerificationHandles};
use super::upstream::{self, UpstreamConnection};
use super::worker::{GatewayState, Worker};
use crate::addr::DialAddr;
use crate::clock;
use crate::egress::{DialError, race};
use crate::flow::AddressCheck;
use crate::hostname::{AskedName, Hostname};
use crate::outcome::Outcome;
use crate::policy::{self, CertificateRule, ClientInspection, Decision, Denial, DestinationRule, Permit};
use crate::sys::event_loop::{spawn, timeout};
use crate::sys::socket::Socket;
use crate::verify::{AddressMatch, LookupError, ResolveError};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// Most addresses of a name that are tried.
pub(super) const MOST_TRIED: usize = 8;
/// RFC 8305 §5: the recommended delay between attempts.
const STAGGER: Duration = Duration::from_millis(250);

/// Makes the checks that the rule requires, and dials.
pub(super) async fn dial<'w>(
    worker: &'w Worker,
    tenant: &Arc<TenantRuntime>,
    evaluation: Option<Box<CandidateEvaluation>>,
    client: &Socket,
    permit: Permit,
    seen: Option<ClientInspection>,
    flow: &mut Flow,
) -> Result<UpstreamConnection<'w>, EarlyEnd> {
    let EffectiveRules { rules, verification } =
        session::enforced_rules(tenant, evaluation.as_deref(), flow)?;
    // Rules with checks match by name, and their tenant always has a verification.
    let (Some(name), Some(verification)) = (flow.hostname(), verification) else {
        return Err(Outcome::ResolverUnavailable.into());
    };
    let asked = CheckedName { worker, tenant, rules, verification, name: &name };
    let observes = permit.certificate() == CertificateRule::Observe;
    let permits = match asked.route(client, permit, flow).await {
        Ok(permits) => Ok(permits),
        Err(ended) => deny(rules, flow, ended).map(|permit| vec![permit]),
    };
    if let Some(evaluation) = &evaluation {
        let denied = permits.as_ref().err().map(|ended| ended.outcome).filter(|outcome| outcome.is_denial());
        let word = EffectiveDecision { rule: flow.rule(), denied };
        evaluation.compare(Some(&tenant.policy), flow, seen.as_ref(), word);
    }
    let permits = permits?;
    let upstream = match <[Permit; 1]>::try_from(permits) {
        Ok([permit]) => upstream::dial(worker, tenant, permit, seen, flow)?,
        Err(permits) => dial_first(worker, tenant, client, permits, seen, flow).await?,
    };
    if observes {
        asked.observe_certificate(flow);
    }
    Ok(upstream)
}

/// Denies a flow that the rules had permitted and a check has not, unless monitor mode waives that.
fn deny(rules: &policy::TenantRules, flow: &mut Flow, ended: EarlyEnd) -> Result<Permit, EarlyEnd> {
    if !ended.outcome.is_denial() {
        return Err(ended);
    }
    flow.record().verdict = None;
    flow.record().detail = ended.detail;
    let denial = Denial { outcome: ended.outcome, rule: flow.rule() };
    match rules.apply_mode(denial, flow.destination(), flow.time()) {
        Decision::Permit(permit) => Ok(session::allow(flow, permit)),
        Decision::Denial(denial) => Err(session::deny(flow, denial)),
    }
}

/// A flow's name, with what its checks need.
pub(super) struct CheckedName<'a> {
    pub(super) worker: &'a Worker,
    pub(super) tenant: &'a Arc<TenantRuntime>,
    /// The rules that permitted the flow: the tenant's, or a candidate's.
    pub(super) rules: &'a policy::TenantRules,
    pub(super) verification: &'a Arc<VerificationHandles>,
    pub(super) name: &'a Hostname,
}

impl CheckedName<'_> {
    /// Makes the checks. Returns the permits to dial, in their order; at least one.
    async fn route(&self, client: &Socket, permit: Permit, flow: &mut Flow) -> Result<Vec<Permit>, EarlyEnd> {
        let required = permit.certificate() == CertificateRule::Require;
        let permits = match permit.destination() {
            DestinationRule::Original => vec![permit],
            DestinationRule::Observe => {
                self.observe(&permit, flow);
                vec![permit]
            }
            DestinationRule::Verify => {
                self.run_bounded(client, self.verify(&permit, flow)).await.flatten()?;
                vec![permit]
            }
            DestinationRule::Resolve => {
                self.run_bounded(client, self.resolve(&permit, flow)).await.flatten()?
            }
        };
        if required {
            return self.run_bounded(client, self.certified(permits, flow)).await.flatten();
        }
        Ok(permits)
    }

    /// Runs a check, which counts as one of the tenant's inspections, unless the client resets before.
    async fn run_bounded<T>(&self, client: &Socket, asking: impl Future<Output = T>) -> Result<T, EarlyEnd> {
        let _place = self.tenant.inspections.enter().ok_or(Outcome::InspectionBusy)?;
        upstream::unless_gone(client, pin!(asking)).await
    }

    /// Checks the address, within the time; never fails.
    async fn check(&self, to: DialAddr, time: Duration) -> AddressMatch {
        let VerificationHandles { verifier, asker, .. } = &**self.verification;
        let asking = verifier.names().check(self.name, to.ip(), asker);
        timeout(time, asking).await.unwrap_or(AddressMatch::Unknown(LookupError::Late))
    }

    async fn verify(&self, permit: &Permit, flow: &mut Flow) -> Result<(), EarlyEnd> {
        let found = self.check(permit.dial(), self.time_left(flow)).await;
        flow.record().address_check = Some(count(self.verification, found));
        let Some((outcome, detail)) = address_refusal(found) else { return Ok(()) };
        if outcome == Outcome::DestinationMismatch {
            note(&self.worker.gateway, self.tenant, permit.rule().cloned(), self.name, permit.dial());
        }
        Err(EarlyEnd { outcome, detail: Some(detail) })
    }

    /// Checks the address in the background; the flow does not wait for it.
    fn observe(&self, permit: &Permit, flow: &mut Flow) {
        let entry = Arc::clone(flow.entry());
        let Some(place) = self.tenant.inspections.enter() else {
            entry.note_address_check(count(self.verification, AddressMatch::Unknown(LookupError::Busy)));
            return;
        };
        let (gateway, tenant) = (Arc::clone(&self.worker.gateway), Arc::clone(self.tenant));
        let verification = Arc::clone(self.verification);
        let (name, to, rule) = (self.name.clone(), permit.dial(), permit.rule().cloned());
        let time = self.worker.settings.inspect_deadline;
        spawn(async move {
            let _place = place;
            let asking = verification.verifier.names().check(&name, to.ip(), &verification.asker);
            let found = timeout(time, asking).await.unwrap_or(AddressMatch::Unknown(LookupError::Late));
            entry.note_address_check(count(&verification, found));
            if let AddressMatch::No | AddressMatch::Absent = found {
                note(&gateway, &tenant, rule, &name, to);
            }
        });
    }

    /// Resolves the name. Returns permits for those of its addresses that policy allows; at least one.
    async fn resolve(&self, permit: &Permit, flow: &mut Flow) -> Result<Vec<Permit>, EarlyEnd> {
        let VerificationHandles { verifier, asker, .. } = &**self.verification;
        let families = self.tenant.pool.families();
        let asking = verifier.names().resolve(self.name, &families, asker);
        let late = Err(ResolveError::Unknown(LookupError::Late));
        let addresses = timeout(self.time_left(flow), asking).await.unwrap_or(late);
        let (found, addresses) = match addresses {
            Ok(addresses) => (AddressCheck::Resolved, Ok(addresses)),
            Err(ResolveError::Absent) => (AddressCheck::Absent, Err(Outcome::NameUnresolved.into())),
            Err(ResolveError::Unknown(trouble)) => {
                let detail = Some(trouble.as_str());
                (AddressCheck::Unknown, Err(EarlyEnd { outcome: Outcome::ResolverUnavailable, detail }))
            }
        };
        flow.record().address_check = Some(found);
        self.verification.address_checks[found as usize].increment(1);
        let asked = AskedName::Valid(self.name.clone());
        let snapshot = self.worker.gateway.snapshot.load();
        let leads_to = |ip: IpAddr| {
            // To the kernel an IPv4-mapped address is the IPv4 address.
            let ip = ip.to_canonical();
            if snapshot.own.contain(ip) {
                return Err(Outcome::DestinationLocal);
            }
            self.rules.redirect(permit, &asked, ip)
        };
        let (mut permits, mut refused) = (Vec::new(), Outcome::NameUnresolved);
        for ip in addresses?.into_iter().rev() {
            match leads_to(ip) {
                Ok(permit) => permits.push(permit),
                Err(why) => refused = why,
            }
        }
        if permits.is_empty() {
            let detail = Some("every address that the name was resolved to is refused");
            return Err(EarlyEnd { outcome: refused, detail });
        }
        permits.reverse();
        Ok(permits)
    }

    /// Time left until the inspection's deadline.
    pub(super) fn time_left(&self, flow: &Flow) -> Duration {
        self.worker.settings.inspect_deadline.saturating_sub(flow.age())
    }
}

impl From<AddressMatch> for AddressCheck {
    fn from(found: AddressMatch) -> Self {
        match found {
            AddressMatch::Yes => Self::Match,
            AddressMatch::No => Self::Mismatch,
            AddressMatch::Absent => Self::Absent,
            AddressMatch::Unknown(_) => Self::Unknown,
        }
    }
}

/// Counts the result, and returns it as the flow log has it.
fn count(verification: &VerificationHandles, found: AddressMatch) -> AddressCheck {
    let check = AddressCheck::from(found);
    verification.address_checks[check as usize].increment(1);
    check
}

/// Outcome and detail of a flow that may only go to an address of the name's; `None` if it is one.
pub fn address_refusal(found: AddressMatch) -> Option<(Outcome, &'static str)> {
    match found {
        AddressMatch::Yes => None,
        AddressMatch::No => Some((Outcome::DestinationMismatch, "the name has other addresses")),
        AddressMatch::Absent => {
            Some((Outcome::DestinationMismatch, "the name has no address of this family"))
        }
        AddressMatch::Unknown(trouble) => Some((Outcome::ResolverUnavailable, trouble.as_str())),
    }
}

fn note(
    gateway: &GatewayState,
    tenant: &TenantRuntime,
    rule: Option<Arc<str>>,
    name: &Hostname,
    address: DialAddr,
) {
    let tenant = Arc::clone(&tenant.policy.name);
    gateway.mismatches.note(AddressMismatch { tenant, rule, name: name.clone(), address }, clock::wall());
}

/// Happy Eyeballs (RFC 8305 §5): dials the addresses in their order, staggered, and takes the first that answers.
async fn dial_first<'w>(
    worker: &'w Worker,
    tenant: &TenantRuntime,
    client: &Socket,
    permits: Vec<Permit>,
    seen: Option<ClientInspection>,
    flow: &mut Flow,
) -> Result<UpstreamConnection<'w>, EarlyEnd> {
    let mut dials: Vec<_> = permits.into_iter().map(Permit::into_dial).collect();
    dials.truncate(MOST_TRIED);
    upstream::starts_dialling(tenant, dials.first().copied(), flow);
    let started = clock::now();
    let (from, class) = (flow.client(), flow.class);
    let attempts = dials.into_iter().map(|to| async move {
        let lease = tenant.pool.lease(from, to, &tenant.share, clock::now()).map_err(DialError::NoPort)?;
        let (socket, lease) = worker.settings.dialler.start(from, to, class, lease, &worker.event_loop)?;
        // Dropped before the lease: the port is free after the socket is.
        let leg = socket;
        worker.settings.dialler.answered(&leg).await?;
        Ok((to, leg, lease))
    });
    let race = pin!(timeout(worker.settings.dialler.connect_timeout, race(attempts, STAGGER)));
    match upstream::unless_gone(client, race).await? {
        Ok(Some(Ok((to, leg, lease)))) => {
            upstream::answered(worker, tenant, seen, (to, lease, leg), started, flow)
        }
        Ok(Some(Err(error))) => Err(upstream::not_dialled(worker, tenant, &error)),
        Ok(None) => Err(Outcome::NameUnresolved.into()),
        Err(_) => Err(Outcome::ConnectTimeout.into()),
    }
}
