//! One flow's life, top to bottom.
//!
//! Each step consumes the result of the one before it, and none calls back. A step that ends the flow returns the
//! outcome as its error; [`super::ending::end_early`] then answers the client.

use super::candidate::effective_decision::EffectiveDecision;
use super::candidate::{CandidateEvaluation, EffectiveRules};
use super::ending::{EarlyEnd, finish, stop};
use super::flow::Flow;
use super::guard::{PolicyGuard, outcome_of};
use super::meters::{FlowCounter, FlowDuration};
use super::snapshot::TenantRuntime;
use super::upstream::{UpstreamConnection, connect, dial};
use super::verification;
use super::worker::Worker;
use crate::flow::{NameSource, PolicyVerdict, RevocationReason};
use crate::hostname::AskedName;
use crate::inspect::{Inspected, Protocol, Unclear};
use crate::outcome::Outcome;
use crate::policy::{ClientInspection, Decision, Denial, Permit};
use crate::relay::{self, Guarded};
use crate::sys::socket::Socket;
use std::pin::pin;
use std::sync::Arc;

/// Runs one flow to completion, and returns its outcome. `Err`: it ended before it was relayed, and the caller still
/// has to answer the client.
#[expect(clippy::manual_async_fn, reason = "an `async fn` holds each argument twice")]
pub(super) fn run_session<'a>(
    worker: &'a Worker,
    client: &'a Socket,
    flow: &'a mut Flow,
) -> impl Future<Output = Result<Outcome, EarlyEnd>> + 'a {
    async move {
        // Boxed, and freed before the flow is relayed: that is most of its life.
        let ConnectedFlow { mut upstream, mut guard } = Box::pin(open(worker, client, flow)).await?;
        let end = {
            let (scratch, silence) = (&worker.scratch, &worker.settings.silence);
            let relayed = pin!(relay::relay(client, &upstream.leg, scratch, silence, &mut *flow, &mut guard));
            upstream.listed.unless_revoked(relayed).await
        };
        if let Some(refused) = flow.outcome() {
            // Boxed, to keep flows small: few end so.
            return Ok(Box::pin(stop(worker, client, refused, end?, flow)).await);
        }
        let answered = guard.and_then(|guarded| guarded.is_answered());
        Ok(finish(worker, client, &mut upstream, end?, answered, flow).await)
    }
}

/// A flow that is connected to its server.
struct ConnectedFlow<'w> {
    upstream: UpstreamConnection<'w>,
    guard: MaybeGuarded<'w>,
}

/// Runs a flow from accept to the server's answer. Then lets go of the tenant, which keeps its configuration alive.
async fn open<'w>(
    worker: &'w Worker,
    client: &Socket,
    flow: &mut Flow,
) -> Result<ConnectedFlow<'w>, EarlyEnd> {
    let AdmittedFlow { mut tenant, evaluation } = admit(worker, flow)?;
    let PermittedFlow { permit, seen, evaluation, guard } =
        decide(worker, &mut tenant, evaluation, client, flow).await?;
    let mut upstream = if permit.needs_checks() {
        // Boxed: flows that are not verified do not carry the room for it.
        Box::pin(verification::dial(worker, &tenant, evaluation, client, permit, seen, flow)).await?
    } else {
        drop(evaluation);
        dial(worker, &tenant, permit, seen, flow)?
    };
    if !upstream.lease.is_connected() {
        connect(worker, &tenant, client, &mut upstream, flow).await?;
    }
    Ok(ConnectedFlow { upstream, guard })
}

/// An admitted flow's tenant and candidate.
struct AdmittedFlow {
    tenant: Arc<TenantRuntime>,
    /// `None` if no candidate is loaded.
    evaluation: Option<Box<CandidateEvaluation>>,
}

