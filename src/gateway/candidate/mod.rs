//! Candidate policy: evaluated on every flow as a shadow of the one in force, and enforced for a share of clients on
//! request.

mod canary;
pub(super) mod effective_decision;
mod tally;

pub use canary::{CanaryTerms, FEWEST, WINDOW};
pub use tally::{CandidateTally, ChangeCounts, ChangeExample, ChangeGroup, ChangeKind, FlowCounts};
pub(super) use tally::{ComparedFlow, ComparisonSubject};

use super::flow::Flow;
use super::meters::FlowCounter;
use super::snapshot::VerificationHandles;
use crate::addr::ClientAddr;
use crate::clock;
use crate::flow::PolicyChange;
use crate::outcome::Outcome;
use crate::policy::{ClientInspection, Policy, TenantRules};
use crate::verify::Verifier;
use canary::DenialWindow;
use effective_decision::EffectiveDecision;
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
    fell_back: Option<Rollback>,
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
        let state = CandidateState { terms: None, tally: CandidateTally::default(), watch, fell_back: None };
        let (verifications, state) = (verifications.into(), Mutex::new(state));
        Self { policy, verifications, share: AtomicU8::new(0), state }
    }

    /// Enforces it by these terms from now on; for nobody if `None`. Keeps the tally, and restarts the window of
    /// denials.
    pub fn enforce(&self, terms: Option<CanaryTerms>) {
        let mut state = self.state();
        (state.terms, state.fell_back, state.watch) = (terms, None, DenialWindow::new(clock::now()));
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
        self.state().fell_back
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

    /// Evaluation of the candidate for a client's flow.
    pub(super) fn evaluation(self: &Arc<Self>, client: ClientAddr) -> CandidateEvaluation {
        let (tenant, verification) = match self.tenant_of(client) {
            Some(EffectiveRules { rules, verification }) => (Some(Arc::clone(rules)), verification.cloned()),
            None => (None, None),
        };
        CandidateEvaluation {
            leads: self.share_of(client).is_some(),
            candidate: Arc::clone(self),
            tenant,
            verification,
        }
    }

    /// Ignores poisoning: nothing panics while holding the lock.
    fn state(&self) -> MutexGuard<'_, CandidateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rules for a flow, with the handles for their checks.
#[derive(Clone, Copy)]
pub struct EffectiveRules<'a> {
    /// The rules.
    pub rules: &'a Arc<TenantRules>,
    /// Present if a rule has checks of names.
    pub verification: Option<&'a Arc<VerificationHandles>>,
}

/// Evaluation of a candidate for one flow.
pub(super) struct CandidateEvaluation {
    candidate: Arc<Candidate>,
    /// The candidate's tenant for the client.
    tenant: Option<Arc<TenantRules>>,
    verification: Option<Arc<VerificationHandles>>,
    /// True if it is enforced for this flow, and the policy in force is only compared.
    leads: bool,
}

/// Tenant name of clients that belong to none in force.
const NOBODY: &str = "unknown";

impl CandidateEvaluation {
    /// Rules enforced for the flow; `None` if the candidate's are and it has no tenant for the client.
    pub(super) fn enforced_rules<'a>(&'a self, in_force: EffectiveRules<'a>) -> Option<EffectiveRules<'a>> {
        if !self.leads {
            return Some(in_force);
        }
        let rules = self.tenant.as_ref()?;
        Some(EffectiveRules { rules, verification: self.verification.as_ref() })
    }

    /// Records what the candidate would change for a flow that was just decided by what was `seen`; `None` if it was
    /// not inspected.
    pub(super) fn compare(
        &self,
        in_force: Option<&TenantRules>,
        flow: &mut Flow,
        seen: Option<&ClientInspection>,
        decided: EffectiveDecision,
    ) {
        let (to, time) = (flow.destination(), flow.time());
        // Without a tenant in force there is no pool to leave from, so the candidate cannot be enforced.
        let leads = self.leads && in_force.is_some();
        let other = if leads { in_force } else { self.tenant.as_deref() };
        let other = match other {
            Some(tenant) => tenant
                .judge_as_shadow(seen, to, time)
                .map(|decision| EffectiveDecision::assuming_checks_of(&decision, &decided)),
            None => Some(EffectiveDecision::denied(Outcome::UnknownTenant)),
        };
        let (running, candidate) = if leads { (other, Some(decided)) } else { (Some(decided), other) };
        let hostname = flow.hostname();
        let shown = ComparedFlow {
            what: ComparisonSubject::Flow,
            time,
            client: flow.client(),
            destination: to,
            hostname: hostname.as_ref(),
        };
        let change = self.candidate.note(in_force, running.as_ref(), candidate.as_ref(), &shown, leads);
        flow.record().candidate = Some(change);
        flow.record().canary = leads;
        flow.meters().count(FlowCounter::Candidate(change));
    }
}

impl Candidate {
    /// Counts the two policies' decisions on a flow, or on a later request; `leads` if the candidate's is enforced.
    pub(super) fn note(
        &self,
        in_force: Option<&TenantRules>,
        running: Option<&EffectiveDecision>,
        candidate: Option<&EffectiveDecision>,
        shown: &ComparedFlow<'_>,
        leads: bool,
    ) -> PolicyChange {
        let (change, reason) = effective_decision::difference(running, candidate);
        let tenant = in_force.map_or_else(|| NOBODY.into(), |tenant| Arc::clone(&tenant.name));
        let mut state = self.state();
        if let Some(reason) = reason {
            let rule = |word: Option<&EffectiveDecision>| word.and_then(|word| word.rule.clone());
            let (rule, candidate_rule) = (rule(running), rule(candidate));
            state.tally.keep(ChangeKind { tenant, change, reason, rule, candidate_rule }, shown);
        } else {
            state.tally.count(&tenant, change, shown.what);
        }
        if leads {
            // If the decision of the policy in force is unknown, it counts as a permit.
            let denies = |word: Option<&EffectiveDecision>| word.is_some_and(|word| word.denied.is_some());
            let newly_denied = denies(candidate) && !denies(running);
            // A denied request ends its flow; requests that pass were counted with the flow.
            if newly_denied || shown.what == ComparisonSubject::Flow {
                self.count_canary_flow(&mut state, newly_denied, shown.time);
            }
        }
        change
    }

    /// Counts a flow of the canary's clients, and rolls back if there are now too many denials.
    fn count_canary_flow(&self, state: &mut CandidateState, newly_denied: bool, time: Timestamp) {
        let Some(terms) = state.terms.filter(|_| self.is_enforced()) else { return };
        if let Some((denied, flows)) = state.watch.note(newly_denied, clock::now(), terms.max_denials) {
            state.fell_back = Some(Rollback { time, denied, flows });
            self.share.store(0, Ordering::Relaxed);
        }
    }
}
