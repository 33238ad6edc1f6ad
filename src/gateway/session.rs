//! One flow's life, top to bottom.
//!
//! Each step consumes what the one before it yielded, and none calls back. A step that ends the flow returns the
//! outcome as its error; [`end_early`] then answers the client.

use super::admission::Pass;
use super::again::Fate;
use super::candidate::word::Word;
use super::candidate::{Ruling, Trial};
use super::flow::Flow;
use super::flow_table::{Listed, LiveFlow, Proof};
use super::guard::{Guard, Refused, outcome_of};
use super::leg::Leg;
use super::meters::{Counted, Timed};
use super::record::{AddressCheck, CertificateCheck, NameSource, Verdict};
use super::refusal;
use super::snapshot::Tenant;
use super::verification;
use super::worker::Worker;
use crate::addr::DialAddr;
use crate::clock;
use crate::egress::{DialError, Lease, LeaseError, Rest, UpstreamEnd};
use crate::hostname::AskedName;
use crate::inspect::{Inspected, Protocol, Unclear};
use crate::outcome::Outcome;
use crate::policy::{Decision, Denial, Permit, Seen};
use crate::relay::{self, End, Farewell, Guarded, Side};
use crate::sys::failure::Failure;
use crate::sys::stream;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Lives one flow, and yields how it ended; a flow that was refused is [`Ended`] early, and is yet to be told so.
#[expect(clippy::manual_async_fn, reason = "an `async fn` holds each argument twice")]
pub(super) fn live<'a>(
    worker: &'a Worker,
    client: &'a Leg,
    flow: &'a mut Flow,
) -> impl Future<Output = Result<Outcome, Ended>> + 'a {
    async move {
        // In a box, which is gone when the flow is relayed: that is most of its life.
        let Open { place: _place, mut upstream, mut guard } = Box::pin(open(worker, client, flow)).await?;
        let end = {
            let (scratch, silence) = (&worker.scratch, &worker.silence);
            let relayed = pin!(relay::relay(client, &upstream.leg, scratch, silence, &mut *flow, &mut guard));
            upstream.listed.unless_revoked(relayed).await.ok_or(Outcome::PolicyRevoked)?
        };
        match guard.and_then(|guarded| guarded.into_guard().into_refused()) {
            // In a box, for flows are to be small, and few end so.
            Some(refused) if !refused.waived => {
                return Ok(Box::pin(stop(worker, client, refused, end, flow)).await);
            }
            Some(refused) => {
                flow.record.would_deny = Some(refused.outcome);
                note_refusal(flow, refused);
            }
            None => {}
        }
        Ok(finish(worker, client, &mut upstream, end, flow).await)
    }
}

/// Answers the client of a flow that ended before it was relayed.
pub(super) async fn end_early(
    worker: &Worker,
    client: &Leg,
    flow: &mut Flow,
    Ended { outcome, detail }: Ended,
) {
    flow.ends(outcome);
    flow.record.detail = detail.or(flow.record.detail);
    if outcome.is_denial() {
        flow.record.verdict.get_or_insert(Verdict::Deny);
        let asked = flow.record.hostname.as_ref();
        // In a box, for flows are to be small.
        Box::pin(refusal::answer(client, &flow.record, asked, outcome, &worker.scratch)).await;
    }
}

/// A flow that has its server.
struct Open<'w> {
    place: Pass,
    upstream: Upstream<'w>,
    guard: MaybeGuarded,
}

/// From accept to the server's answer. Holds the tenant for no longer, and the tenant the configuration it came with.
async fn open<'w>(worker: &'w Worker, client: &Leg, flow: &mut Flow) -> Result<Open<'w>, Ended> {
    let Admitted { mut tenant, trial, place } = admit(worker, flow)?;
    let Allowed { permit, seen, trial, guard } = decide(worker, &mut tenant, trial, client, flow).await?;
    let mut upstream = if permit.asks() {
        // In a box: flows that are not verified do not carry the room for it.
        Box::pin(verification::dial(worker, &tenant, trial, client, permit, seen, flow)).await?
    } else {
        drop(trial);
        dial(worker, &tenant, permit, seen, flow)?
    };
    if !upstream.lease.is_connected() {
        connect(worker, &tenant, client, &mut upstream, flow).await?;
    }
    Ok(Open { place, upstream, guard })
}

/// A flow that ends before it is relayed.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) detail: Option<&'static str>,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, detail: None }
    }
}

/// What a flow is let in with.
struct Admitted {
    tenant: Arc<Tenant>,
    /// If a candidate is loaded.
    trial: Option<Box<Trial>>,
    place: Pass,
}

