//! Connecting to the server: a source port, the SYN, and the answer.

use super::flow::Flow;
use super::flow_end::FlowEnd;
use super::meters::FlowDuration;
use super::port_hold::hold_after_reset;
use super::reevaluate::Reevaluation;
use super::snapshot::TenantRuntime;
use super::worker::Worker;
use crate::addr::DialAddr;
use crate::clock;
use crate::egress::{DialError, FailedDial, Lease, LeaseError};
use crate::flow::{FlowListing, FlowState, RevocationReason};
use crate::outcome::Outcome;
use crate::policy::{ClientInspection, Permit};
use crate::sys::failure::Failure;
use crate::sys::socket::Socket;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// The upstream socket, and the lease of its port. Fields drop in this order: the port is freed after the socket is.
pub(super) struct UpstreamConnection<'w> {
    pub(super) leg: Socket,
    pub(super) lease: Lease,
    pub(super) listed: FlowListing<'w>,
}

impl Drop for UpstreamConnection<'_> {
    fn drop(&mut self) {
        // After a reset by the server the kernel keeps nothing.
        if self.leg.resets_after_its_end() && !self.leg.has_failed() {
            self.lease.set_hold(hold_after_reset(&self.leg));
        }
    }
}

/// Takes a source port and sends the SYN.
pub(super) fn dial<'w>(
    worker: &'w Worker,
    tenant: &TenantRuntime,
    permit: Permit,
    seen: Option<ClientInspection>,
    flow: &mut Flow,
) -> Result<UpstreamConnection<'w>, FlowEnd> {
    let to = permit.into_dial();
    starts_dialling(tenant, Some(to), flow);
    let lease = tenant
        .pool
        .lease(flow.client(), to, &tenant.share, clock::now())
        .map_err(|error| no_port(tenant, error))?;
    note_source(flow, &lease);
    let (socket, lease) = worker
        .settings
        .dialler
        .start(flow.client(), to, flow.class, lease, &worker.event_loop)
        .map_err(|error| not_dialled(worker, tenant, &error))?;
    // Dropped before the lease.
    let leg = socket;
    tracing::debug!(source = %lease.source(), %to, "dialling");
    note_source(flow, &lease);
    let listed = list(worker, tenant, flow, seen)?;
    Ok(UpstreamConnection { leg, lease, listed })
}

/// Notes the first address that is dialled, and the pool.
pub(super) fn starts_dialling(tenant: &TenantRuntime, to: Option<DialAddr>, flow: &mut Flow) {
    let mut record = flow.record();
    record.dialled = to;
    record.pool = Some(Arc::clone(tenant.pool.name()));
    drop(record);
    flow.set_state(FlowState::Dialling);
}

/// Age at which a connection gets keepalive: one that lives for this long may live for days.
const OF_AGE: Duration = Duration::from_secs(5);

/// Waits until the server has accepted the connection.
pub(super) async fn connect(
    worker: &Worker,
    tenant: &TenantRuntime,
    client: &Socket,
    upstream: &mut UpstreamConnection<'_>,
    flow: &mut Flow,
) -> Result<(), FlowEnd> {
    let dialled_at = clock::now();
    let answered = {
        let answer = pin!(worker.settings.dialler.answered(&upstream.leg, &upstream.lease));
        let answer = pin!(unless_gone(client, answer));
        upstream.listed.unless_revoked(answer).await??
    };
    answered.map_err(|error| not_dialled(worker, tenant, &error))?;
    connected(worker, upstream, dialled_at, flow);
    Ok(())
}

/// Notes the server's answer: in the lease, for keepalive, and as connect time.
fn connected(worker: &Worker, upstream: &mut UpstreamConnection<'_>, dialled_at: Instant, flow: &mut Flow) {
    upstream.lease.connected();
    let now = clock::now();
    upstream.leg.keep_alive_from(now + OF_AGE.min(worker.settings.liveness.idle));
    let took = now.saturating_duration_since(dialled_at);
    tracing::debug!(source = %upstream.lease.source(), "connected");
    flow.record().connect = Some(took.into());
    flow.set_state(FlowState::Relaying);
    flow.meters().record(FlowDuration::Connect, took);
}

/// Returns the upstream of the attempt that was answered first, of several that began at `dialled_at`.
pub(super) fn answered<'w>(
    worker: &'w Worker,
    tenant: &TenantRuntime,
    seen: Option<ClientInspection>,
    // The leg last: dropped before the lease.
    (to, lease, leg): (DialAddr, Lease, Socket),
    dialled_at: Instant,
    flow: &mut Flow,
) -> Result<UpstreamConnection<'w>, FlowEnd> {
    flow.record().dialled = Some(to);
    note_source(flow, &lease);
    let listed = list(worker, tenant, flow, seen)?;
    let mut upstream = UpstreamConnection { leg, lease, listed };
    connected(worker, &mut upstream, dialled_at, flow);
    Ok(upstream)
}

/// Runs `work` unless the client resets before. One that has only finished sending still waits for the result.
pub(super) fn unless_gone<F: Future>(
    client: &Socket,
    mut work: Pin<&mut F>,
) -> impl Future<Output = Result<F::Output, FlowEnd>> {
    poll_fn(move |cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => client.poll_failed(cx).map(|()| Err(Outcome::ClientLeft.into())),
    })
}

