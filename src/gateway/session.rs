//! One flow's life, top to bottom.
//!
//! Each step consumes the result of the one before it, and none calls back. A step that ends the flow returns the
//! outcome as its error; [`super::ending::end_early`] then answers the client.

use super::ending::{finish, stop};
use super::flow::{Flow, describe};
use super::flow_end::FlowEnd;
use super::guard::{PolicyGuard, outcome_of};
use super::judged_flow;
use super::meters::{FlowCounter, FlowDuration};
use super::policy_views::FlowViews;
use super::snapshot::TenantRuntime;
use super::upstream::{UpstreamConnection, connect, dial};
use super::verification;
use super::worker::Worker;
use crate::flow::{NameSource, RevocationReason};
use crate::hostname::AskedName;
use crate::inspect::{Inspected, Protocol, Unclear};
use crate::outcome::Outcome;
use crate::policy::{CheckSet, ClientInspection, Denial, Inspection, Judgement, Permit};
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
) -> impl Future<Output = Result<Outcome, FlowEnd>> + 'a {
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
) -> Result<ConnectedFlow<'w>, FlowEnd> {
    let mut views = admit(worker, flow)?;
    let PermittedFlow { permit, needs, seen, guard } = decide(worker, &mut views, client, flow).await?;
    let (tenant, mut upstream) = if permit.needs_checks() {
        // Boxed: flows that are not verified do not carry the room for it.
        let verified = verification::dial(worker, &views, client, (permit, needs), seen, flow);
        let upstream = Box::pin(verified).await?;
        (views.tenant, upstream)
    } else {
        let tenant = views.tenant;
        let upstream = dial(worker, &tenant, permit, seen, flow)?;
        (tenant, upstream)
    };
    if !upstream.lease.is_connected() {
        connect(worker, &tenant, client, &mut upstream, flow).await?;
    }
    Ok(ConnectedFlow { upstream, guard })
}

/// Finds the tenant, and takes a slot for the flow.
fn admit(worker: &Worker, flow: &mut Flow) -> Result<FlowViews, FlowEnd> {
    let snapshot = worker.gateway.snapshot.load();
    let client = flow.client();
    let Some(tenant) = snapshot.tenant_of(client) else {
        tracing::debug!("the client belongs to no tenant");
        let denial = Denial { outcome: Outcome::UnknownTenant, rule: None };
        let facts = judged_flow::facts(flow, None);
        judged_flow::compare(snapshot.views(client), &facts, &Judgement::Deny(denial.clone()), flow);
        return Err(judged_flow::deny(flow, denial));
    };
    let views = FlowViews::hold(&snapshot, tenant, client);
    flow.assign_tenant(Arc::clone(&tenant.policy.name), tenant.meters.of(&worker.writer));
    // A client with an address of the gateway's own is a loop, or forged.
    let unsteered = &snapshot.unsteered;
    if unsteered.refuses(flow.destination().ip()) || unsteered.never_from(client.ip()).is_some() {
        return Err(Outcome::DestinationLocal.into());
    }
    flow.slot = Some(tenant.flows.enter().ok_or(Outcome::TenantFlowLimit)?);
    if worker.gateway.flows.is_beyond_share(&tenant.flows, snapshot.tenants.len()) {
        let detail = Some("the gateway is nearly full, and the tenant has its share of it");
        return Err(FlowEnd { outcome: Outcome::TenantFlowLimit, detail });
    }
    Ok(views)
}

/// Guard of a flow while it is relayed; `None` if it needs none.
type MaybeGuarded<'w> = Option<Box<Guarded<PolicyGuard<'w>>>>;

/// A permitted flow.
struct PermittedFlow<'w> {
    permit: Permit,
    /// Checks that it needs before it is dialled.
    needs: CheckSet,
    /// `None` if it was not inspected.
    seen: Option<ClientInspection>,
    guard: MaybeGuarded<'w>,
}

/// Judges the flow, and inspects the client's first bytes where rules need them.
async fn decide<'w>(
    worker: &'w Worker,
    views: &mut FlowViews,
    client: &Socket,
    flow: &mut Flow,
) -> Result<PermittedFlow<'w>, FlowEnd> {
    let (mut seen, mut inspected) = (None, None);
    let mut facts = judged_flow::facts(flow, None);
    let mut judgement = views.get().judge(&facts);
    if matches!(judgement, Judgement::NeedsInspection) {
        tracing::debug!("policy asks for the client's first bytes");
        let (found, details) = inspect(worker, &views.tenant, client, flow).await?;
        refresh_after_reload(worker, views, flow)?;
        inspected = details;
        facts.inspection = Inspection::First(seen.insert(found));
        judgement = views.get().judge(&facts);
    }
    // Checks of names count in the comparison, and are made later.
    if !judgement.needs_checks() {
        judged_flow::compare(views.get(), &facts, &judgement, flow);
    }
    if judgement.deny_reason() == Some(Outcome::MalformedHttp)
        && let Some(Inspected { unframed, .. }) = inspected
    {
        flow.record().detail = unframed;
    }
    let (permit, needs) = match judgement {
        Judgement::Permit { permit, needs } => (permit, needs),
        Judgement::Deny(denial) => return Err(judged_flow::deny(flow, denial)),
        Judgement::NeedsInspection => return Err(Outcome::NoHostname.into()), // it was inspected
    };
    let monitors = views.get().enforced().is_some_and(|own| own.rules.mode.monitors(facts.now));
    let guard = inspected.and_then(|inspected| {
        PolicyGuard::of(&inspected, &permit, worker, flow, monitors, &views.tenant.inspections)
    });
    if guard.is_none() && flow.protocol() == Some(Protocol::Http) {
        flow.entry().unfollow();
    }
    judged_flow::allow(flow, &permit);
    Ok(PermittedFlow { permit, needs, seen, guard })
}

/// Switches to the current configuration, which may have been replaced during the inspection.
fn refresh_after_reload(worker: &Worker, views: &mut FlowViews, flow: &Flow) -> Result<(), FlowEnd> {
    let snapshot = worker.gateway.snapshot.load();
    if views.are_current(&snapshot) {
        return Ok(());
    }
    let client = flow.client();
    let now = snapshot.tenant_if_unchanged(client, &views.tenant.policy.name);
    *views = FlowViews::hold(&snapshot, now.ok_or(RevocationReason::OF_ANOTHER_TENANT)?, client);
    Ok(())
}

/// Inspects the client's first bytes. Returns the result for policy, and its details if they are clear.
async fn inspect(
    worker: &Worker,
    tenant: &TenantRuntime,
    client: &Socket,
    flow: &mut Flow,
) -> Result<(ClientInspection, Option<Inspected>), FlowEnd> {
    let Some(_slot) = tenant.inspections.enter() else {
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
            tracing::debug!(%outcome, detail, "inspected in vain");
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
    if let AskedName::Valid(name) = &inspected.name {
        describe("name", name);
    }
    tracing::debug!(protocol = inspected.protocol.as_str(), ech = inspected.ech, name = %inspected.name, "inspected");
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
