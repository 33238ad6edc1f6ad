//! Inspection of relayed flows: the requests of an HTTP/1 connection, a second hello of a TLS one.

mod meter;
mod refusal;
mod terms;

pub(super) use refusal::outcome_of;

use super::admission::{Limit, Slot};
use super::flow::Flow;
use super::worker::{FlowSettings, Worker};
use crate::inspect::{Changed, Hellos, HttpExchange, Inspected, Protocol, Remainder, Then};
use crate::outcome::Outcome;
use crate::policy::{CertificateRule, Permit};
use crate::relay::{self, GuardVerdict, Guarded, NextStep, Side, TruncationReason};
use refusal::GuardRefusal;
use std::sync::Arc;
use std::task::Poll;
use terms::{FlowOwner, RequestTerms};

/// Guards one flow.
pub(super) struct PolicyGuard<'w> {
    follower: ProtocolFollower<'w>,
    /// True once monitor mode has waived a denial: all that follows passes too.
    is_free: bool,
    /// Requests let through, and the refusal, since they were last taken.
    requests: u32,
    refused: Option<Box<GuardRefusal>>,
    /// The tenant's inspections: bytes that are held back take a slot.
    inspections: Arc<Limit>,
}

enum ProtocolFollower<'w> {
    /// Boxed: it is three times as large, and most flows speak TLS.
    Requests(Box<JudgedRequests<'w>>),
    /// With the flow's owner if its tenant was in monitor mode. One that enforced then does so to the handshake's end.
    Hellos(Hellos, Option<Box<FlowOwner<'w>>>),
}

struct JudgedRequests<'w> {
    exchange: HttpExchange,
    terms: RequestTerms<'w>,
}

impl<'w> PolicyGuard<'w> {
    /// Returns the guard for a flow that was inspected and permitted, if it needs one.
    pub(super) fn of(
        inspected: &Inspected,
        permit: &Permit,
        worker: &'w Worker,
        flow: &Flow,
        monitors: bool,
        inspections: &Arc<Limit>,
    ) -> Option<Box<Guarded<Self>>> {
        let FlowSettings { max_hello, inspect_deadline, .. } = worker.settings;
        let follower = match inspected.protocol {
            Protocol::Tls => {
                let whose = if monitors { FlowOwner::of(worker, flow).map(Box::new) } else { None };
                let proved = permit.certificate() == CertificateRule::Require;
                let hellos = Hellos::after(inspected, max_hello).needing_server_hello(proved);
                ProtocolFollower::Hellos(hellos, whose)
            }
            Protocol::Http if permit.is_for_one_request() => {
                let terms =
                    RequestTerms::of(FlowOwner::of(worker, flow)?, inspected.name.clone(), permit, flow);
                ProtocolFollower::Requests(Box::new(JudgedRequests {
                    exchange: HttpExchange::new(max_hello),
                    terms,
                }))
            }
            Protocol::Http | Protocol::Other => return None,
        };
        Some(Box::new(Guarded::new(
            Self {
                follower,
                is_free: false,
                requests: 0,
                refused: None,
                inspections: Arc::clone(inspections),
            },
            inspect_deadline,
        )))
    }

    /// Takes the number of requests let through since the last call.
    fn take_requests(&mut self) -> u32 {
        std::mem::take(&mut self.requests)
    }

    /// Takes the refusal since the last call, waived or not.
    fn take_refused(&mut self) -> Option<Box<GuardRefusal>> {
        self.refused.take()
    }

    fn refuse(&mut self, refused: GuardRefusal) -> NextStep {
        let whose = match &self.follower {
            ProtocolFollower::Requests(requests) => Some(&requests.terms.whose),
            ProtocolFollower::Hellos(_, whose) => whose.as_deref(),
        };
        let waived = whose.is_some_and(|whose| whose.waives(refused.outcome));
        self.is_free = waived;
        self.refused = Some(Box::new(GuardRefusal { waived, ..refused }));
        if waived { NextStep::Read } else { NextStep::Stop }
    }
}

