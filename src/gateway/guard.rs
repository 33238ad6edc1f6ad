//! What is looked at while a flow is relayed: the requests of an HTTP/1 connection, a second hello of a TLS one.

use super::candidate::word::Word;
use super::candidate::{Candidate, Shown, Subject};
use super::flow::Flow;
use super::flow_table::Revoked;
use super::meters::{Counted, Meters};
use super::snapshot::Snapshot;
use super::worker::{Gateway, Worker};
use crate::addr::{ClientAddr, OriginalDestination};
use crate::clock;
use crate::hostname::{AskedName, Hostname};
use crate::inspect::{Exchange, Hellos, Inspected, Malformed, Protocol, Remainder, Then, Unclear};
use crate::outcome::Outcome;
use crate::policy::{self, CertificateRule, Decision, Destination, Permit, Seen};
use crate::relay::{self, CutOff, Guarded, Next, Passage, Side};
use jiff::Timestamp;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Guards one flow.
pub(super) struct Guard {
    follower: Follower,
    /// Its tenant is in monitor mode: what may not pass is noted, and passes with all that follows.
    monitors: bool,
    refused: Option<Box<Refused>>,
}

enum Follower {
    /// In a box, for it is three times as large, and most flows speak TLS.
    Requests(Box<Requests>),
    Hellos(Hellos),
}

struct Requests {
    exchange: Exchange,
    terms: Terms,
}

/// What the requests of a flow are judged by.
struct Terms {
    /// Each request is judged by what is in force then.
    gateway: Arc<Gateway>,
    meters: Meters,
    client: ClientAddr,
    tenant: Arc<str>,
    to: OriginalDestination,
    /// What the first asked for, which is permitted.
    first: AskedName,
    /// The address was chosen for that name, or found to be its own.
    bound: bool,
    /// The first was judged.
    is_later: bool,
}

/// Why a flow that was let out ends all the same.
pub(super) struct Refused {
    pub(super) outcome: Outcome,
    pub(super) detail: Option<&'static str>,
    /// The rule that denied a later request.
    pub(super) rule: Option<Arc<str>>,
    /// The name that a later request asked for.
    pub(super) hostname: Option<Hostname>,
    /// In monitor mode, the flow went on in spite of it.
    pub(super) waived: bool,
}

impl Guard {
    /// What a flow needs that was inspected and permitted.
    pub(super) fn of(
        inspected: &Inspected,
        permit: &Permit,
        worker: &Worker,
        flow: &Flow,
        monitors: bool,
    ) -> Option<Box<Guarded<Self>>> {
        if permit.would_deny().is_some() {
            return None; // there is nothing left to find
        }
        let (bounds, to) = (worker.bounds, flow.record.destination);
        let follower = match inspected.protocol {
            Protocol::Tls => Follower::Hellos(Hellos::after(inspected, bounds.max_hello)),
            Protocol::Http if permit.is_for_one_request() => {
                let (gateway, client) = (Arc::clone(&worker.gateway), flow.record.client);
                let (tenant, first) = (flow.record.tenant.clone()?, inspected.name.clone());
                let (meters, bound) = (flow.meters().clone(), binds(permit));
                let terms = Terms { gateway, meters, client, tenant, to, first, bound, is_later: false };
                Follower::Requests(Box::new(Requests { exchange: Exchange::new(bounds.max_hello), terms }))
            }
            Protocol::Http | Protocol::Other => return None,
        };
        Some(Box::new(Guarded::new(Self { follower, monitors, refused: None }, bounds.patience)))
    }

    /// Why the flow ended, if the guard ended it.
    pub(super) fn into_refused(self) -> Option<Refused> {
        self.refused.map(|refused| Refused { waived: self.monitors, ..*refused })
    }

    fn refuse(&mut self, refused: Refused) -> Next {
        self.refused = Some(Box::new(refused));
        if self.monitors { Next::Read } else { Next::Stop }
    }

    /// Whether monitor mode has let something pass.
    fn is_free(&self) -> bool {
        self.monitors && self.refused.is_some()
    }
}

/// What holds for every hello and request head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) max_hello: usize,
    pub(super) patience: Duration,
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

/// How a flow ends where it is not clear what the client wants.
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

/// Whether the address that the flow goes to is one for its name alone.
fn binds(permit: &Permit) -> bool {
    let by_certificate = permit.certificate() == CertificateRule::Require;
    match permit.destination() {
        Destination::Original | Destination::Observe => by_certificate,
        Destination::Verify | Destination::Resolve => true,
    }
}

impl Terms {
    /// Whether a request may go where the flow goes.
    fn judge(&mut self, asked: &AskedName) -> Result<(), Refused> {
        let snapshot = self.gateway.snapshot.load();
        let decided = self.decide(&snapshot, asked);
        // The first was compared with its flow.
        if std::mem::replace(&mut self.is_later, true)
            && let Some(candidate) = &snapshot.candidate
        {
            self.compare(&snapshot, candidate, asked);
        }
        decided
    }

