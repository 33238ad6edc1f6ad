//! Judges the later requests of an HTTP/1 connection, by the rules in force when they arrive.

use super::GuardRefusal;
use crate::addr::{ClientAddr, OriginalDestination};
use crate::clock;
use crate::flow::RevocationReason;
use crate::gateway::candidate::effective_decision::EffectiveDecision;
use crate::gateway::candidate::{Candidate, ComparedFlow, ComparisonSubject, EffectiveRules};
use crate::gateway::flow::Flow;
use crate::gateway::meters::{FlowCounter, Meters};
use crate::gateway::snapshot::Snapshot;
use crate::gateway::worker::Worker;
use crate::hostname::AskedName;
use crate::outcome::Outcome;
use crate::policy::{self, CertificateRule, ClientInspection, Decision, Denial, DestinationRule, Permit};
use jiff::Timestamp;
use std::sync::Arc;

/// Owner of a flow, to find the rules in force for it now.
pub(super) struct FlowOwner<'w> {
    worker: &'w Worker,
    client: ClientAddr,
    tenant: Arc<str>,
    to: OriginalDestination,
    number: u64,
}

impl<'w> FlowOwner<'w> {
    pub(super) fn of(worker: &'w Worker, flow: &Flow) -> Option<Self> {
        let tenant = flow.read(|record| record.tenant.clone())?;
        let (client, to, number) = (flow.client(), flow.destination(), flow.entry().id().number);
        Some(Self { worker, client, tenant, to, number })
    }

    /// The rules that a new flow would be judged by.
    fn current_rules<'s>(&self, snapshot: &'s Snapshot) -> Option<EffectiveRules<'s>> {
        snapshot.enforced_rules(self.client, snapshot.tenant_if_unchanged(self.client, &self.tenant)?)
    }

    /// True if the mode in force waives a denial with this outcome.
    fn is_waived(&self, outcome: Outcome) -> bool {
        let snapshot = self.worker.gateway.snapshot.load();
        let Some(ruling) = self.current_rules(&snapshot) else { return false };
        let denial = Denial { outcome, rule: None };
        matches!(ruling.rules.apply_mode(denial, self.to, clock::timestamp()), Decision::Permit(_))
    }

    /// True if monitor mode waives a denial with this outcome. The flow is then not judged any more, and ends with the
    /// mode.
    pub(super) fn waives(&self, outcome: Outcome) -> bool {
        if !self.is_waived(outcome) {
            return false;
        }
        self.worker.gateway.table.unfollow(self.number);
        // A mode that ended before the entry was marked did not see the mark.
        self.is_waived(outcome)
    }
}

/// State that the requests of a flow are judged by.
pub(super) struct RequestTerms<'w> {
    pub(super) whose: FlowOwner<'w>,
    meters: Meters,
    /// Name of the first request, which is permitted.
    first: AskedName,
    /// True if the address was resolved from that name, or found to be its own.
    bound: bool,
    /// True once the first request was judged.
    is_later: bool,
}

impl<'w> RequestTerms<'w> {
    /// State of a flow that this permit lets out by its first request.
    pub(super) fn of(whose: FlowOwner<'w>, first: AskedName, permit: &Permit, flow: &Flow) -> Self {
        Self { whose, meters: flow.meters().clone(), first, bound: binds(permit), is_later: false }
    }

    /// Checks that a request may go where the flow goes.
    pub(super) fn judge(&mut self, asked: &AskedName) -> Result<(), GuardRefusal> {
        let snapshot = self.whose.worker.gateway.snapshot.load();
        let decided = self.decide(&snapshot, asked);
        // The first request was compared with its flow.
        if std::mem::replace(&mut self.is_later, true)
            && let Some(candidate) = &snapshot.candidate
        {
            self.compare(&snapshot, candidate, asked);
        }
        decided
    }

    fn decide(&self, snapshot: &Snapshot, asked: &AskedName) -> Result<(), GuardRefusal> {
        if *asked == self.first {
            return Ok(());
        }
        let Some(ruling) = self.whose.current_rules(snapshot) else {
            return Err(GuardRefusal::bare(
                Outcome::PolicyRevoked,
                Some(RevocationReason::OF_ANOTHER_TENANT.0),
            ));
        };
        let decision = ruling.rules.decide(asked, false, self.whose.to);
        let (outcome, rule) = match decision {
            // The address was not checked for this name.
            Decision::Permit(permit) if self.bound || binds(&permit) => {
                (Outcome::DestinationMismatch, permit.rule().cloned())
            }
            Decision::Permit(_) => return Ok(()),
            Decision::Denial(denial) => (denial.outcome, denial.rule),
        };
        let (hostname, detail) = match asked {
            AskedName::Valid(name) => (Some(name.clone()), None),
            AskedName::Invalid(why) => (None, Some(why.as_str())),
            AskedName::Absent | AskedName::Unread => (None, None),
        };
        Err(GuardRefusal { outcome, detail, rule, hostname, waived: false })
    }

    /// Records what a candidate would change for a request.
    fn compare(&self, snapshot: &Snapshot, candidate: &Candidate, asked: &AskedName) {
        let client = self.whose.client;
        let Some(tenant) = snapshot.tenant_if_unchanged(client, &self.whose.tenant) else { return };
        let (seen, time) = (
            ClientInspection::Asked { name: asked.clone(), ech: false, unframed: false },
            clock::timestamp(),
        );
        let running = self.effective_decision(&tenant.policy, &seen, time);
        let word = match candidate.tenant_of(client) {
            Some(ruling) => self.effective_decision(ruling.rules, &seen, time),
            None => EffectiveDecision::denied(Outcome::UnknownTenant),
        };
        let hostname = match asked {
            AskedName::Valid(name) => Some(name),
            AskedName::Invalid(_) | AskedName::Absent | AskedName::Unread => None,
        };
        let shown = ComparedFlow {
            what: ComparisonSubject::Request,
            time,
            client,
            destination: self.whose.to,
            hostname,
        };
        let leads = candidate.share_of(client).is_some();
        let change = candidate.note(Some(&tenant.policy), Some(&running), Some(&word), &shown, leads);
        self.meters.count(FlowCounter::Candidate(change));
    }

    /// Effective decision of one policy on a request, checks included.
    fn effective_decision(
        &self,
        rules: &policy::TenantRules,
        seen: &ClientInspection,
        time: Timestamp,
    ) -> EffectiveDecision {
        let decision = rules.judge(seen, self.whose.to, time);
        let first = |asked: &ClientInspection| matches!(asked, ClientInspection::Asked { name, .. } if *name == self.first);
        let bound = || match rules.decide(&self.first, false, self.whose.to) {
            Decision::Permit(permit) => binds(&permit),
            Decision::Denial(_) => false,
        };
        let asks_anew = |permit: &Permit| !first(seen) && (binds(permit) || bound());
        match &decision {
            Decision::Permit(permit) if !rules.mode.monitors(time) && asks_anew(permit) => {
                EffectiveDecision {
                    denied: Some(Outcome::DestinationMismatch),
                    ..EffectiveDecision::from(&decision)
                }
            }
            Decision::Permit(_) | Decision::Denial(_) => EffectiveDecision::from(&decision),
        }
    }
}

/// True if the flow's address is permitted for its name alone.
fn binds(permit: &Permit) -> bool {
    let by_certificate = permit.certificate() == CertificateRule::Require;
    match permit.destination() {
        DestinationRule::Original | DestinationRule::Observe => by_certificate,
        DestinationRule::Verify | DestinationRule::Resolve => true,
    }
}