/// Finds the tenant, and takes a slot for the flow.
fn admit(worker: &Worker, flow: &mut Flow) -> Result<AdmittedFlow, EarlyEnd> {
    let snapshot = worker.gateway.snapshot.load();
    let evaluation =
        snapshot.candidate.as_ref().map(|candidate| Box::new(candidate.evaluation(flow.client())));
    let Some(tenant) = snapshot.tenant_of(flow.client()) else {
        let denial = Denial { outcome: Outcome::UnknownTenant, rule: None };
        return Err(deny_uninspected(None, evaluation.as_deref(), flow, denial));
    };
    let tenant = Arc::clone(tenant);
    flow.assign_tenant(Arc::clone(&tenant.policy.name), tenant.meters.of(&worker.seat));
    // A client with an address of the gateway's own is a loop, or forged.
    if snapshot.own.contain(flow.destination().ip()) || snapshot.own.contain(flow.client().ip()) {
        return Err(Outcome::DestinationLocal.into());
    }
    flow.place = Some(tenant.flows.enter().ok_or(Outcome::TenantFlowLimit)?);
    if worker.gateway.flows.is_beyond_share(&tenant.flows, snapshot.tenants.len()) {
        let detail = Some("the gateway is nearly full, and the tenant has its share of it");
        return Err(EarlyEnd { outcome: Outcome::TenantFlowLimit, detail });
    }
    Ok(AdmittedFlow { tenant, evaluation })
}

/// Guard of a flow while it is relayed; `None` if it needs none.
type MaybeGuarded<'w> = Option<Box<Guarded<PolicyGuard<'w>>>>;

/// A permitted flow, and what it was decided by.
struct PermittedFlow<'w> {
    permit: Permit,
    /// `None` if it was not inspected.
    seen: Option<ClientInspection>,
    evaluation: Option<Box<CandidateEvaluation>>,
    guard: MaybeGuarded<'w>,
}

/// Inspects the client's first bytes where rules need them, and decides.
async fn decide<'w>(
    worker: &'w Worker,
    tenant: &mut Arc<TenantRuntime>,
    mut evaluation: Option<Box<CandidateEvaluation>>,
    client: &Socket,
    flow: &mut Flow,
) -> Result<PermittedFlow<'w>, EarlyEnd> {
    let (to, time) = (flow.destination(), flow.time());
    let unseen = enforced_rules(tenant, evaluation.as_deref(), flow)?.rules.decide_unseen(to);
    let (seen, inspected, decision) = if let Some(permit) = unseen {
        (None, None, Decision::Permit(permit))
    } else {
        let (seen, inspected) = inspect(worker, tenant, client, flow).await?;
        refresh_after_reload(worker, tenant, &mut evaluation, flow)?;
        let decision = enforced_rules(tenant, evaluation.as_deref(), flow)?.rules.judge(&seen, to, time);
        (Some(seen), inspected, decision)
    };
    // Checks of names count in the comparison, and are made later.
    let asks = matches!(&decision, Decision::Permit(permit) if permit.needs_checks());
    if let Some(evaluation) = evaluation.as_ref().filter(|_| !asks) {
        evaluation.compare(Some(&tenant.policy), flow, seen.as_ref(), EffectiveDecision::from(&decision));
    }
    if decision.deny_reason() == Some(Outcome::MalformedHttp)
        && let Some(Inspected { unframed, .. }) = inspected
    {
        flow.record().detail = unframed;
    }
    let permit = match decision {
        Decision::Permit(permit) => permit,
        Decision::Denial(denial) => return Err(deny(flow, denial)),
    };
    let monitors = enforced_rules(tenant, evaluation.as_deref(), flow)?.rules.mode.monitors(time);
    let guard = inspected.and_then(|inspected| PolicyGuard::of(&inspected, &permit, worker, flow, monitors));
    flow.set_unfollowed(guard.is_none() && flow.protocol() == Some(Protocol::Http));
    Ok(PermittedFlow { permit: allow(flow, permit), seen, evaluation, guard })
}

/// Rules enforced for the flow: the tenant's, or the candidate's.
pub(super) fn enforced_rules<'a>(
    tenant: &'a TenantRuntime,
    evaluation: Option<&'a CandidateEvaluation>,
    flow: &mut Flow,
) -> Result<EffectiveRules<'a>, EarlyEnd> {
    let own = tenant.own_rules();
    evaluation.map_or(Some(own), |evaluation| evaluation.enforced_rules(own)).ok_or_else(|| {
        let denial = Denial { outcome: Outcome::UnknownTenant, rule: None };
        deny_uninspected(Some(tenant), evaluation, flow, denial)
    })
}