    fn decide(&self, snapshot: &Snapshot, asked: &AskedName) -> Result<(), Refused> {
        if *asked == self.first {
            return Ok(());
        }
        let tenant = snapshot.still_of(self.client, &self.tenant);
        let Some(ruling) = tenant.and_then(|tenant| snapshot.lead(self.client, tenant)) else {
            return Err(Refused::bare(Outcome::PolicyRevoked, Some(Revoked::OF_ANOTHER_TENANT.0)));
        };
        let decision = ruling.rules.decide(asked, false, self.to);
        let (outcome, rule) = match decision {
            // Nobody has asked whether the address is this name's, too.
            Decision::Permit(permit) if self.bound || binds(&permit) => {
                (Outcome::DestinationMismatch, permit.rule().cloned())
            }
            Decision::Permit(_) => return Ok(()),
            Decision::Denial(denial) => (denial.outcome, denial.rule),
        };
        let (hostname, detail) = match asked {
            AskedName::Valid(name) => (Some(name.clone()), None),
            AskedName::Invalid(why) => (None, Some(why.as_str())),
            AskedName::Absent => (None, None),
        };
        Err(Refused { outcome, detail, rule, hostname, waived: false })
    }

    /// Notes what a candidate would change for a request.
    fn compare(&self, snapshot: &Snapshot, candidate: &Candidate, asked: &AskedName) {
        let Some(tenant) = snapshot.still_of(self.client, &self.tenant) else { return };
        let (seen, time) =
            (Seen::Asked { name: asked.clone(), ech: false, unframed: false }, clock::timestamp());
        let running = self.word(&tenant.policy, &seen, time);
        let word = match candidate.tenant_of(self.client) {
            Some(ruling) => self.word(ruling.rules, &seen, time),
            None => Word::denied(Outcome::UnknownTenant),
        };
        let hostname = match asked {
            AskedName::Valid(name) => Some(name),
            AskedName::Invalid(_) | AskedName::Absent => None,
        };
        let (client, destination) = (self.client, self.to);
        let shown = Shown { what: Subject::Request, time, client, destination, hostname };
        let leads = candidate.share_of(self.client).is_some();
        let change = candidate.note(Some(&tenant.policy), Some(&running), Some(&word), &shown, leads);
        self.meters.count(Counted::Candidate(change));
    }

    /// What one policy says of a request in the end.
    fn word(&self, rules: &policy::Tenant, seen: &Seen, time: Timestamp) -> Word {
        let decision = rules.judge(seen, self.to, time);
        let first = |asked: &Seen| matches!(asked, Seen::Asked { name, .. } if *name == self.first);
        let bound = || match rules.decide(&self.first, false, self.to) {
            Decision::Permit(permit) => binds(&permit),
            Decision::Denial(_) => false,
        };
        let asks_anew = |permit: &Permit| !first(seen) && (binds(permit) || bound());
        match &decision {
            Decision::Permit(permit) if !rules.mode.monitors(time) && asks_anew(permit) => {
                Word { denied: Some(Outcome::DestinationMismatch), ..Word::from(&decision) }
            }
            Decision::Permit(_) | Decision::Denial(_) => Word::from(&decision),
        }
    }
}

impl relay::Guard for Guard {
    fn free(&self, side: Side) -> u64 {
        if self.is_free() {
            return u64::MAX;
        }
        match (&self.follower, side) {
            (Follower::Requests(requests), Side::Client) => requests.exchange.free_up(),
            (Follower::Requests(requests), Side::Upstream) => requests.exchange.free_down(),
            (Follower::Hellos(hellos), Side::Client) => hellos.free_up(),
            (Follower::Hellos(_), Side::Upstream) => 0,
        }
    }

    fn passes(&mut self, side: Side, bytes: usize) {
        if self.is_free() {
            return;
        }
        let bytes = bytes as u64;
        match (&mut self.follower, side) {
            (Follower::Requests(requests), Side::Client) => requests.exchange.passed_up(bytes),
            (Follower::Requests(requests), Side::Upstream) => requests.exchange.passed_down(bytes),
            (Follower::Hellos(hellos), Side::Client) => hellos.passed_up(bytes),
            (Follower::Hellos(_), Side::Upstream) => {}
        }
    }

    fn judge(&mut self, bytes: &[u8]) -> Passage {
        let (all, mut requests) = (bytes.len(), 0);
        let (bytes, then) = match &mut self.follower {
            Follower::Requests(followed) => followed.exchange.client(bytes, |asked| {
                followed.terms.judge(asked)?;
                requests += 1;
                Ok(())
            }),
            Follower::Hellos(hellos) => {
                hellos.client(bytes, |changed| Refused::bare(Outcome::HelloChanged, Some(changed.as_str())))
            }
        };
        let refused = match then {
            Then::More => return Passage { bytes, requests, next: Next::Read },
            Then::Wait => return Passage { bytes, requests, next: Next::Wait },
            Then::Denied(refused) => refused,
            Then::Unclear(unclear) => unclear.into(),
        };
        let next = self.refuse(refused);
        Passage { bytes: if next == Next::Read { all } else { bytes }, requests, next }
    }

    fn heed(&mut self, bytes: &[u8]) {
        match &mut self.follower {
            Follower::Requests(requests) => requests.exchange.server(bytes),
            Follower::Hellos(hellos) => hellos.server(bytes),
        }
    }

    fn server_finished(&mut self) {
        match &mut self.follower {
            Follower::Requests(requests) => requests.exchange.server_finished(),
            // Its hellos wait for nothing.
            Follower::Hellos(_) => {}
        }
    }

    fn cut_off(&mut self, how: CutOff) -> Next {
        let malformed = match self.follower {
            Follower::Requests(_) => Outcome::MalformedHttp,
            Follower::Hellos(_) => Outcome::MalformedTls,
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
            // In the middle of a handshake the client takes no word of ours for the server's.
            Follower::Hellos(_) => Poll::Ready(false),
        }
    }

    fn is_over(&self) -> bool {
        match &self.follower {
            Follower::Requests(_) => false,
            Follower::Hellos(hellos) => hellos.are_over(),
        }
    }
}
