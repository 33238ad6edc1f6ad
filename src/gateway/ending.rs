//! The end of a flow: the answer to its client, and whether its upstream port is held.

use super::delivery::{self, RelayOutcome, SideReset};
use super::flow::Flow;
use super::leftover::{self, DeliveryFailure};
use super::refusal;
use super::upstream::UpstreamConnection;
use super::worker::Worker;
use crate::egress::PortHold;
use crate::flow::{FlowListing, FlowState, PolicyVerdict, RevocationReason};
use crate::outcome::Outcome;
use crate::relay::{self, PendingAnswer, RelayEnd, Side, SocketFailure};
use crate::sys::failure::Failure;
use crate::sys::socket::Socket;
use crate::sys::stream;
use std::io;
use std::pin::pin;

/// Outcome of a flow that ended before it was relayed.
pub(super) struct EarlyEnd {
    pub(super) outcome: Outcome,
    pub(super) detail: Option<&'static str>,
}

impl From<Outcome> for EarlyEnd {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, detail: None }
    }
}

impl From<RevocationReason> for EarlyEnd {
    fn from(RevocationReason(why): RevocationReason) -> Self {
        Self { outcome: Outcome::PolicyRevoked, detail: Some(why) }
    }
}

/// Answers the client of a flow that ended before it was relayed. One that is revoked before its refusal was sent ends
/// as refused.
pub(super) async fn end_early(
    worker: &Worker,
    client: &Socket,
    flow: &mut Flow,
    EarlyEnd { outcome, detail }: EarlyEnd,
) {
    if flow.outcome().is_some() {
        return;
    }
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
/// resets the upstream socket, which frees the port at once: a lease's default, but see [`hold_after_reset`].
/// `answered` is true if every HTTP request has its answer; `None` if that is not known.
pub(super) async fn finish(
    worker: &Worker,
    client: &Socket,
    UpstreamConnection { leg, lease, listed }: &mut UpstreamConnection<'_>,
    end: RelayEnd,
    answered: Option<bool>,
    flow: &mut Flow,
) -> Outcome {
    flow.set_state(FlowState::Ending);
    match end {
        RelayEnd::Finished { first } => {
            if leftover::has_unacknowledged(client) || leftover::has_unacknowledged(leg) {
                // Boxed, to keep flows small: few end so.
                let delivered = Box::pin(deliver_rest(worker, client, leg, listed, answered)).await;
                if let Err(RelayOutcome { outcome, detail }) = delivered {
                    flow.set_detail(detail);
                    return outcome;
                }
            }
            // A leg that was reset after its FIN leaves nothing to hold the port for.
            if !leg.has_failed() {
                lease.set_hold(hold_after(first, leg));
                leg.ended_well();
            }
            let RelayOutcome { outcome, detail } = delivery::at_the_end(first, answered);
            client.ended_well();
            flow.set_detail(detail);
            outcome
        }
        RelayEnd::Idle => Outcome::IdleTimeout,
        RelayEnd::HalfOpen => Outcome::HalfOpenTimeout,
        RelayEnd::Stopped(_) => Outcome::InternalError, // only a guard that refuses stops a flow
        RelayEnd::Failed(failure) => {
            let SocketFailure { side, error, progress } = *failure;
            let (outcome, detail) = failed(worker, side, &error);
            flow.set_outcome(outcome);
            flow.set_detail(detail);
            let scratch = &worker.scratch;
            // Boxed, to keep flows small: few end so.
            let delivery = Box::pin(async {
                let other = if side == Side::Client { &*leg } else { client };
                if !matches!(outcome, Outcome::ClientReset | Outcome::UpstreamReset) {
                    relay::settle(other).await;
                    return RelayOutcome { outcome, detail };
                }
                delivery::at_reset(SideReset { side, progress, answered }, client, leg, scratch).await
            });
            let RelayOutcome { outcome, detail } = delivery.await;
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
) -> Result<(), RelayOutcome> {
    client.finish();
    let delivered = pin!(leftover::deliver(client, leg, worker.settings.silence.half_open));
    let (outcome, detail) = match listed.unless_revoked(delivered).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(DeliveryFailure::Stalled)) => (Outcome::HalfOpenTimeout, None),
        Ok(Err(DeliveryFailure::Failed(side, error))) => failed(worker, side, &error),
        Err(RevocationReason(why)) => (Outcome::PolicyRevoked, Some(why)),
    };
    delivery::after_the_end(RelayOutcome { outcome, detail }, client, answered)
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

/// State that the kernel keeps of the upstream connection when its socket is closed after both sides have finished. Our
/// FIN was sent: `LAST_ACK` or `CLOSING` until it is acknowledged, then nothing, or a `TIME_WAIT` if ours was the
/// first.
fn hold_after(first: Side, upstream: &Socket) -> PortHold {
    let Ok(connection) = stream::connection(upstream) else { return PortHold::UNKNOWN };
    let timestamps = connection.timestamps;
    match first {
        _ if !connection.over => {
            PortHold::UntilGone { first_look: connection.round_trip.saturating_mul(2), timestamps }
        }
        Side::Upstream => PortHold::Free,
        Side::Client => hold_after_own_fin(timestamps),
    }
}

/// State that the kernel keeps after a reset: none, unless our FIN was sent before. Then the server's may arrive up to
/// the moment of the reset, and leave a `TIME_WAIT` that no reset ends.
pub(super) fn hold_after_reset(upstream: &Socket) -> PortHold {
    let Ok(connection) = stream::connection(upstream) else { return PortHold::UNKNOWN };
    hold_after_own_fin(connection.timestamps)
}

/// At most a `TIME_WAIT` is left, which a new connection takes over if both ends use timestamps.
fn hold_after_own_fin(timestamps: bool) -> PortHold {
    if timestamps { PortHold::Free } else { PortHold::UNKNOWN }
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
    use crate::sys::event_loop::EventLoop;
    use crate::sys::traffic_class::TrafficClass;
    use crate::sys::upstream;
    use socket2::{SockFilter, SockRef};
    use std::future::poll_fn;
    use std::net::{TcpListener, TcpStream};

    /// A connection to a server that has finished.
    fn finished_by_the_server() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let socket =
            upstream::connect(any, listener.local_addr().unwrap(), TrafficClass::default(), None).unwrap();
        let (server, _) = listener.accept().unwrap();
        stream::finish(&server).unwrap();
        (socket, server)
    }

    /// Hold on its port once the gateway has finished too and closed the connection.
    fn hold_of(socket: TcpStream, first: Side) -> PortHold {
        let rest = EventLoop::run(async |event_loop| {
            let upstream = Socket::new(socket, &event_loop).unwrap();
            poll_fn(|cx| upstream.poll_readable(cx)).await;
            stream::finish(&upstream).unwrap();
            upstream.ended_well();
            hold_after(first, &upstream)
        });
        rest.unwrap()
    }

    #[test]
    fn port_is_held_while_kernel_has_it() {
        for first in [Side::Upstream, Side::Client] {
            for unsent in [false, true] {
                let (socket, server) = finished_by_the_server();
                let (source, to) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
                // Simulates a long path: nothing arrives any more, not even our FIN (`BPF_RET | BPF_K`, of 0 bytes).
                let drop_all = SockFilter::new(0x06, 0, 0, 0);
                SockRef::from(&server).attach_filter(&[drop_all]).unwrap();
                while unsent && stream::write(&socket, &[0; 4096]).is_ok() {}
                let rest = hold_of(socket, first);
                assert!(
                    matches!(rest, PortHold::UntilGone { .. }),
                    "{first:?}: the kernel still has the port"
                );
                let (failure, _) = upstream::connect(source, to, TrafficClass::default(), None).unwrap_err();
                assert_eq!(failure, Failure::PortTaken);
            }
        }
    }

    #[test]
    fn timestamps_free_ports_from_time_wait() {
        assert_eq!(hold_after_own_fin(true), PortHold::Free);
        assert_eq!(hold_after_own_fin(false), PortHold::UNKNOWN);
    }
}