/// Finds the tenant, and a place for the flow.
fn admit(worker: &Worker, flow: &mut Flow) -> Result<Admitted, Ended> {
    let snapshot = worker.gateway.snapshot.load();
    let trial = snapshot.candidate.as_ref().map(|candidate| Box::new(candidate.trial(flow.record.client)));
    let Some(tenant) = snapshot.tenant_of(flow.record.client) else {
        let denial = Denial { outcome: Outcome::UnknownTenant, rule: None };
        return Err(denied(None, trial.as_deref(), flow, denial));
    };
    let tenant = Arc::clone(tenant);
    flow.belongs_to(Arc::clone(&tenant.policy.name), tenant.meters.of(&worker.seat));
    if snapshot.own.contain(flow.record.destination.ip()) {
        return Err(Outcome::DestinationLocal.into());
    }
    let place = tenant.flows.enter().ok_or(Outcome::TenantFlowLimit)?;
    Ok(Admitted { tenant, trial, place })
}

/// What guards a flow while it is relayed; `None` where nobody needs to look.
type MaybeGuarded = Option<Box<Guarded<Guard>>>;

/// What a flow may do, and what for.
struct Allowed {
    permit: Permit,
    /// `None` if nobody listened to its client.
    seen: Option<Seen>,
    trial: Option<Box<Trial>>,
    guard: MaybeGuarded,
}

/// Learns what the client wants, and whether it may have it.
async fn decide(
    worker: &Worker,
    tenant: &mut Arc<Tenant>,
    mut trial: Option<Box<Trial>>,
    client: &Leg,
    flow: &mut Flow,
) -> Result<Allowed, Ended> {
    let (to, time) = (flow.record.destination, flow.record.time);
    let unseen = lead(tenant, trial.as_deref(), flow)?.rules.decide_unseen(to);
    let (seen, inspected, decision) = if let Some(permit) = unseen {
        (None, None, Decision::Permit(permit))
    } else {
        let (seen, inspected) = inspect(worker, tenant, client, flow).await?;
        keep_up(worker, tenant, &mut trial, flow)?;
        let decision = lead(tenant, trial.as_deref(), flow)?.rules.judge(&seen, to, time);
        (Some(seen), inspected, decision)
    };
    // What is asked about names is part of the word, and is found out later.
    let asks = matches!(&decision, Decision::Permit(permit) if permit.asks());
    if let Some(trial) = trial.as_ref().filter(|_| !asks) {
        trial.compare(Some(&tenant.policy), flow, seen.as_ref(), Word::from(&decision));
    }
    if decision.denies_for() == Some(Outcome::MalformedHttp)
        && let Some(Inspected { unframed, .. }) = inspected
    {
        flow.record.detail = unframed;
    }
    let permit = match decision {
        Decision::Permit(permit) => permit,
        Decision::Denial(denial) => return Err(deny(flow, denial)),
    };
    let monitors = lead(tenant, trial.as_deref(), flow)?.rules.mode.monitors(time);
    let guard = inspected.and_then(|inspected| Guard::of(&inspected, &permit, worker, flow, monitors));
    Ok(Allowed { permit: allow(flow, permit), seen, trial, guard })
}

/// The rules that hold for the flow: the tenant's, or the candidate's.
pub(super) fn lead<'a>(
    tenant: &'a Tenant,
    trial: Option<&'a Trial>,
    flow: &mut Flow,
) -> Result<Ruling<'a>, Ended> {
    let own = tenant.ruling();
    trial.map_or(Some(own), |trial| trial.lead(own)).ok_or_else(|| {
        let denial = Denial { outcome: Outcome::UnknownTenant, rule: None };
        denied(Some(tenant), trial, flow, denial)
    })
}

/// The configuration may have been exchanged while the client was listened to: from here on the new one holds.
fn keep_up(
    worker: &Worker,
    tenant: &mut Arc<Tenant>,
    trial: &mut Option<Box<Trial>>,
    flow: &Flow,
) -> Result<(), Ended> {
    let snapshot = worker.gateway.snapshot.load();
    if snapshot.has(tenant) && trial.is_none() && snapshot.candidate.is_none() {
        return Ok(());
    }
    let client = flow.record.client;
    let now = snapshot.still_of(client, &tenant.policy.name);
    *tenant = Arc::clone(now.ok_or(Outcome::PolicyRevoked)?);
    *trial = snapshot.candidate.as_ref().map(|candidate| Box::new(candidate.trial(client)));
    Ok(())
}

