//! Inspection of relayed flows: the requests of an HTTP/1 connection, a second hello of a TLS one.

mod terms;

use super::flow::Flow;
use super::worker::{Settings, Worker};
use crate::hostname::Hostname;
use crate::inspect::{Changed, Exchange, Hellos, Inspected, Malformed, Protocol, Remainder, Then, Unclear};
use crate::outcome::Outcome;
use crate::policy::{CertificateRule, Permit};
use crate::relay::{self, CutOff, Guarded, Next, Passage, Side};
use std::sync::Arc;
use std::task::Poll;
use terms::{Terms, Whose};

/// Guards one flow.
pub(super) struct Guard<'w> {
    follower: Follower<'w>,
    /// True once monitor mode has waived a denial: all that follows passes too.
    is_free: bool,
    /// Requests let through, and the refusal, since they were last taken.
    requests: u32,
    refused: Option<Box<Refused>>,
}

enum Follower<'w> {
    /// Boxed: it is three times as large, and most flows speak TLS.
    Requests(Box<Requests<'w>>),
    /// With the flow's owner if its tenant was in monitor mode. One that enforced then does so to the handshake's end.
    Hellos(Hellos, Option<Box<Whose<'w>>>),
}

struct Requests<'w> {
    exchange: Exchange,
    terms: Terms<'w>,
}

/// Reason why a permitted flow ends while it is relayed.
pub(super) struct Refused {
    pub(super) outcome: Outcome,
    pub(super) detail: Option<&'static str>,
    /// The rule that denied a later request.
    pub(super) rule: Option<Arc<str>>,
    /// The name that a later request asked for.
    pub(super) hostname: Option<Hostname>,
    /// True if monitor mode waived it: it passed, with all that followed.
    pub(super) waived: bool,
}

impl<'w> Guard<'w> {
    /// Returns the guard for a flow that was inspected and permitted, if it needs one.
    pub(super) fn of(
        inspected: &Inspected,
        permit: &Permit,
        worker: &'w Worker,
        flow: &Flow,
        monitors: bool,
    ) -> Option<Box<Guarded<Self>>> {
        let Settings { max_hello, inspect_deadline, .. } = worker.settings;
        let follower = match inspected.protocol {
            Protocol::Tls => {
                let whose = if monitors { Whose::of(worker, flow).map(Box::new) } else { None };
                let proved = permit.certificate() == CertificateRule::Require;
                let hellos = Hellos::after(inspected, max_hello).needing_server_hello(proved);
                Follower::Hellos(hellos, whose)
            }
            Protocol::Http if permit.is_for_one_request() => {
                let terms = Terms::of(Whose::of(worker, flow)?, inspected.name.clone(), permit, flow);
                Follower::Requests(Box::new(Requests { exchange: Exchange::new(max_hello), terms }))
            }
            Protocol::Http | Protocol::Other => return None,
        };
        Some(Box::new(Guarded::new(
            Self { follower, is_free: false, requests: 0, refused: None },
            inspect_deadline,
        )))
    }

    /// Takes the number of requests let through since the last call.
    pub(super) fn take_requests(&mut self) -> u32 {
        std::mem::take(&mut self.requests)
    }

    /// Takes the refusal since the last call, waived or not.
    pub(super) fn take_refused(&mut self) -> Option<Box<Refused>> {
        self.refused.take()
    }

    fn refuse(&mut self, refused: Refused) -> Next {
        let whose = match &self.follower {
            Follower::Requests(requests) => Some(&requests.terms.whose),
            Follower::Hellos(_, whose) => whose.as_deref(),
        };
        let waived = whose.is_some_and(|whose| whose.waives(refused.outcome));
        self.is_free = waived;
        self.refused = Some(Box::new(Refused { waived, ..refused }));
        if waived { Next::Read } else { Next::Stop }
    }
}

impl Refused {
    fn bare(outcome: Outcome, detail: Option<&'static str>) -> Self {
        Self { outcome, detail, rule: None, hostname: None, waived: false }
    }
}

impl From<Unclear> for Refused {
    fn from(unclear: Unclear) -> Self {
        let (outcome, detail) = outcome_of(unclear);
        Self::bare(outcome, detail)
    }
}

