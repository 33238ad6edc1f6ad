//! Judges the later requests of an HTTP/1 connection, by the rules in force when they arrive.

use super::refusal::GuardRefusal;
use crate::addr::{ClientAddr, OriginalDestination};
use crate::clock;
use crate::flow::{FlowEntry, RevocationReason};
use crate::gateway::candidate::{ComparedFlow, ComparisonSubject};
use crate::gateway::flow::{Flow, describe};
use crate::gateway::meters::{FlowCounter, Meters};
use crate::gateway::policy_views::PolicyViews;
use crate::gateway::snapshot::Snapshot;
use crate::gateway::worker::Worker;
use crate::hostname::AskedName;
use crate::outcome::Outcome;
use crate::policy::{FlowFacts, Inspection, Permit};
use std::sync::Arc;

/// Owner of a flow, to find the rules in force for it now.
pub(super) struct FlowOwner<'w> {
    worker: &'w Worker,
    client: ClientAddr,
    tenant: Arc<str>,
    to: OriginalDestination,
    entry: Arc<FlowEntry>,
}

impl<'w> FlowOwner<'w> {
    pub(super) fn of(worker: &'w Worker, flow: &Flow) -> Option<Self> {
        let tenant = flow.read(|record| record.tenant.clone())?;
        let (client, to, entry) = (flow.client(), flow.destination(), Arc::clone(flow.entry()));
        Some(Self { worker, client, tenant, to, entry })
    }

    /// Views of the policies in force now, if the client still belongs to the tenant.
    fn views<'s>(&self, snapshot: &'s Snapshot) -> Option<PolicyViews<'s>> {
        snapshot.views_if_unchanged(self.client, &self.tenant)
    }

    /// Facts of the flow now.
    fn facts<'f>(&self, inspection: Inspection<'f>) -> FlowFacts<'f> {
        FlowFacts::new(self.to, inspection, clock::policy_time())
    }

    /// True if the mode in force waives a denial with this outcome.
    fn is_waived(&self, outcome: Outcome) -> bool {
        let snapshot = self.worker.gateway.snapshot.load();
        let Some(views) = self.views(&snapshot) else { return false };
        views.judge(&self.facts(Inspection::Violation(outcome))).denies().is_none()
    }

    /// True if monitor mode waives a denial with this outcome. The flow is then not judged any more; a reload that ends the
    /// mode ends it.
    pub(super) fn waives(&self, outcome: Outcome) -> bool {
        if !self.is_waived(outcome) {
            return false;
        }
        self.entry.unfollow();
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
        Self { whose, meters: flow.meters().clone(), first, bound: permit.binds_address(), is_later: false }
    }

    /// Checks that a request may go where the flow goes.
    pub(super) fn judge(&mut self, asked: &AskedName) -> Result<(), GuardRefusal> {
        let snapshot = self.whose.worker.gateway.snapshot.load();
        let decided = self.decide(&snapshot, asked);
        if let AskedName::Valid(name) = asked {
            describe("name", name);
        }
        tracing::debug!(name = %asked, passes = decided.is_ok(), "a request");
        // The first request was compared with its flow.
        if std::mem::replace(&mut self.is_later, true) && snapshot.candidate.is_some() {
            self.compare(&snapshot, asked);
        }
        decided
    }

    fn decide(&self, snapshot: &Snapshot, asked: &AskedName) -> Result<(), GuardRefusal> {
        if *asked == self.first {
            return Ok(());
        }
        let Some(views) = self.whose.views(snapshot) else {
            return Err(GuardRefusal::bare(
                Outcome::PolicyRevoked,
                Some(RevocationReason::OF_ANOTHER_TENANT.0),
            ));
        };
        let judgement = views.judge(&self.facts(asked, Some(self.bound)));
        let Some(outcome) = judgement.deny_reason() else { return Ok(()) };
        let (hostname, detail) = match asked {
            AskedName::Valid(name) => (Some(name.clone()), None),
            AskedName::Invalid(why) => (None, Some(why.as_str())),
            AskedName::Absent | AskedName::Unread => (None, None),
        };
        // Waived or not: the guard asks, and notes that the flow is not judged any more.
        Err(GuardRefusal { outcome, detail, rule: judgement.rule().cloned(), hostname, waived: false })
    }

    fn facts<'f>(&'f self, name: &'f AskedName, bound: Option<bool>) -> FlowFacts<'f> {
        self.whose.facts(Inspection::LaterRequest { name, first: &self.first, bound })
    }

    /// Records what a candidate would change for a request.
    fn compare(&self, snapshot: &Snapshot, asked: &AskedName) {
        let Some(views) = self.whose.views(snapshot) else { return };
        let facts = self.facts(asked, None);
        let hostname = match asked {
            AskedName::Valid(name) => Some(name),
            AskedName::Invalid(_) | AskedName::Absent | AskedName::Unread => None,
        };
        let compared = ComparedFlow {
            what: ComparisonSubject::Request,
            time: facts.now,
            client: self.whose.client,
            destination: facts.dialled,
            hostname,
            is_probe: self.whose.entry.is_probe(),
        };
        let change = views.compare(&facts, &views.judge(&facts), &compared);
        if let Some(change) = change.filter(|_| !compared.is_probe) {
            self.meters.count(FlowCounter::Candidate(change));
        }
    }
}
