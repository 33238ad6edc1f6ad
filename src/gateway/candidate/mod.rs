//! Candidate policy: evaluated on every flow as a shadow of the one in force, and enforced for a share of clients on
//! request.

mod canary;
mod tally;

pub use canary::{CanaryTerms, FEWEST, WINDOW};
pub use tally::{CandidateTally, ChangeCounts, ChangeExample, ChangeGroup, ChangeKind, FlowCounts};
pub(super) use tally::{ComparedFlow, ComparisonSubject};

use super::effective_rules::{EffectiveRules, VerificationHandles};
use crate::addr::ClientAddr;
use crate::clock;
use crate::flow::{PolicyChange, UNKNOWN_TENANT};
use crate::outcome::Outcome;
use crate::policy::{Judgement, Policy};
use crate::verify::Verifier;
use canary::DenialWindow;
use jiff::Timestamp;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A loaded candidate. Its pools and limits are not used: flows leave from those in force.
pub struct Candidate {
    policy: Policy,
    /// Handles for its tenants' checks of names, by the tenant's index; `None` without such rules.
    verifications: Box<[Option<Arc<VerificationHandles>>]>,
    /// Percentage of clients that it is enforced for; 0 without terms, and after a rollback.
    share: AtomicU8,
    state: Mutex<CandidateState>,
}

struct CandidateState {
    terms: Option<CanaryTerms>,
    tally: CandidateTally,
    watch: DenialWindow,
    rollback: Option<Rollback>,
}

/// Rollback of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollback {
    /// Time of the rollback.
    pub time: Timestamp,
    /// Flows of the canary's clients that only the candidate denied, within [`WINDOW`].
    pub denied: u32,
    /// Flows of the canary's clients in all.
    pub flows: u32,
}

impl Candidate {
    /// Creates a candidate that is not enforced; with the handles for its tenants' checks, in the tenants' order.
    pub fn new(policy: Policy, verifications: Vec<Option<Arc<VerificationHandles>>>) -> Self {
        let watch = DenialWindow::new(clock::now());
        let state = CandidateState { terms: None, tally: CandidateTally::default(), watch, rollback: None };
        let (verifications, state) = (verifications.into(), Mutex::new(state));
        Self { policy, verifications, share: AtomicU8::new(0), state }
    }

    /// Enforces it by these terms from now on; for nobody if `None`. Keeps the tally, and restarts the window of
    /// denials.
    pub fn enforce(&self, terms: Option<CanaryTerms>) {
        let mut state = self.state();
        (state.terms, state.rollback, state.watch) = (terms, None, DenialWindow::new(clock::now()));
        self.share.store(terms.map_or(0, |terms| terms.percent), Ordering::Relaxed);
    }

    /// Verifier of its rules' checks; `None` if they have none.
    pub fn verifier(&self) -> Option<&Arc<Verifier>> {
        self.verifications.iter().flatten().map(|verification| &verification.verifier).next()
    }

    /// True while a lookup for its rules runs: if the candidate is dropped then, a worker drops the names.
    pub fn has_running_lookup(&self) -> bool {
        self.verifications.iter().flatten().any(|verification| Arc::strong_count(verification) > 1)
    }

    /// Terms that it is enforced by.
    pub fn terms(&self) -> Option<CanaryTerms> {
        self.state().terms
    }

    /// True if it is enforced for any client now.
    pub fn is_enforced(&self) -> bool {
        self.share.load(Ordering::Relaxed) > 0
    }

    /// Returns a copy of the tally. Flows wait meanwhile, which is why its size is bounded.
    pub fn tally(&self) -> CandidateTally {
        self.state().tally.clone()
    }

    /// Its rollback, if it was rolled back.
    pub fn rollback(&self) -> Option<Rollback> {
        self.state().rollback
    }

    /// Percentage of clients that it is enforced for now, if the client is one of them.
    pub fn share_of(&self, client: ClientAddr) -> Option<u8> {
        let share = self.share.load(Ordering::Relaxed);
        canary::covers(share, client).then_some(share)
    }

    /// The candidate's rules for a client, with the handles for their checks.
    pub fn tenant_of(&self, client: ClientAddr) -> Option<EffectiveRules<'_>> {
        let rules = self.policy.tenant_of(client)?;
        let verification = self.verifications.get(rules.index).and_then(Option::as_ref);
        Some(EffectiveRules { rules, verification })
    }

    /// Ignores poisoning: nothing panics while holding the lock.
    fn state(&self) -> MutexGuard<'_, CandidateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Candidate {
    /// Counts a flow, or a later request, by the judgements of the policy in force and of this one; `is_canary` if this
    /// one is enforced. `tenant` is the one in force. A probe of `egret doctor`'s is compared, and not counted.
    pub(super) fn note(
        &self,
        tenant: Option<&Arc<str>>,
        [in_force, candidate]: [&Judgement; 2],
        compared: &ComparedFlow<'_>,
        is_canary: bool,
    ) -> PolicyChange {
        let (change, reason) = difference(in_force, candidate);
        if compared.is_probe {
            return change;
        }
        let tenant = tenant.map_or_else(|| UNKNOWN_TENANT.into(), Arc::clone);
        let mut state = self.state();
        if let Some(reason) = reason {
            let (rule, candidate_rule) = (in_force.rule().cloned(), candidate.rule().cloned());
            let lets_out = if in_force.denies().is_none() { in_force } else { candidate };
            let waived = lets_out.deny_reason();
            let kind = ChangeKind { tenant, change, reason, rule, candidate_rule, waived };
            state.tally.keep(kind, compared);
        } else {
            state.tally.count(&tenant, change, compared.what);
        }
        if is_canary {
            // If the judgement of the policy in force is unknown, it counts as a permit.
            let newly_denied = candidate.denies().is_some() && in_force.denies().is_none();
            // A denied request ends its flow; requests that pass were counted with the flow.
            if newly_denied || compared.what == ComparisonSubject::Flow {
                self.count_canary_flow(&mut state, newly_denied, compared.time);
            }
        }
        change
    }

    /// Counts a flow of the canary's clients, and rolls back if there are now too many denials.
    fn count_canary_flow(&self, state: &mut CandidateState, newly_denied: bool, time: Timestamp) {
        let Some(terms) = state.terms.filter(|_| self.is_enforced()) else { return };
        if let Some((denied, flows)) = state.watch.note(newly_denied, clock::now(), terms.max_denials) {
            state.rollback = Some(Rollback { time, denied, flows });
            self.share.store(0, Ordering::Relaxed);
        }
    }
}

/// Change from the one judgement to the other; and the reason for the denial, if only one of them denies.
fn difference(in_force: &Judgement, candidate: &Judgement) -> (PolicyChange, Option<Outcome>) {
    if [in_force, candidate].contains(&&Judgement::NeedsInspection) {
        return (PolicyChange::Unjudged, None);
    }
    match (in_force.denies(), candidate.denies()) {
        (None, None) | (Some(_), Some(_)) => (PolicyChange::Same, None),
        (None, Some(why)) => (PolicyChange::WouldDeny, Some(why)),
        (Some(why), None) => (PolicyChange::WouldAllow, Some(why)),
    }
}