/// Refuses a flow whose client nobody needs to listen to.
fn denied(tenant: Option<&Tenant>, trial: Option<&Trial>, flow: &mut Flow, denial: Denial) -> Ended {
    let decision = Decision::Denial(denial.clone());
    if let Some(trial) = trial {
        trial.compare(tenant.map(|tenant| &*tenant.policy), flow, None, Word::from(&decision));
    }
    deny(flow, denial)
}

pub(super) fn deny(flow: &mut Flow, denial: Denial) -> Ended {
    flow.record.rule = denial.rule;
    denial.outcome.into()
}

pub(super) fn allow(flow: &mut Flow, permit: Permit) -> Permit {
    flow.record.verdict = Some(Verdict::Allow);
    flow.record.would_deny = permit.would_deny();
    flow.record.rule = permit.rule().cloned();
    permit
}

/// Listens to the client: what comes of it, and what it wants if that is clear.
async fn inspect(
    worker: &Worker,
    tenant: &Tenant,
    client: &Leg,
    flow: &mut Flow,
) -> Result<(Seen, Option<Inspected>), Ended> {
    let Some(_place) = tenant.inspections.enter() else {
        return Ok((Seen::Unclear(Outcome::InspectionBusy), None));
    };
    let inspected = worker.peeker.peek(client).await;
    let took = flow.age();
    flow.record.inspect = Some(took.into());
    flow.meters().record(Timed::Inspect, took);
    match inspected {
        Ok(mut inspected) => {
            note_inspection(flow, &mut inspected);
            let (name, ech, unframed) = (inspected.name.clone(), inspected.ech, inspected.unframed.is_some());
            Ok((Seen::Asked { name, ech, unframed }, Some(inspected)))
        }
        Err(Unclear::ClientLeft) => Err(Outcome::ClientLeft.into()),
        Err(unclear) => {
            let (outcome, detail) = outcome_of(unclear);
            flow.record.detail = detail;
            flow.record.protocol = unclear.protocol();
            Ok((Seen::Unclear(outcome), None))
        }
    }
}

/// Notes in the record what the client wants.
fn note_inspection(flow: &mut Flow, inspected: &mut Inspected) {
    if inspected.ech {
        flow.meters().count(Counted::Ech);
    }
    let record = &mut flow.record;
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
        AskedName::Absent => {}
    }
}

/// The upstream socket, and the lease of its port. Fields drop in this order: the port is free after the socket is.
pub(super) struct Upstream<'w> {
    leg: Leg,
    lease: Lease,
    listed: Listed<'w>,
}

/// Takes a source port and sends the SYN.
pub(super) fn dial<'w>(
    worker: &'w Worker,
    tenant: &Tenant,
    permit: Permit,
    seen: Option<Seen>,
    flow: &mut Flow,
) -> Result<Upstream<'w>, Ended> {
    let to = permit.into_dial();
    flow.record.dialled = Some(to);
    flow.record.pool = Some(Arc::clone(tenant.pool.name()));
    let lease = tenant
        .pool
        .lease(flow.record.client, to, &tenant.share, clock::now())
        .map_err(|error| no_port(tenant, error))?;
    note_source(flow, &lease);
    let (socket, lease) = worker
        .dialler
        .start(flow.record.client, to, lease, &worker.reactor)
        .map_err(|error| not_dialled(worker, tenant, &error))?;
    // Dropped before the lease.
    let leg = Leg::new(socket);
    note_source(flow, &lease);
    let listed = list(worker, tenant, flow, &lease, to, seen)?;
    Ok(Upstream { leg, lease, listed })
}

/// A flow that lives for this long may live for days, and needs keepalive.
const OF_AGE: Duration = Duration::from_secs(5);

/// Waits until the server has taken the connection.
async fn connect(
    worker: &Worker,
    tenant: &Tenant,
    client: &Leg,
    upstream: &mut Upstream<'_>,
    flow: &mut Flow,
) -> Result<(), Ended> {
    let dialled_at = clock::now();
    let answered = {
        let answer = pin!(worker.dialler.answered(&upstream.leg));
        let answer = pin!(unless_gone(client, answer));
        upstream.listed.unless_revoked(answer).await.ok_or(Outcome::PolicyRevoked)??
    };
    answered.map_err(|error| not_dialled(worker, tenant, &error))?;
    connected(worker, upstream, dialled_at, flow);
    Ok(())
}

