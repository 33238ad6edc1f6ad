//! Candidate policy: evaluated on every flow as a shadow of the one in force, and enforced for a share of clients on
//! request.

mod canary;
mod tally;
pub(super) mod word;

pub use canary::{FEWEST, Terms, WINDOW};
pub use tally::{Changes, Example, Kept, Kind, Tally, Times};
pub(super) use tally::{Shown, Subject};

use super::flow::Flow;
use super::meters::Counted;
use super::snapshot::Verification;
use crate::addr::ClientAddr;
use crate::clock;
use crate::outcome::Outcome;
use crate::policy::{Policy, Seen, Tenant};
use crate::verify::Verifier;
use canary::Watch;
use jiff::Timestamp;
use serde::Serialize;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use word::Word;

/// Change that a candidate would make for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// None: both let it out, or both deny it.
    Same,
    /// It is let out, and the candidate would deny it.
    WouldDeny,
    /// It is denied, and the candidate would let it out.
    WouldAllow,
    /// Unknown: one policy decides without inspection, which the other needs.
    Unjudged,
}

impl Change {
    /// All variants; `change as usize` is the index here.
    pub const ALL: [Self; 4] = [Self::Same, Self::WouldDeny, Self::WouldAllow, Self::Unjudged];

    /// Identifier in the flow log and the metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::WouldDeny => "would_deny",
            Self::WouldAllow => "would_allow",
            Self::Unjudged => "unjudged",
        }
    }
}

/// A loaded candidate. Its pools and limits are not used: flows leave from those in force.
pub struct Candidate {
    policy: Policy,
    /// Handles for its tenants' checks of names, by the tenant's index; `None` without such rules.
    verifications: Box<[Option<Arc<Verification>>]>,
    /// Percentage of clients that it is enforced for; 0 without terms, and after a rollback.
    share: AtomicU8,
    state: Mutex<State>,
}

struct State {
    terms: Option<Terms>,
    tally: Tally,
    watch: Watch,
    fell_back: Option<FellBack>,
}

/// Rollback of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FellBack {
    /// Time of the rollback.
    pub time: Timestamp,
    /// Flows of the canary's clients that only the candidate denied, within [`WINDOW`].
    pub denied: u32,
    /// Flows of the canary's clients in all.
    pub flows: u32,
}

impl Candidate {
    /// Creates a candidate that is not enforced; with the handles for its tenants' checks, in the tenants' order.
    pub fn new(policy: Policy, verifications: Vec<Option<Arc<Verification>>>) -> Self {
        let watch = Watch::new(clock::now());
        let state = State { terms: None, tally: Tally::default(), watch, fell_back: None };
        let (verifications, state) = (verifications.into(), Mutex::new(state));
        Self { policy, verifications, share: AtomicU8::new(0), state }
    }

    /// Enforces it by these terms from now on; for nobody if `None`. Keeps the tally, and restarts the window of
    /// denials.
    pub fn enforce(&self, terms: Option<Terms>) {
        let mut state = self.state();
        (state.terms, state.fell_back, state.watch) = (terms, None, Watch::new(clock::now()));
        self.share.store(terms.map_or(0, |terms| terms.percent), Ordering::Relaxed);
    }

    /// Verifier of its rules' checks; `None` if they have none.
    pub fn verifier(&self) -> Option<&Arc<Verifier>> {
        self.verifications.iter().flatten().map(|verification| &verification.verifier).next()
    }

    /// True while a lookup for its rules runs: if the candidate is dropped then, a worker drops the names.
    pub fn is_asking(&self) -> bool {
        self.verifications.iter().flatten().any(|verification| Arc::strong_count(verification) > 1)
    }

    /// Terms that it is enforced by.
    pub fn terms(&self) -> Option<Terms> {
        self.state().terms
    }

    /// True if it is enforced for any client now.
    pub fn leads(&self) -> bool {
        self.share.load(Ordering::Relaxed) > 0
    }

    /// Returns a copy of the tally. Flows wait meanwhile, which is why its size is bounded.
    pub fn tally(&self) -> Tally {
        self.state().tally.clone()
    }

    /// Its rollback, if it was rolled back.
    pub fn fell_back(&self) -> Option<FellBack> {
        self.state().fell_back
    }

    /// Percentage of clients that it is enforced for now, if the client is one of them.
    pub fn share_of(&self, client: ClientAddr) -> Option<u8> {
        let share = self.share.load(Ordering::Relaxed);
        canary::covers(share, client).then_some(share)
    }