/// Lists the flow as one that holds a lease, so that a reload re-evaluates it from now on. The reload puts its snapshot
/// in force before it takes the entry's lock, as this does before it looks at the snapshot: whichever comes second sees
/// the other. So a reload between the decision and this is seen here.
fn list<'w>(
    worker: &'w Worker,
    tenant: &TenantRuntime,
    flow: &Flow,
    seen: Option<ClientInspection>,
) -> Result<FlowListing<'w>, FlowEnd> {
    let listed = flow.list(&worker.gateway.table, seen);
    let snapshot = worker.gateway.snapshot.load();
    // A canary may have been rolled back since, which leaves no trace in the snapshot.
    let out_of_date = !snapshot.has(tenant) || flow.read(|record| record.canary);
    if !out_of_date {
        return Ok(listed);
    }
    let live = flow.entry().live_flow().ok_or(Outcome::InternalError)?;
    match snapshot.reevaluate(&live, clock::not_before_reached(flow.time())) {
        Reevaluation::Keep => Ok(listed),
        Reevaluation::Reset(why) => Err(why.into()),
        // Nothing else would make the missing checks.
        Reevaluation::NeedsCheck(_) => {
            Err(RevocationReason("the policy asks more of it since it was judged").into())
        }
    }
}

fn note_source(flow: &mut Flow, lease: &Lease) {
    let mut record = flow.record();
    record.source = Some(lease.source());
    record.public = lease.public();
}

fn no_port(tenant: &TenantRuntime, why: LeaseError) -> FlowEnd {
    tenant.meters.port_allocation_failures.increment(1);
    FlowEnd { outcome: why.outcome(), detail: why.detail() }
}

/// Outcome and detail of a connection that failed; `None` if its port was taken. `sent` is false if this machine itself
/// refused it.
fn dial_end(failure: Failure, sent: bool) -> Option<FlowEnd> {
    let (outcome, detail) = match failure {
        Failure::PortTaken => return None,
        Failure::Refused => (Outcome::UpstreamRefused, None),
        // Its SYN-ACK had arrived: it accepted the connection, and then reset it.
        Failure::Reset => (Outcome::UpstreamReset, None),
        Failure::TimedOut => (Outcome::ConnectTimeout, None),
        Failure::Unreachable if sent => (Outcome::UpstreamUnreachable, None),
        Failure::Prohibited if sent => {
            (Outcome::UpstreamUnreachable, Some("a router, or a packet filter, prohibits packets to it"))
        }
        Failure::Unreachable => {
            let why = "this machine has no route to the server, or one that says that it is unreachable";
            (Outcome::DialFailed, Some(why))
        }
        Failure::Discarded => {
            let why =
                "a route of this machine, or a rule of `ip rule`, discards packets to the server (blackhole)";
            (Outcome::DialFailed, Some(why))
        }
        Failure::Prohibited => {
            let why = "a route, a rule of `ip rule` or a security module of this machine prohibits packets to the server";
            (Outcome::DialFailed, Some(why))
        }
        Failure::NotOurAddress => {
            (Outcome::DialFailed, Some("the source address is not local to the gateway"))
        }
        Failure::NoResources => {
            (Outcome::DialFailed, Some("the gateway is out of descriptors, memory or buffers"))
        }
        Failure::NotPermitted => {
            let why = "the kernel does not permit it: a security module, or a capability that is missing";
            (Outcome::DialFailed, Some(why))
        }
        Failure::Aborted => (Outcome::DialFailed, Some("somebody on the gateway ended the socket")),
        Failure::Other => (Outcome::DialFailed, None),
    };
    Some(FlowEnd { outcome, detail })
}

/// The end of a flow whose server could not be dialled. Failures of this machine are logged.
pub(super) fn not_dialled(worker: &Worker, tenant: &TenantRuntime, error: &DialError) -> FlowEnd {
    let (failed, sent) = match error {
        DialError::NoPort(why) => return no_port(tenant, *why),
        DialError::TimedOut => return Outcome::ConnectTimeout.into(),
        DialError::Failed(failed) => (failed, true),
        DialError::NotSent(failed) => (failed, false),
    };
    let FailedDial { to, source, failure, error } = failed;
    let Some(end) = dial_end(*failure, sent) else { return no_port(tenant, LeaseError::Exhausted) };
    if end.outcome == Outcome::DialFailed {
        let why = end.detail.map(|why| format!(": {why}")).unwrap_or_default();
        worker.complain(format_args!("cannot dial: {to} from {source}{why}"), error);
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_refusals_are_dial_failures() {
        let end = |failure, sent| {
            let FlowEnd { outcome, detail } = dial_end(failure, sent).unwrap();
            (outcome, detail.unwrap_or_default())
        };
        for (failure, words) in [
            (Failure::Discarded, "discards packets"),
            (Failure::Prohibited, "a security module of this machine"),
            (Failure::Unreachable, "no route to"),
        ] {
            let (outcome, detail) = end(failure, false);
            assert!(outcome == Outcome::DialFailed && detail.contains(words), "{failure:?}: {detail}");
        }
        assert_eq!(end(Failure::Unreachable, true), (Outcome::UpstreamUnreachable, ""));
        let (outcome, detail) = end(Failure::Prohibited, true);
        assert!(outcome == Outcome::UpstreamUnreachable && detail.starts_with("a router"));
    }
}