/// Switches to the current configuration, which may have been replaced during the inspection.
fn refresh_after_reload(
    worker: &Worker,
    tenant: &mut Arc<TenantRuntime>,
    evaluation: &mut Option<Box<CandidateEvaluation>>,
    flow: &Flow,
) -> Result<(), EarlyEnd> {
    let snapshot = worker.gateway.snapshot.load();
    if snapshot.has(tenant) && evaluation.is_none() && snapshot.candidate.is_none() {
        return Ok(());
    }
    let client = flow.client();
    let now = snapshot.tenant_if_unchanged(client, &tenant.policy.name);
    *tenant = Arc::clone(now.ok_or(RevocationReason::OF_ANOTHER_TENANT)?);
    *evaluation = snapshot.candidate.as_ref().map(|candidate| Box::new(candidate.evaluation(client)));
    Ok(())
}

/// Denies a flow that needs no inspection.
fn deny_uninspected(
    tenant: Option<&TenantRuntime>,
    evaluation: Option<&CandidateEvaluation>,
    flow: &mut Flow,
    denial: Denial,
) -> EarlyEnd {
    let decision = Decision::Denial(denial.clone());
    if let Some(evaluation) = evaluation {
        evaluation.compare(
            tenant.map(|tenant| &*tenant.policy),
            flow,
            None,
            EffectiveDecision::from(&decision),
        );
    }
    deny(flow, denial)
}

pub(super) fn deny(flow: &mut Flow, denial: Denial) -> EarlyEnd {
    flow.record().rule = denial.rule;
    denial.outcome.into()
}

pub(super) fn allow(flow: &mut Flow, permit: Permit) -> Permit {
    flow.record().verdict = Some(PolicyVerdict::Allow);
    flow.record().would_deny = permit.would_deny();
    flow.record().rule = permit.rule().cloned();
    permit
}

/// Inspects the client's first bytes. Returns the result for policy, and its details if they are clear.
async fn inspect(
    worker: &Worker,
    tenant: &TenantRuntime,
    client: &Socket,
    flow: &mut Flow,
) -> Result<(ClientInspection, Option<Inspected>), EarlyEnd> {
    let Some(_place) = tenant.inspections.enter() else {
        return Ok((ClientInspection::Unclear(Outcome::InspectionBusy), None));
    };
    let inspected = worker.peeker.peek(client).await;
    let took = flow.age();
    flow.record().inspect = Some(took.into());
    flow.meters().record(FlowDuration::Inspect, took);
    match inspected {
        Ok(mut inspected) => {
            note_inspection(flow, &mut inspected);
            let (name, ech, unframed) = (inspected.name.clone(), inspected.ech, inspected.unframed.is_some());
            Ok((ClientInspection::Asked { name, ech, unframed }, Some(inspected)))
        }
        Err(Unclear::ClientLeft) => Err(Outcome::ClientLeft.into()),
        Err(unclear) => {
            let (outcome, detail) = outcome_of(unclear);
            flow.record().detail = detail;
            flow.record().protocol = unclear.protocol();
            Ok((ClientInspection::Unclear(outcome), None))
        }
    }
}

/// Notes the result of the inspection in the record.
fn note_inspection(flow: &mut Flow, inspected: &mut Inspected) {
    if inspected.ech {
        flow.meters().count(FlowCounter::Ech);
    }
    let mut record = flow.record();
    record.protocol = Some(inspected.protocol);
    let alpn = std::mem::take(&mut inspected.alpn);
    record.alpn = (!alpn.is_empty()).then_some(alpn);
    record.ech = inspected.ech;
    match &inspected.name {
        AskedName::Valid(name) => {
            record.hostname = Some(name.clone());
            record.hostname_from = match inspected.protocol {
                Protocol::Tls => Some(NameSource::Sni),
                Protocol::Http => Some(NameSource::HttpHost),
                Protocol::Other => None,
            };
        }
        AskedName::Invalid(why) => record.detail = Some(why.as_str()),
        AskedName::Absent | AskedName::Unread => {}
    }
}
