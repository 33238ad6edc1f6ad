//! How a flow ends: what its client is told, and how its upstream port rests.

use super::flow::Flow;
use super::flow_table::Revoked;
use super::record::Verdict;
use super::refusal;
use super::upstream::Upstream;
use super::worker::Worker;
use crate::egress::{Rest, UpstreamEnd};
use crate::outcome::Outcome;
use crate::relay::{self, End, Farewell, Side};
use crate::sys::failure::Failure;
use crate::sys::socket::Socket;
use crate::sys::stream::{self, Closing};
use std::io;

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

impl From<Revoked> for Ended {
    fn from(Revoked(why): Revoked) -> Self {
        Self { outcome: Outcome::PolicyRevoked, detail: Some(why) }
    }
}

/// Answers the client of a flow that ended before it was relayed. One that is revoked before it could be told that it was
/// refused ends as refused.
pub(super) async fn end_early(
    worker: &Worker,
    client: &Socket,
    flow: &mut Flow,
    Ended { outcome, detail }: Ended,
) {
    if flow.outcome().is_some() {
        return;
    }
    flow.ends(outcome);
    flow.record.detail = detail.or(flow.record.detail);
    if outcome.is_denial() {
        flow.record.verdict.get_or_insert(Verdict::Deny);
        let asked = flow.record.hostname.as_ref();
        // In a box, for flows are to be small.
        Box::pin(refusal::answer(worker, client, &flow.record, asked, outcome)).await;
    }
}

/// Settles what the upstream port needs before it can be used again. Every way out but a good end resets the upstream
/// socket, and then its port is free at once: that is what a lease starts with, but see [`rest_after_reset`].
pub(super) async fn finish(
    worker: &Worker,
    client: &Socket,
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
            flow.record.detail = detail.or(flow.record.detail);
            let other = if side == Side::Client { leg } else { client };
            // In a box, for flows are to be small, and few end so.
            Box::pin(relay::settle(other)).await;
            outcome
        }
    }
}

/// Ends a flow whose client sent what may not pass. Dropping the server's leg resets it.
pub(super) async fn stop(
    worker: &Worker,
    client: &Socket,
    outcome: Outcome,
    end: End,
    flow: &Flow,
) -> Outcome {
    match end {
        End::Stopped(Farewell::Answer) => {
            let asked = flow.record.denied_hostname.as_ref();
            refusal::answer(worker, client, &flow.record, asked, outcome).await;
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

/// When Linux gives the 4-tuple back after both sides have finished.
fn rest_after(first: Side, upstream: &Socket) -> Rest {
    let Ok(connection) = stream::connection(upstream) else { return Rest::Unknown };
    if connection.unsent {
        // The socket lives on until a server that reads slowly, or not at all, has taken the rest.
        return Rest::Unknown;
    }
    let end = match (first, connection.closing) {
        // The relay found the client's end first, and the server's FIN was there all the same when ours was sent.
        (Side::Upstream, _) | (Side::Client, Some(Closing::PeerFirst)) => UpstreamEnd::ServerFirst,
        (Side::Client, Some(Closing::Crossed)) => UpstreamEnd::Crossed,
        (Side::Client, None) => UpstreamEnd::GatewayFirst,
    };
    Rest::after(end, connection.timestamps, connection.round_trip)
}

/// When Linux gives the 4-tuple back of a flow that is broken off after the client's FIN was passed on: at once, by the
/// reset. But if the server's has come too, what is left is a TIME_WAIT, of which the socket is no part any more.
pub(super) fn rest_after_reset(upstream: &Socket) -> Rest {
    let Ok(connection) = stream::connection(upstream) else { return Rest::Unknown };
    let was_reset = || upstream.has_failed() || !matches!(upstream.take_error(), Ok(None));
    if !connection.over || was_reset() {
        return Rest::Free;
    }
    Rest::after(UpstreamEnd::GatewayFirst, connection.timestamps, connection.round_trip)
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
    use crate::sys::upstream;
    use socket2::{SockFilter, SockRef};
    use std::future::poll_fn;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    /// A connection to a server that has finished.
    fn finished_by_the_server() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let socket = upstream::connect(any, listener.local_addr().unwrap(), None).unwrap();
        let (server, _) = listener.accept().unwrap();
        stream::finish(&server).unwrap();
        (socket, server)
    }

    /// How its port rests once the gateway has finished too; the connection is closed by then.
    fn rest_of(socket: TcpStream, first: Side) -> Rest {
        let rest = EventLoop::run(async |event_loop| {
            let upstream = Socket::new(socket, &event_loop).unwrap();
            poll_fn(|cx| upstream.poll_readable(cx)).await;
            stream::finish(&upstream).unwrap();
            upstream.ended_well();
            rest_after(first, &upstream)
        });
        rest.unwrap()
    }

    #[test]
    fn a_port_rests_long_where_the_server_has_yet_to_take_what_was_written() {
        let (socket, _server) = finished_by_the_server();
        while stream::write(&socket, &[0; 4096]).is_ok() {}
        let rest = rest_of(socket, Side::Upstream);
        assert!(rest.duration() > Duration::from_mins(1), "{rest:?}");
    }

    #[test]
    fn a_port_rests_until_its_last_ack_whoever_was_found_to_finish_first() {
        for first in [Side::Upstream, Side::Client] {
            let (socket, server) = finished_by_the_server();
            let (source, to) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
            // As if the way were long: nothing arrives any more, our FIN neither (`BPF_RET | BPF_K`, of 0 bytes).
            let drop_all = SockFilter::new(0x06, 0, 0, 0);
            SockRef::from(&server).attach_filter(&[drop_all]).unwrap();
            let rest = rest_of(socket, first);
            assert!(!rest.duration().is_zero(), "{first:?}: the kernel still has the port");
            let (failure, _) = upstream::connect(source, to, None).unwrap_err();
            assert_eq!(failure, Failure::PortTaken);
        }
    }
}
