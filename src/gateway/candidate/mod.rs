//! A second policy, judged on every flow beside the one in force, and enforced for a share of clients if that is wanted.

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

/// What a candidate would change for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Nothing: both let it out, or neither does.
    Same,
    /// It leaves, and the candidate would deny it.
    WouldDeny,
    /// It is denied, and the candidate would let it out.
    WouldAllow,
    /// Nobody can say: the one policy decides before the client has said anything, and the other would listen.
    Unjudged,
}

impl Change {
    /// Each; `change as usize` is its index here.
    pub const ALL: [Self; 4] = [Self::Same, Self::WouldDeny, Self::WouldAllow, Self::Unjudged];

    /// The word in the flow log and the metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::WouldDeny => "would_deny",
            Self::WouldAllow => "would_allow",
            Self::Unjudged => "unjudged",
        }
    }
}

/// A loaded candidate. Its pools and limits mean nothing here: flows leave from those in force.
pub struct Candidate {
    policy: Policy,
    /// What the rules of its tenants need that ask about names, by the tenant's index.
    verifications: Box<[Option<Arc<Verification>>]>,
    /// Percent of the clients that are the candidate's now; 0 without terms, and when it has fallen back.
    share: AtomicU8,
    state: Mutex<State>,
}

struct State {
    terms: Option<Terms>,
    tally: Tally,
    watch: Watch,
    fell_back: Option<FellBack>,
}

/// Why a candidate is no longer enforced for anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FellBack {
    /// When.
    pub time: Timestamp,
    /// Flows of the share's clients that only the candidate denied, within [`WINDOW`].
    pub denied: u32,
    /// Flows of the share's clients in all.
    pub flows: u32,
}

impl Candidate {
    /// Enforced for nobody yet; with what its tenants' rules need that ask about names, in the tenants' order.
    pub fn new(policy: Policy, verifications: Vec<Option<Arc<Verification>>>) -> Self {
        let watch = Watch::new(clock::now());
        let state = State { terms: None, tally: Tally::default(), watch, fell_back: None };
        let (verifications, state) = (verifications.into(), Mutex::new(state));
        Self { policy, verifications, share: AtomicU8::new(0), state }
    }

    /// From now on it is enforced by these terms, for nobody if there are none. What it came to so far stays; what holds
    /// against it counts anew.
    pub fn enforce(&self, terms: Option<Terms>) {
        let mut state = self.state();
        (state.terms, state.fell_back, state.watch) = (terms, None, Watch::new(clock::now()));
        self.share.store(terms.map_or(0, |terms| terms.percent), Ordering::Relaxed);
    }

    /// Looks up what its rules ask about names; there if one of them asks.
    pub fn verifier(&self) -> Option<&Arc<Verifier>> {
        self.verifications.iter().flatten().map(|verification| &verification.verifier).next()
    }

    /// Whether something is being looked up for its rules: whoever drops it then leaves the names to a worker to drop.
    pub fn is_asking(&self) -> bool {
        self.verifications.iter().flatten().any(|verification| Arc::strong_count(verification) > 1)
    }

    /// How it is to be enforced.
    pub fn terms(&self) -> Option<Terms> {
        self.state().terms
    }

    /// Whether it is enforced for anybody now.
    pub fn leads(&self) -> bool {
        self.share.load(Ordering::Relaxed) > 0
    }

    /// What it came to so far. Copied while flows wait, which is why what is kept is bounded.
    pub fn tally(&self) -> Tally {
        self.state().tally.clone()
    }

    /// Why it is enforced no longer.
    pub fn fell_back(&self) -> Option<FellBack> {
        self.state().fell_back
    }

    /// The share of clients that its word holds for now, if a client is one of them.
    pub fn share_of(&self, client: ClientAddr) -> Option<u8> {
        let share = self.share.load(Ordering::Relaxed);
        canary::covers(share, client).then_some(share)
    }

    /// Whose a client is by the candidate, with what its rules need that ask about names.
    pub fn tenant_of(&self, client: ClientAddr) -> Option<Ruling<'_>> {
        let rules = self.policy.tenant_of(client)?;
        let verification = self.verifications.get(rules.index).and_then(Option::as_ref);
        Some(Ruling { rules, verification })
    }

    /// Its part in the flows of a client.
    pub(super) fn trial(self: &Arc<Self>, client: ClientAddr) -> Trial {
        let (tenant, verification) = match self.tenant_of(client) {
            Some(Ruling { rules, verification }) => (Some(Arc::clone(rules)), verification.cloned()),
            None => (None, None),
        };
        Trial { leads: self.share_of(client).is_some(), candidate: Arc::clone(self), tenant, verification }
    }

    /// Nobody panics while holding it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rules that hold for a flow, and what finds out what they ask about names; there if one of them asks.
#[derive(Clone, Copy)]
pub struct Ruling<'a> {
    /// The rules.
    pub rules: &'a Arc<Tenant>,
    /// What finds out.
    pub verification: Option<&'a Arc<Verification>>,
}

/// A candidate's part in one flow.
pub(super) struct Trial {
    candidate: Arc<Candidate>,
    /// Whose the client is by the candidate.
    tenant: Option<Arc<Tenant>>,
    verification: Option<Arc<Verification>>,
    /// Its word holds for this flow, and the policy in force is judged beside it.
    leads: bool,
}

/// The tenant in force of a client that belongs to none.
const NOBODY: &str = "unknown";

impl Trial {
    /// Whose rules hold for the flow; `None` if the candidate's do and it knows no tenant for the client.
    pub(super) fn lead<'a>(&'a self, in_force: Ruling<'a>) -> Option<Ruling<'a>> {
        if !self.leads {
            return Some(in_force);
        }
        let rules = self.tenant.as_ref()?;
        Some(Ruling { rules, verification: self.verification.as_ref() })
    }

    /// Notes what the candidate would change, of a flow whose fate was just decided by what was `seen`: nothing, where
    /// that was before the client had said anything.
    pub(super) fn compare(
        &self,
        in_force: Option<&Tenant>,
        flow: &mut Flow,
        seen: Option<&Seen>,
        decided: Word,
    ) {
        let (to, time) = (flow.record.destination, flow.record.time);
        // Without a tenant there is no pool to leave from: then its word cannot hold.
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
    /// Counts what the two policies say of a flow, or of a later request, the candidate's word being the one that holds if
    /// it `leads`.
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
            // Where nobody can say what the policy in force would have done, it is taken to have let the flow out.
            let denies = |word: Option<&Word>| word.is_some_and(|word| word.denied.is_some());
            let newly_denied = denies(candidate) && !denies(running);
            // A request that is denied ends its flow; those that pass were counted with it.
            if newly_denied || shown.what == Subject::Flow {
                self.watch(&mut state, newly_denied, shown.time);
            }
        }
        change
    }

    /// Counts a flow of the share's clients, and steps back if that was one denial too many.
    fn watch(&self, state: &mut State, newly_denied: bool, time: Timestamp) {
        let Some(terms) = state.terms.filter(|_| self.leads()) else { return };
        if let Some((denied, flows)) = state.watch.note(newly_denied, clock::now(), terms.max_denials) {
            state.fell_back = Some(FellBack { time, denied, flows });
            self.share.store(0, Ordering::Relaxed);
        }
    }
}