/// Outcome and detail of a flow whose inspection failed.
pub(super) fn outcome_of(unclear: Unclear) -> (Outcome, Option<&'static str>) {
    match unclear {
        Unclear::ClientLeft => (Outcome::ClientLeft, None),
        Unclear::TimedOut(_) => (Outcome::InspectTimeout, None),
        Unclear::TooLarge(_) => (Outcome::HelloTooLarge, None),
        Unclear::Malformed(Malformed { protocol: Protocol::Http, reason }) => {
            (Outcome::MalformedHttp, Some(reason))
        }
        Unclear::Malformed(Malformed { reason, .. }) => (Outcome::MalformedTls, Some(reason)),
    }
}

impl relay::Guard for Guard<'_> {
    fn free(&self, side: Side) -> u64 {
        if self.is_free {
            return u64::MAX;
        }
        match (&self.follower, side) {
            (Follower::Requests(requests), Side::Client) => requests.exchange.free_up(),
            (Follower::Requests(requests), Side::Upstream) => requests.exchange.free_down(),
            (Follower::Hellos(hellos, _), Side::Client) => hellos.free_up(),
            (Follower::Hellos(..), Side::Upstream) => 0,
        }
    }

    fn passes(&mut self, side: Side, bytes: usize) {
        if self.is_free {
            return;
        }
        let bytes = bytes as u64;
        match (&mut self.follower, side) {
            (Follower::Requests(requests), Side::Client) => requests.exchange.passed_up(bytes),
            (Follower::Requests(requests), Side::Upstream) => requests.exchange.passed_down(bytes),
            (Follower::Hellos(hellos, _), Side::Client) => hellos.passed_up(bytes),
            (Follower::Hellos(..), Side::Upstream) => {}
        }
    }

    fn judge(&mut self, bytes: &mut [u8]) -> Passage {
        let all = bytes.len();
        let (bytes, then) = match &mut self.follower {
            Follower::Requests(followed) => followed.exchange.client(bytes, |asked| {
                followed.terms.judge(asked)?;
                self.requests += 1;
                Ok(())
            }),
            Follower::Hellos(hellos, _) => hellos.client(bytes, |changed| {
                let outcome = match changed {
                    Changed::Name | Changed::Ech => Outcome::HelloChanged,
                    Changed::NoHandshake => Outcome::CertificateInvalid,
                };
                Refused::bare(outcome, Some(changed.as_str()))
            }),
        };
        let refused = match then {
            Then::More => return Passage { bytes, next: Next::Read },
            Then::Wait => return Passage { bytes, next: Next::Wait },
            Then::Denied(refused) => refused,
            Then::Unclear(unclear) => unclear.into(),
        };
        let next = self.refuse(refused);
        Passage { bytes: if next == Next::Read { all } else { bytes }, next }
    }

    fn heed(&mut self, bytes: &[u8]) {
        match &mut self.follower {
            Follower::Requests(requests) => requests.exchange.server(bytes),
            Follower::Hellos(hellos, _) => hellos.server(bytes),
        }
    }

    fn server_finished(&mut self, taken: u64) {
        match &mut self.follower {
            Follower::Requests(requests) => requests.exchange.server_finished(taken),
            // Its hellos wait for nothing.
            Follower::Hellos(..) => {}
        }
    }

    fn cut_off(&mut self, how: CutOff) -> Next {
        let malformed = match self.follower {
            Follower::Requests(_) => Outcome::MalformedHttp,
            Follower::Hellos(..) => Outcome::MalformedTls,
        };
        self.refuse(match how {
            CutOff::Late => Refused::bare(Outcome::InspectTimeout, None),
            CutOff::Finished => Refused::bare(malformed, Some("the client finished in the middle of it")),
        })
    }

    fn farewell(&self) -> Poll<bool> {
        match &self.follower {
            Follower::Requests(requests) => match requests.exchange.remainder() {
                Remainder::Wait => Poll::Pending,
                Remainder::Answer => Poll::Ready(true),
                Remainder::Nothing => Poll::Ready(false),
            },
            // In the middle of a handshake the client does not accept a message of ours as the server's.
            Follower::Hellos(..) => Poll::Ready(false),
        }
    }

    fn is_answered(&self) -> Option<bool> {
        match &self.follower {
            Follower::Requests(requests) if !self.is_free => requests.exchange.is_answered(),
            Follower::Requests(_) | Follower::Hellos(..) => None,
        }
    }

    fn is_over(&self) -> bool {
        match &self.follower {
            Follower::Requests(_) => false,
            Follower::Hellos(hellos, _) => hellos.are_over(),
        }
    }
}