    /// The candidate's rules for a client, with the handles for their checks.
    pub fn tenant_of(&self, client: ClientAddr) -> Option<Ruling<'_>> {
        let rules = self.policy.tenant_of(client)?;
        let verification = self.verifications.get(rules.index).and_then(Option::as_ref);
        Some(Ruling { rules, verification })
    }

    /// Evaluation of the candidate for a client's flow.
    pub(super) fn trial(self: &Arc<Self>, client: ClientAddr) -> Trial {
        let (tenant, verification) = match self.tenant_of(client) {
            Some(Ruling { rules, verification }) => (Some(Arc::clone(rules)), verification.cloned()),
            None => (None, None),
        };
        Trial { leads: self.share_of(client).is_some(), candidate: Arc::clone(self), tenant, verification }
    }

    /// Ignores poisoning: nothing panics while holding the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rules for a flow, with the handles for their checks.
#[derive(Clone, Copy)]
pub struct Ruling<'a> {
    /// The rules.
    pub rules: &'a Arc<Tenant>,
    /// Present if a rule has checks of names.
    pub verification: Option<&'a Arc<Verification>>,
}

/// Evaluation of a candidate for one flow.
pub(super) struct Trial {
    candidate: Arc<Candidate>,
    /// The candidate's tenant for the client.
    tenant: Option<Arc<Tenant>>,
    verification: Option<Arc<Verification>>,
    /// True if it is enforced for this flow, and the policy in force is only compared.
    leads: bool,
}

/// Tenant name of clients that belong to none in force.
const NOBODY: &str = "unknown";

impl Trial {
    /// Rules enforced for the flow; `None` if the candidate's are and it has no tenant for the client.
    pub(super) fn lead<'a>(&'a self, in_force: Ruling<'a>) -> Option<Ruling<'a>> {
        if !self.leads {
            return Some(in_force);
        }
        let rules = self.tenant.as_ref()?;
        Some(Ruling { rules, verification: self.verification.as_ref() })
    }

    /// Records what the candidate would change for a flow that was just decided by what was `seen`; `None` if it was
    /// not inspected.
    pub(super) fn compare(
        &self,
        in_force: Option<&Tenant>,
        flow: &mut Flow,
        seen: Option<&Seen>,
        decided: Word,
    ) {
        let (to, time) = (flow.record.destination, flow.record.time);
        // Without a tenant in force there is no pool to leave from, so the candidate cannot be enforced.
        let leads = self.leads && in_force.is_some();
        let other = if leads { in_force } else { self.tenant.as_deref() };
        let other = match other {
            Some(tenant) => {
                tenant.judge_aside(seen, to, time).map(|decision| Word::beside(&decision, &decided))
            }
            None => Some(Word::denied(Outcome::UnknownTenant)),
        };
        let (running, candidate) = if leads { (other, Some(decided)) } else { (Some(decided), other) };
        let shown = Shown {
            what: Subject::Flow,
            time,
            client: flow.record.client,
            destination: to,
            hostname: flow.record.hostname.as_ref(),
        };
        let change = self.candidate.note(in_force, running.as_ref(), candidate.as_ref(), &shown, leads);
        flow.record.candidate = Some(change);
        flow.record.canary = leads;
        flow.meters().count(Counted::Candidate(change));
    }
}

impl Candidate {
    /// Counts the two policies' decisions on a flow, or on a later request; `leads` if the candidate's is enforced.
    pub(super) fn note(
        &self,
        in_force: Option<&Tenant>,
        running: Option<&Word>,
        candidate: Option<&Word>,
        shown: &Shown<'_>,
        leads: bool,
    ) -> Change {
        let (change, reason) = word::difference(running, candidate);
        let tenant = in_force.map_or_else(|| NOBODY.into(), |tenant| Arc::clone(&tenant.name));
        let mut state = self.state();
        if let Some(reason) = reason {
            let rule = |word: Option<&Word>| word.and_then(|word| word.rule.clone());
            let (rule, candidate_rule) = (rule(running), rule(candidate));
            state.tally.keep(Kind { tenant, change, reason, rule, candidate_rule }, shown);
        } else {
            state.tally.count(&tenant, change, shown.what);
        }
        if leads {
            // If the decision of the policy in force is unknown, it counts as a permit.
            let denies = |word: Option<&Word>| word.is_some_and(|word| word.denied.is_some());
            let newly_denied = denies(candidate) && !denies(running);
            // A denied request ends its flow; requests that pass were counted with the flow.
            if newly_denied || shown.what == Subject::Flow {
                self.watch(&mut state, newly_denied, shown.time);
            }
        }
        change
    }

    /// Counts a flow of the canary's clients, and rolls back if there are now too many denials.
    fn watch(&self, state: &mut State, newly_denied: bool, time: Timestamp) {
        let Some(terms) = state.terms.filter(|_| self.leads()) else { return };
        if let Some((denied, flows)) = state.watch.note(newly_denied, clock::now(), terms.max_denials) {
            state.fell_back = Some(FellBack { time, denied, flows });
            self.share.store(0, Ordering::Relaxed);
        }
    }
}