/// The server has answered.
fn connected(worker: &Worker, upstream: &mut Upstream<'_>, dialled_at: Instant, flow: &mut Flow) {
    upstream.lease.connected();
    let now = clock::now();
    upstream.leg.keep_alive_from(now + OF_AGE.min(worker.liveness.idle));
    let took = now.saturating_duration_since(dialled_at);
    flow.record.connect = Some(took.into());
    flow.meters().record(Timed::Connect, took);
}

/// The upstream of the attempt that was answered first, of several that began at `dialled_at`.
pub(super) fn answered<'w>(
    worker: &'w Worker,
    tenant: &Tenant,
    seen: Option<Seen>,
    // The leg last: dropped before the lease.
    (to, lease, leg): (DialAddr, Lease, Leg),
    dialled_at: Instant,
    flow: &mut Flow,
) -> Result<Upstream<'w>, Ended> {
    flow.record.dialled = Some(to);
    note_source(flow, &lease);
    let listed = list(worker, tenant, flow, &lease, to, seen)?;
    let mut upstream = Upstream { leg, lease, listed };
    connected(worker, &mut upstream, dialled_at, flow);
    Ok(upstream)
}

/// Waits for something, but not beyond the client. One that resets needs it no more; one that has only finished sending
/// still does.
pub(super) fn unless_gone<F: Future>(
    client: &Leg,
    mut work: Pin<&mut F>,
) -> impl Future<Output = Result<F::Output, Ended>> {
    poll_fn(move |cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => client.poll_failed(cx).map(|()| Err(Outcome::ClientLeft.into())),
    })
}

/// Lists the flow: from here on whoever exchanges the configuration judges it again. Who did so before, after the flow was
/// judged, has not seen it, so that is made up for here.
fn list<'w>(
    worker: &'w Worker,
    tenant: &Tenant,
    flow: &Flow,
    lease: &Lease,
    to: DialAddr,
    seen: Option<Seen>,
) -> Result<Listed<'w>, Ended> {
    let record = &flow.record;
    let (client, asked) = (record.client, record.destination);
    let live = |seen| LiveFlow {
        id: record.flow,
        tenant: Arc::clone(&tenant.policy.name),
        client,
        source: lease.source(),
        destination: to,
        asked: (asked.socket() != to.socket()).then(|| Box::new(asked)),
        seen,
        canary: record.canary,
        tls: speaks_tls(flow),
        proof: Proof {
            address: matches!(record.address_check, Some(AddressCheck::Match | AddressCheck::Resolved)),
            certificate: record.certificate_check == Some(CertificateCheck::Valid),
        },
    };
    let listed = worker.gateway.table.list(live(seen.clone()));
    let snapshot = worker.gateway.snapshot.load();
    // A candidate may have fallen back since, without a trace in the snapshot.
    let out_of_date = snapshot.revokes && (record.canary || !snapshot.has(tenant));
    // Nobody else would find out what is asked of it now.
    if out_of_date && snapshot.fate(&live(seen), record.time) != Fate::Stays {
        return Err(Outcome::PolicyRevoked.into());
    }
    Ok(listed)
}

pub(super) fn speaks_tls(flow: &Flow) -> bool {
    flow.record.protocol == Some(Protocol::Tls)
}

fn note_source(flow: &mut Flow, lease: &Lease) {
    flow.record.source = Some(lease.source());
    flow.record.public = lease.public();
}

fn no_port(tenant: &Tenant, why: LeaseError) -> Ended {
    tenant.meters.port_allocation_failures.increment(1);
    Ended { outcome: why.outcome(), detail: why.detail() }
}

pub(super) fn not_dialled(worker: &Worker, tenant: &Tenant, error: &DialError) -> Ended {
    match error {
        DialError::NoPort(why) => no_port(tenant, *why),
        DialError::TimedOut => Outcome::ConnectTimeout.into(),
        DialError::Failed(failure, error) => match failure {
            Failure::Refused => Outcome::UpstreamRefused.into(),
            // Its SYN-ACK had come: it took the connection, and then reset it.
            Failure::Reset => Outcome::UpstreamReset.into(),
            Failure::Unreachable => Outcome::UpstreamUnreachable.into(),
            Failure::TimedOut => Outcome::ConnectTimeout.into(),
            Failure::PortTaken => no_port(tenant, LeaseError::Exhausted),
            Failure::NotOurAddress => {
                worker.complain("a pool's address is not local to this machine; see `egret doctor`", error);
                Ended {
                    outcome: Outcome::DialFailed,
                    detail: Some("the source address is not local to the gateway"),
                }
            }
            Failure::Aborted | Failure::NoResources | Failure::NotPermitted | Failure::Other => {
                worker.complain("cannot dial", error);
                Outcome::DialFailed.into()
            }
        },
    }
}

