//! A second policy, judged on every flow beside the one in force, and enforced for a share of clients if that is wanted.

mod canary;
mod tally;

pub use canary::{FEWEST, Terms, WINDOW};
pub use tally::{Example, Kept, Kind, Tally};

use super::flow::Flow;
use super::meters::Counted;
use crate::addr::ClientAddr;
use crate::clock;
use crate::outcome::Outcome;
use crate::policy::{Decision, Denial, Policy, Seen, Tenant};
use canary::Watch;
use jiff::Timestamp;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
#[derive(Debug)]
pub struct Candidate {
    policy: Policy,
    terms: Option<Terms>,
    /// The share's clients are the candidate's; never without `terms`.
    leads: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
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
    /// Enforced by these terms; for nobody if there are none.
    pub fn new(policy: Policy, terms: Option<Terms>) -> Self {
        let state = State { tally: Tally::default(), watch: Watch::new(clock::now()), fell_back: None };
        Self { policy, leads: terms.is_some().into(), terms, state: Mutex::new(state) }
    }

    /// The share that it was loaded with.
    pub fn terms(&self) -> Option<Terms> {
        self.terms
    }

    /// Whether it is enforced for the share's clients now.
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// What it came to so far. Copied while flows wait, which is why what is kept is bounded.
    pub fn tally(&self) -> Tally {
        self.state().tally.clone()
    }

    /// Why it is enforced no longer.
    pub fn fell_back(&self) -> Option<FellBack> {
        self.state().fell_back
    }

    /// Its part in the flows of a client.
    pub(super) fn trial(self: &Arc<Self>, client: ClientAddr) -> Trial {
        Trial {
            tenant: self.policy.tenant_of(client).cloned(),
            leads: self.leads() && self.terms.is_some_and(|terms| terms.cover(client)),
            candidate: Arc::clone(self),
        }
    }

    /// Nobody panics while holding it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A candidate's part in one flow.
pub(super) struct Trial {
    candidate: Arc<Candidate>,
    /// Whose the client is by the candidate.
    tenant: Option<Arc<Tenant>>,
    /// Its word holds for this flow, and the policy in force is judged beside it.
    leads: bool,
}

/// The tenant in force of a client that belongs to none.
const NOBODY: &str = "unknown";

impl Trial {
    /// Whose rules hold for the flow; `None` if the candidate's do and it knows no tenant for the client.
    pub(super) fn lead<'a>(&'a self, in_force: &'a Arc<Tenant>) -> Option<&'a Arc<Tenant>> {
        if self.leads { self.tenant.as_ref() } else { Some(in_force) }
    }

    /// Notes what the candidate would change, of a flow whose fate was just decided by what was `seen`: nothing, where
    /// that was before the client had said anything.
    pub(super) fn compare(
        &self,
        in_force: Option<&Tenant>,
        flow: &mut Flow,
        seen: Option<&Seen>,
        decided: &Decision,
    ) {
        let (to, time) = (flow.record.destination, flow.record.time);
        let word = |tenant: Option<&Tenant>| match tenant {
            Some(tenant) => tenant.judge_aside(seen, to, time),
            None => Some(Decision::Denial(Denial { outcome: Outcome::UnknownTenant, rule: None })),
        };
        // Without a tenant there is no pool to leave from: then its word cannot hold.
        let leads = self.leads && in_force.is_some();
        let other = word(if leads { in_force } else { self.tenant.as_deref() });
        let (running, candidate) =
            if leads { (other.as_ref(), Some(decided)) } else { (Some(decided), other.as_ref()) };
        let (change, reason) = difference(running, candidate);
        flow.record.candidate = Some(change);
        flow.record.canary = leads;
        flow.meters().count(Counted::Candidate(change));

        let tenant = in_force.map_or_else(|| NOBODY.into(), |tenant| Arc::clone(&tenant.name));
        let mut state = self.candidate.state();
        if let Some(reason) = reason {
            let rule = |decision: Option<&Decision>| decision.and_then(Decision::rule).cloned();
            let (rule, candidate_rule) = (rule(running), rule(candidate));
            let example = tally::Shown {
                time,
                client: flow.record.client,
                destination: to,
                hostname: flow.record.hostname.as_ref(),
            };
            state.tally.keep(Kind { tenant, change, reason, rule, candidate_rule }, &example);
        } else {
            state.tally.count(&tenant, change);
        }
        if leads {
            // Where nobody can say what the policy in force would have done, it is taken to have let the flow out.
            let newly_denied = is_denial(candidate) && !is_denial(running);
            self.candidate.watch(&mut state, newly_denied, time);
        }
    }
}

fn is_denial(decision: Option<&Decision>) -> bool {
    matches!(decision, Some(Decision::Denial(_)))
}

impl Candidate {
    /// Counts a flow of the share's clients, and steps back if that was one denial too many.
    fn watch(&self, state: &mut State, newly_denied: bool, time: Timestamp) {
        let Some(terms) = self.terms.filter(|_| self.leads()) else { return };
        if let Some((denied, flows)) = state.watch.note(newly_denied, clock::now(), terms.max_denials) {
            state.fell_back = Some(FellBack { time, denied, flows });
            self.leads.store(false, Ordering::Relaxed);
        }
    }
}

/// What changes from the one to the other; and why the one that denies does, if the other does not.
fn difference(running: Option<&Decision>, candidate: Option<&Decision>) -> (Change, Option<Outcome>) {
    match (running, candidate) {
        (None, _) | (_, None) => (Change::Unjudged, None),
        (Some(Decision::Permit(_)), Some(Decision::Permit(_)))
        | (Some(Decision::Denial(_)), Some(Decision::Denial(_))) => (Change::Same, None),
        (Some(Decision::Permit(_)), Some(Decision::Denial(denial))) => {
            (Change::WouldDeny, Some(denial.outcome))
        }
        (Some(Decision::Denial(denial)), Some(Decision::Permit(_))) => {
            (Change::WouldAllow, Some(denial.outcome))
        }
    }
}