impl relay::Guard for PolicyGuard<'_> {
    type Place = Slot;

    fn place(&self) -> Option<Slot> {
        self.inspections.enter()
    }

    fn free(&self, side: Side) -> u64 {
        if self.is_free {
            return u64::MAX;
        }
        match (&self.follower, side) {
            (ProtocolFollower::Requests(requests), Side::Client) => requests.exchange.free_up(),
            (ProtocolFollower::Requests(requests), Side::Upstream) => requests.exchange.free_down(),
            (ProtocolFollower::Hellos(hellos, _), Side::Client) => hellos.free_up(),
            (ProtocolFollower::Hellos(..), Side::Upstream) => 0,
        }
    }

    fn passes(&mut self, side: Side, bytes: usize) {
        if self.is_free {
            return;
        }
        let bytes = bytes as u64;
        match (&mut self.follower, side) {
            (ProtocolFollower::Requests(requests), Side::Client) => requests.exchange.passed_up(bytes),
            (ProtocolFollower::Requests(requests), Side::Upstream) => requests.exchange.passed_down(bytes),
            (ProtocolFollower::Hellos(hellos, _), Side::Client) => hellos.passed_up(bytes),
            (ProtocolFollower::Hellos(..), Side::Upstream) => {}
        }
    }

    fn judge(&mut self, bytes: &mut [u8]) -> GuardVerdict {
        let all = bytes.len();
        let (bytes, then) = match &mut self.follower {
            ProtocolFollower::Requests(followed) => followed.exchange.client(bytes, |asked| {
                followed.terms.judge(asked)?;
                self.requests += 1;
                Ok(())
            }),
            ProtocolFollower::Hellos(hellos, _) => hellos.client(bytes, |changed| {
                let outcome = match changed {
                    Changed::Name | Changed::Ech => Outcome::HelloChanged,
                    Changed::NoHandshake => Outcome::CertificateInvalid,
                };
                GuardRefusal::bare(outcome, Some(changed.as_str()))
            }),
        };
        let refused = match then {
            Then::More => return GuardVerdict { bytes, next: NextStep::Read },
            Then::Wait => return GuardVerdict { bytes, next: NextStep::Wait },
            Then::Denied(refused) => refused,
            Then::Unclear(unclear) => unclear.into(),
        };
        let next = self.refuse(refused);
        GuardVerdict { bytes: if next == NextStep::Read { all } else { bytes }, next }
    }

    fn observe_server(&mut self, bytes: &[u8]) {
        match &mut self.follower {
            ProtocolFollower::Requests(requests) => requests.exchange.server(bytes),
            ProtocolFollower::Hellos(hellos, _) => hellos.server(bytes),
        }
    }

    fn server_finished(&mut self, taken: u64) {
        match &mut self.follower {
            ProtocolFollower::Requests(requests) => requests.exchange.server_finished(taken),
            // Its hellos wait for nothing.
            ProtocolFollower::Hellos(..) => {}
        }
    }

    fn cut_off(&mut self, how: TruncationReason) -> NextStep {
        let malformed = match self.follower {
            ProtocolFollower::Requests(_) => Outcome::MalformedHttp,
            ProtocolFollower::Hellos(..) => Outcome::MalformedTls,
        };
        self.refuse(match how {
            TruncationReason::Late => GuardRefusal::bare(Outcome::InspectTimeout, None),
            TruncationReason::Finished => {
                GuardRefusal::bare(malformed, Some("the client finished in the middle of it"))
            }
            TruncationReason::Crowded => GuardRefusal::bare(
                Outcome::InspectionBusy,
                Some("a later request, or a second hello, came in pieces and found no place"),
            ),
        })
    }

    fn pending_answer(&self) -> Poll<bool> {
        match &self.follower {
            ProtocolFollower::Requests(requests) => match requests.exchange.remainder() {
                Remainder::Wait => Poll::Pending,
                Remainder::Answer => Poll::Ready(true),
                Remainder::Nothing => Poll::Ready(false),
            },
            // In the middle of a handshake the client does not accept a message of ours as the server's.
            ProtocolFollower::Hellos(..) => Poll::Ready(false),
        }
    }

    fn is_answered(&self) -> Option<bool> {
        match &self.follower {
            ProtocolFollower::Requests(requests) if !self.is_free => requests.exchange.is_answered(),
            ProtocolFollower::Requests(_) | ProtocolFollower::Hellos(..) => None,
        }
    }

    fn is_over(&self) -> bool {
        match &self.follower {
            ProtocolFollower::Requests(_) => false,
            ProtocolFollower::Hellos(hellos, _) => hellos.are_over(),
        }
    }
}