/// Settles what the upstream port needs before it can be used again. Every way out but a good end resets the upstream
/// socket, and then its port is free at once: that is what a lease starts with.
async fn finish(
    worker: &Worker,
    client: &Leg,
    Upstream { leg, lease, .. }: &mut Upstream<'_>,
    end: End,
    flow: &mut Flow,
) -> Outcome {
    match end {
        End::Finished { first } => {
            lease.set_rest(rest_after(first, leg));
            client.ended_well();
            leg.ended_well();
            Outcome::Closed
        }
        End::Idle => Outcome::IdleTimeout,
        End::HalfOpen => Outcome::HalfOpenTimeout,
        End::Stopped(_) => Outcome::InternalError, // only a guard that refuses stops a flow
        End::Failed { side, error } => {
            let (outcome, detail) = failed(worker, side, &error);
            flow.ends(outcome);
            flow.record.detail = detail;
            let other = if side == Side::Client { leg } else { client };
            // In a box, for flows are to be small, and few end so.
            Box::pin(relay::settle(other)).await;
            outcome
        }
    }
}

/// Ends a flow whose client sent what may not pass. Dropping the server's leg resets it.
async fn stop(worker: &Worker, client: &Leg, refused: Refused, end: End, flow: &mut Flow) -> Outcome {
    let outcome = refused.outcome;
    flow.ends(outcome);
    flow.record.verdict = Some(Verdict::Deny);
    note_refusal(flow, refused);
    match end {
        End::Stopped(Farewell::Answer) => {
            let asked = flow.record.denied_hostname.as_ref();
            refusal::answer(client, &flow.record, asked, outcome, &worker.scratch).await;
        }
        End::Stopped(Farewell::Finished) => refusal::say_nothing(client, &worker.scratch).await,
        // What the server has said so far is delivered before the reset.
        End::Stopped(Farewell::Reset)
        | End::Finished { .. }
        | End::Failed { .. }
        | End::Idle
        | End::HalfOpen => relay::settle(client).await,
    }
    outcome
}

fn note_refusal(flow: &mut Flow, refused: Refused) {
    flow.record.detail = refused.detail;
    flow.record.rule = refused.rule.or(flow.record.rule.take());
    flow.record.denied_hostname = refused.hostname;
}

/// When Linux gives the 4-tuple back after both sides have finished.
fn rest_after(first: Side, upstream: &Leg) -> Rest {
    let Ok(connection) = stream::connection(&**upstream) else { return Rest::Unknown };
    if connection.unsent {
        // The socket lives on until a server that reads slowly, or not at all, has taken the rest.
        return Rest::Unknown;
    }
    let end = match first {
        Side::Upstream => UpstreamEnd::ServerFirst,
        Side::Client if connection.closing => UpstreamEnd::Crossed,
        Side::Client => UpstreamEnd::GatewayFirst,
    };
    Rest::after(end, connection.timestamps, connection.round_trip)
}

fn failed(worker: &Worker, side: Side, error: &io::Error) -> (Outcome, Option<&'static str>) {
    match (Failure::of(error), side) {
        (Failure::Reset | Failure::Refused, Side::Client) => (Outcome::ClientReset, None),
        (Failure::Reset | Failure::Refused, Side::Upstream) => (Outcome::UpstreamReset, None),
        (Failure::TimedOut | Failure::Unreachable, Side::Client) => (Outcome::ClientLost, None),
        (Failure::TimedOut | Failure::Unreachable, Side::Upstream) => (Outcome::UpstreamLost, None),
        (Failure::Aborted, _) => (Outcome::RelayFailed, Some("ended by an administrator (SOCK_DESTROY)")),
        (
            Failure::PortTaken
            | Failure::NotOurAddress
            | Failure::NoResources
            | Failure::NotPermitted
            | Failure::Other,
            _,
        ) => {
            worker.complain("cannot relay", error);
            (Outcome::RelayFailed, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::{Socket, driven};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    #[tokio::test]
    async fn a_port_rests_long_where_the_server_has_yet_to_take_what_was_written() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (server, _) = listener.accept().unwrap();
        stream::finish(&server).unwrap();
        while stream::write(&socket, &[0; 4096]).is_ok() {}
        let rest = driven(async |reactor| {
            let upstream = Leg::new(Socket::new(socket, &reactor).unwrap());
            stream::finish(&*upstream).unwrap();
            rest_after(Side::Upstream, &upstream)
        });
        let rest = rest.await;
        assert!(rest.duration() > Duration::from_mins(1), "{rest:?}");
    }
}
