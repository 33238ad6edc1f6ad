//! Address checks (is the address one of the name's?), and the dialling of addresses that Egret resolved itself.
//! docs/verify.md says what each result guarantees.

use super::address_mismatches::AddressMismatch;
use super::effective_rules::{EffectiveRules, VerificationHandles};
use super::flow::Flow;
use super::flow_end::FlowEnd;
use super::judged_flow;
use super::policy_views::FlowViews;
use super::snapshot::TenantRuntime;
use super::upstream::{self, UpstreamConnection};
use super::worker::{GatewayState, Worker};
use crate::addr::DialAddr;
use crate::clock;
use crate::egress::{DialError, race};
use crate::flow::AddressCheck;
use crate::hostname::Hostname;
use crate::outcome::Outcome;
use crate::policy::{
    self, CertificateRule, CheckResults, CheckSet, ClientInspection, DestinationRule, FlowFacts, Judgement,
    Permit,
};
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

/// Makes the checks that the permit needs, judges the flow by their results, and dials.
pub(super) async fn dial<'w>(
    worker: &'w Worker,
    views: &FlowViews,
    client: &Socket,
    (permit, needs): (Permit, CheckSet),
    seen: Option<ClientInspection>,
    flow: &mut Flow,
) -> Result<UpstreamConnection<'w>, FlowEnd> {
    let effective = views.get().enforced();
    // Rules with checks match by name, and their tenant always has a verification.
    let (Some(name), Some(EffectiveRules { rules, verification: Some(verification) })) =
        (flow.hostname(), effective)
    else {
        return Err(Outcome::ResolverUnavailable.into());
    };
    let asked = CheckedName { worker, tenant: &views.tenant, rules, verification, name: &name };
    let observes = permit.certificate() == CertificateRule::Observe;
    let mut facts = judged_flow::facts(flow, seen.as_ref());
    let routed = asked.route(client, (permit, needs), &facts, flow).await;
    facts.checks = match &routed {
        Ok(_) => CheckResults { passed: needs, failed: None },
        Err(ended) if ended.outcome.is_denial() => CheckResults::failed(ended.outcome),
        Err(_) => CheckResults::default(),
    };
    let judgement = views.get().judge(&facts);
    judged_flow::compare(views.get(), &facts, &judgement, flow);
    let permits = match routed {
        Ok(permits) => permits,
        Err(ended) if facts.checks.failed.is_none() => return Err(ended),
        Err(ended) => {
            flow.record().detail = ended.detail;
            match judgement {
                Judgement::Permit { permit, .. } => {
                    judged_flow::allow(flow, &permit);
                    vec![permit]
                }
                Judgement::Deny(denial) => return Err(judged_flow::deny(flow, denial)),
                Judgement::NeedsInspection => return Err(ended),
            }
        }
    };
    let upstream = match <[Permit; 1]>::try_from(permits) {
        Ok([permit]) => upstream::dial(worker, &views.tenant, permit, seen, flow)?,
        Err(permits) => {
            let prober = needs.certificate.then(|| asked.prober(flow));
            let proves = async |to| match &prober {
                Some(prober) => prober.proves(to).await,
                None => true,
            };
            dial_first(worker, &views.tenant, client, permits, &proves, seen, flow).await?
        }
    };
    if observes {
        asked.observe_certificate(flow);
    }
    Ok(upstream)
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
    async fn route(
        &self,
        client: &Socket,
        (permit, needs): (Permit, CheckSet),
        facts: &FlowFacts<'_>,
        flow: &mut Flow,
    ) -> Result<Vec<Permit>, FlowEnd> {
        let permits = match permit.destination() {
            DestinationRule::Original => vec![permit],
            DestinationRule::Observe => {
                self.observe(&permit, flow);
                vec![permit]
            }
            DestinationRule::Verify => {
                self.run_bounded(client, self.verify(&permit, flow)).await??;
                vec![permit]
            }
            DestinationRule::Resolve => {
                self.run_bounded(client, self.resolve(&permit, facts, flow)).await??
            }
        };
        if needs.certificate {
            return self.run_bounded(client, self.certified(permits, flow)).await?;
        }
        Ok(permits)
    }

    /// Runs a check, which counts as one of the tenant's inspections, unless the client resets before.
    async fn run_bounded<T>(&self, client: &Socket, asking: impl Future<Output = T>) -> Result<T, FlowEnd> {
        let _place = self.tenant.inspections.enter().ok_or(Outcome::InspectionBusy)?;
        upstream::unless_gone(client, pin!(asking)).await
    }

    async fn verify(&self, permit: &Permit, flow: &mut Flow) -> Result<(), FlowEnd> {
        let found = check_address(self.verification, self.name, permit.dial(), self.time_left(flow)).await;
        flow.record().address_check = Some(count(self.verification, found));
        let Some((outcome, detail)) = address_refusal(found) else { return Ok(()) };
        if outcome == Outcome::DestinationMismatch {
            note(&self.worker.gateway, self.tenant, permit.rule().cloned(), self.name, permit.dial());
        }
        Err(FlowEnd { outcome, detail: Some(detail) })
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
            let found = check_address(&verification, &name, to, time).await;
            entry.note_address_check(count(&verification, found));
            if let AddressMatch::No | AddressMatch::Absent = found {
                note(&gateway, &tenant, rule, &name, to);
            }
        });
    }

    /// Resolves the name. Returns permits for those of its addresses that policy allows; at least one.
    async fn resolve(
        &self,
        permit: &Permit,
        facts: &FlowFacts<'_>,
        flow: &mut Flow,
    ) -> Result<Vec<Permit>, FlowEnd> {
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
                (AddressCheck::Unknown, Err(FlowEnd { outcome: Outcome::ResolverUnavailable, detail }))
            }
        };
        tracing::debug!(
            found = found.as_str(),
            addresses = addresses.iter().flatten().map(IpAddr::to_string).collect::<Vec<_>>().join(", "),
            "resolved the name"
        );
        flow.record().address_check = Some(found);
        self.verification.address_checks[found as usize].increment(1);
        let snapshot = self.worker.gateway.snapshot.load();
        let leads_to = |ip: IpAddr| {
            // To the kernel an IPv4-mapped address is the IPv4 address.
            let ip = ip.to_canonical();
            if snapshot.unsteered.refuses(ip) {
                return Err(Outcome::DestinationLocal);
            }
            let reached = Some(permit.dial().at(ip));
            self.rules.judge(&FlowFacts { reached, ..*facts }).allowed()
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
            return Err(FlowEnd { outcome: refused, detail });
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

/// Compares an address with a name, within the time; never fails.
async fn check_address(
    verification: &VerificationHandles,
    name: &Hostname,
    to: DialAddr,
    time: Duration,
) -> AddressMatch {
    let asking = verification.verifier.names().check(name, to.ip(), &verification.asker);
    timeout(time, asking).await.unwrap_or(AddressMatch::Unknown(LookupError::Late))
}

/// Counts the result, and returns it as the flow log has it.
fn count(verification: &VerificationHandles, found: AddressMatch) -> AddressCheck {
    let check = AddressCheck::from(found);
    verification.address_checks[check as usize].increment(1);
    tracing::debug!(found = check.as_str(), "compared the address with those of the name");
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

/// Happy Eyeballs (RFC 8305 §5): dials the addresses in their order, staggered, and takes the first that answers. Where the
/// server has to prove the name, the first has done so; the others do before they are dialled.
async fn dial_first<'w>(
    worker: &'w Worker,
    tenant: &TenantRuntime,
    client: &Socket,
    permits: Vec<Permit>,
    proves: &impl AsyncFn(DialAddr) -> bool,
    seen: Option<ClientInspection>,
    flow: &mut Flow,
) -> Result<UpstreamConnection<'w>, FlowEnd> {
    let mut dials: Vec<_> = permits.into_iter().map(Permit::into_dial).collect();
    dials.truncate(MOST_TRIED);
    upstream::starts_dialling(tenant, dials.first().copied(), flow);
    let started = clock::now();
    let (from, class) = (flow.client(), flow.class);
    let attempts = dials.into_iter().enumerate().map(|(at, to)| async move {
        if at > 0 && !proves(to).await {
            return Err(None);
        }
        let lease = tenant.pool.lease(from, to, &tenant.share, clock::now()).map_err(DialError::NoPort)?;
        let (socket, lease) = worker.settings.dialler.start(from, to, class, lease, &worker.event_loop)?;
        tracing::debug!(source = %lease.source(), %to, "dialling");
        // Dropped before the lease: the port is free after the socket is.
        let leg = socket;
        worker.settings.dialler.answered(&leg, &lease).await?;
        Ok((to, leg, lease))
    });
    let gateway = &worker.gateway;
    let tenants = gateway.snapshot.load().tenants.len();
    let place = || gateway.attempts.enter_with(&tenant.attempts, tenants);
    let race = pin!(timeout(worker.settings.dialler.connect_timeout, race(attempts, place, STAGGER)));
    match upstream::unless_gone(client, race).await? {
        Ok(Some(Ok((to, leg, lease)))) => {
            upstream::answered(worker, tenant, seen, (to, lease, leg), started, flow)
        }
        Ok(Some(Err(Some(error)))) => Err(upstream::not_dialled(worker, tenant, &error)),
        Ok(Some(Err(None))) => Err(Outcome::CertificateUnavailable.into()),
        Ok(None) => Err(Outcome::NameUnresolved.into()),
        Err(_) => Err(Outcome::ConnectTimeout.into()),
    }
}
