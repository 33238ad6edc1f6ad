//! The end of a flow: the answer to its client, and whether its upstream port is held.

use super::delivery::{self, SideReset};
use super::flow::Flow;
use super::flow_end::FlowEnd;
use super::leftover::{self, DeliveryFailure};
use super::port_hold::hold_after;
use super::refusal;
use super::upstream::UpstreamConnection;
use super::worker::Worker;
use crate::flow::{FlowListing, FlowState, PolicyVerdict};
use crate::outcome::Outcome;
use crate::relay::{self, PendingAnswer, RelayEnd, Side, SocketFailure};
use crate::sys::failure::Failure;
use crate::sys::socket::Socket;
use std::io;
use std::pin::pin;

/// Answers the client of a flow that ended before it was relayed. One that is revoked before its refusal was sent ends
/// as refused.
pub(super) async fn end_early(
    worker: &Worker,
    client: &Socket,
    flow: &mut Flow,
    FlowEnd { outcome, detail }: FlowEnd,
) {
    if flow.outcome().is_some() {
        return;
    }
    tracing::debug!(%outcome, detail, "ends before it is relayed");
    flow.set_outcome(outcome);
    flow.set_detail(detail);
    flow.set_state(FlowState::Ending);
    if outcome.is_denial() {
        flow.record().verdict.get_or_insert(PolicyVerdict::Deny);
        let answer = flow.read(|record| refusal::answer(worker, record, record.hostname.as_ref(), outcome));
        // Boxed, to keep flows small.
        Box::pin(refusal::send(answer, client, &worker.scratch)).await;
    }
}

/// Ends a relayed flow, and sets whether the kernel has to be asked about the upstream port. Every end but a clean one
/// resets the upstream socket, which frees the port at once: a lease's default, but see [`super::port_hold`].
/// `answered` is true if every HTTP request has its answer; `None` if that is not known.
pub(super) async fn finish(
    worker: &Worker,
    client: &Socket,
    UpstreamConnection { leg, lease, listed }: &mut UpstreamConnection<'_>,
    end: RelayEnd,
    answered: Option<bool>,
    flow: &mut Flow,
) -> Outcome {
    tracing::debug!(how = %end, "no longer relayed");
    flow.set_state(FlowState::Ending);
    match end {
        RelayEnd::Finished { first } => {
            if leftover::has_unacknowledged(client) || leftover::has_unacknowledged(leg) {
                // Boxed, to keep flows small: few end so.
                let delivered = Box::pin(deliver_rest(worker, client, leg, listed, answered)).await;
                if let Err(FlowEnd { outcome, detail }) = delivered {
                    flow.set_detail(detail);
                    return outcome;
                }
            }
            // A leg that was reset after its FIN leaves nothing to hold the port for.
            if !leg.has_failed() {
                lease.set_hold(hold_after(first, leg));
                leg.ended_well();
            }
            let FlowEnd { outcome, detail } = delivery::at_the_end(first, answered);
            client.ended_well();
            flow.set_detail(detail);
            outcome
        }
        RelayEnd::Idle => Outcome::IdleTimeout,
        RelayEnd::HalfOpen => Outcome::HalfOpenTimeout,
        RelayEnd::Stopped(_) => Outcome::InternalError, // only a guard that refuses stops a flow
        RelayEnd::Failed(failure) => {
            let SocketFailure { side, error, progress } = *failure;
            let end = failed(worker, side, &error);
            flow.set_outcome(end.outcome);
            flow.set_detail(end.detail);
            let scratch = &worker.scratch;
            // Boxed, to keep flows small: few end so.
            let delivery = Box::pin(async {
                let other = if side == Side::Client { &*leg } else { client };
                if !matches!(end.outcome, Outcome::ClientReset | Outcome::UpstreamReset) {
                    relay::settle(other).await;
                    return end;
                }
                delivery::at_reset(SideReset { side, progress, answered }, client, leg, scratch).await
            });
            let FlowEnd { outcome, detail } = delivery.await;
            flow.set_detail(detail);
            outcome
        }
    }
}

/// Waits until both ends have what was sent to them; the flow still counts. The error is its outcome if they do not.
async fn deliver_rest(
    worker: &Worker,
    client: &Socket,
    leg: &Socket,
    listed: &FlowListing<'_>,
    answered: Option<bool>,
) -> Result<(), FlowEnd> {
    client.finish();
    let delivered = pin!(leftover::deliver(client, leg, worker.settings.silence.half_open));
    let end = match listed.unless_revoked(delivered).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(DeliveryFailure::Stalled)) => Outcome::HalfOpenTimeout.into(),
        Ok(Err(DeliveryFailure::Failed(side, error))) => failed(worker, side, &error),
        Err(why) => why.into(),
    };
    delivery::after_the_end(end, client, answered)
}

/// Ends a flow that the guard stopped. Dropping the server's leg resets it.
pub(super) async fn stop(
    worker: &Worker,
    client: &Socket,
    outcome: Outcome,
    end: RelayEnd,
    flow: &Flow,
) -> Outcome {
    flow.set_state(FlowState::Ending);
    match end {
        RelayEnd::Stopped(PendingAnswer::Answer) => {
            let answer =
                flow.read(|record| refusal::answer(worker, record, record.denied_hostname.as_ref(), outcome));
            refusal::send(answer, client, &worker.scratch).await;
        }
        RelayEnd::Stopped(PendingAnswer::Finished) => refusal::say_nothing(client, &worker.scratch).await,
        // What the server has sent so far is delivered before the reset.
        RelayEnd::Stopped(PendingAnswer::Reset)
        | RelayEnd::Finished { .. }
        | RelayEnd::Failed(_)
        | RelayEnd::Idle
        | RelayEnd::HalfOpen => {
            relay::settle(client).await;
        }
    }
    outcome
}

fn failed(worker: &Worker, side: Side, error: &io::Error) -> FlowEnd {
    let outcome = match (Failure::of_connected(error), side) {
        (Failure::Reset, Side::Client) => Outcome::ClientReset,
        (Failure::Reset, Side::Upstream) => Outcome::UpstreamReset,
        (Failure::TimedOut | Failure::Unreachable, Side::Client) => Outcome::ClientLost,
        (Failure::TimedOut | Failure::Unreachable, Side::Upstream) => Outcome::UpstreamLost,
        (Failure::Aborted, _) => {
            let detail = Some("ended by an administrator (SOCK_DESTROY)");
            return FlowEnd { outcome: Outcome::RelayFailed, detail };
        }
        (
            Failure::Refused
            | Failure::PortTaken
            | Failure::NotOurAddress
            | Failure::NoResources
            | Failure::NotPermitted
            | Failure::Discarded
            | Failure::Prohibited
            | Failure::Other,
            _,
        ) => {
            worker.complain(format_args!("cannot relay"), error);
            Outcome::RelayFailed
        }
    };
    outcome.into()
}
