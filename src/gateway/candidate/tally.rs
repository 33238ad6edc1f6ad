//! Changes that a candidate would make: counts and examples.

use crate::addr::{ClientAddr, OriginalDestination};
use crate::flow::PolicyChange;
use crate::hostname::Hostname;
use crate::outcome::Outcome;
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Most kinds of change that are kept apart. There can be one for each pair of rules, so a large policy has more; flows
/// of further kinds are still counted for their tenant.
const MOST_KINDS: usize = 200;
/// Most examples of each kind; a new one replaces the least recently seen.
const MOST_EXAMPLES: usize = 10;

/// Counts since the candidate was loaded.
#[derive(Debug, Clone, Default)]
pub struct CandidateTally {
    /// By the tenant in force.
    pub tenants: BTreeMap<Arc<str>, ChangeCounts>,
    /// Changed flows by kind.
    pub kinds: HashMap<ChangeKind, ChangeGroup>,
    /// Changed flows, and later requests, of kinds for which `kinds` has no room.
    pub beyond: u64,
}

/// Counts of one tenant, by [`PolicyChange`] as an index.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChangeCounts {
    /// Its flows.
    pub flows: [u64; PolicyChange::ALL.len()],
    /// Their later HTTP requests.
    pub requests: [u64; PolicyChange::ALL.len()],
}

impl ChangeCounts {
    fn count(&mut self, what: ComparisonSubject, change: PolicyChange) {
        let counts = match what {
            ComparisonSubject::Flow => &mut self.flows,
            ComparisonSubject::Request => &mut self.requests,
        };
        counts[change as usize] += 1;
    }
}

/// Subject of a comparison of both policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum ComparisonSubject {
    /// A new flow.
    Flow,
    /// A later HTTP request of a flow.
    Request,
}

/// Number of flows and of later requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Flows.
    pub flows: u64,
    /// Later HTTP requests.
    pub requests: u64,
}

impl FlowCounts {
    fn count(&mut self, what: ComparisonSubject) {
        match what {
            ComparisonSubject::Flow => self.flows += 1,
            ComparisonSubject::Request => self.requests += 1,
        }
    }
}

/// Key that groups changed flows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChangeKind {
    /// The tenant in force.
    pub tenant: Arc<str>,
    /// Change that the candidate makes.
    pub change: PolicyChange,
    /// Reason given by the one policy that denies.
    pub reason: Outcome,
    /// Rule in force that decides, if any.
    pub rule: Option<Arc<str>>,
    /// The candidate's rule that decides, if any.
    pub candidate_rule: Option<Arc<str>>,
    /// Denial that monitor mode waives, in the policy that lets the flow out.
    pub waived: Option<Outcome>,
}

/// Flows of a kind.
#[derive(Debug, Clone)]
pub struct ChangeGroup {
    /// Their number.
    pub times: FlowCounts,
    /// Examples by target: at most a few, unordered.
    pub examples: Vec<ChangeExample>,
}

/// Flows of a kind to one target: a name, or an address where there is none, and a port.
#[derive(Debug, Clone)]
pub struct ChangeExample {
    /// The name asked for.
    pub hostname: Option<Hostname>,
    /// Destination of the last one.
    pub destination: OriginalDestination,
    /// Client of the last one.
    pub client: IpAddr,
    /// Their number since the example was added.
    pub times: FlowCounts,
    /// Time of the last one.
    pub last: Timestamp,
}

/// A flow, or a request, to be counted.
pub(in crate::gateway) struct ComparedFlow<'a> {
    pub(in crate::gateway) what: ComparisonSubject,
    pub(in crate::gateway) time: Timestamp,
    pub(in crate::gateway) client: ClientAddr,
    pub(in crate::gateway) destination: OriginalDestination,
    pub(in crate::gateway) hostname: Option<&'a Hostname>,
    /// True if `egret doctor` made it: it counts in no figure of the candidate.
    pub(in crate::gateway) is_probe: bool,
}

impl CandidateTally {
    /// Counts a flow that both policies decide alike, or that one of them cannot judge.
    pub(super) fn count(&mut self, tenant: &Arc<str>, change: PolicyChange, what: ComparisonSubject) {
        if let Some(counts) = self.tenants.get_mut(tenant) {
            counts.count(what, change);
            return;
        }
        self.tenants.entry(Arc::clone(tenant)).or_default().count(what, change);
    }

    /// Counts a flow that they decide differently.
    pub(super) fn keep(&mut self, kind: ChangeKind, flow: &ComparedFlow<'_>) {
        self.count(&kind.tenant, kind.change, flow.what);
        let room = self.kinds.len() < MOST_KINDS;
        match self.kinds.get_mut(&kind) {
            Some(kept) => kept.add(flow),
            None if room => {
                let mut kept = ChangeGroup { times: FlowCounts::default(), examples: Vec::new() };
                kept.add(flow);
                self.kinds.insert(kind, kept);
            }
            None => self.beyond += 1,
        }
    }
}

impl ChangeGroup {
    fn add(&mut self, flow: &ComparedFlow<'_>) {
        self.times.count(flow.what);
        let known = self.examples.iter_mut().find(|example| example.is_of(flow));
        if let Some(example) = known {
            example.times.count(flow.what);
            (example.client, example.last) = (flow.client.ip(), flow.time);
            example.destination = flow.destination;
            return;
        }
        let mut example = ChangeExample {
            hostname: flow.hostname.cloned(),
            destination: flow.destination,
            client: flow.client.ip(),
            times: FlowCounts::default(),
            last: flow.time,
        };
        example.times.count(flow.what);
        if self.examples.len() < MOST_EXAMPLES {
            self.examples.push(example);
        } else if let Some(oldest) = self.examples.iter_mut().min_by_key(|example| example.last) {
            *oldest = example;
        }
    }
}

impl ChangeExample {
    fn is_of(&self, flow: &ComparedFlow<'_>) -> bool {
        let same_port = self.destination.port() == flow.destination.port();
        match (&self.hostname, flow.hostname) {
            (Some(known), Some(name)) => same_port && known == name,
            (None, None) => self.destination == flow.destination,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(tenant: &str, rule: &str) -> ChangeKind {
        ChangeKind {
            tenant: tenant.into(),
            change: PolicyChange::WouldDeny,
            reason: Outcome::NotAllowed,
            rule: Some(rule.into()),
            candidate_rule: None,
            waived: None,
        }
    }

    fn keep(tally: &mut CandidateTally, kind: ChangeKind, second: i64, name: Option<&Hostname>, to: &str) {
        let flow = ComparedFlow {
            what: ComparisonSubject::Flow,
            time: Timestamp::from_second(second).unwrap(),
            client: ClientAddr::new("10.0.1.7:1".parse().unwrap()),
            destination: OriginalDestination::tcp(to.parse().unwrap()),
            hostname: name,
            is_probe: false,
        };
        tally.keep(kind, &flow);
    }

    #[test]
    fn flows_to_one_name_share_an_example() {
        let (mut tally, name) = (CandidateTally::default(), "api.example.com".parse().unwrap());
        keep(&mut tally, kind("acme", "r"), 1, Some(&name), "192.0.2.1:443");
        keep(&mut tally, kind("acme", "r"), 2, Some(&name), "192.0.2.2:443");
        keep(&mut tally, kind("acme", "r"), 3, Some(&name), "192.0.2.2:8443");
        keep(&mut tally, kind("acme", "r"), 4, None, "192.0.2.2:443");
        let kept = &tally.kinds[&kind("acme", "r")];
        let flows: Vec<_> = kept.examples.iter().map(|example| example.times.flows).collect();
        assert_eq!((kept.times.flows, &flows[..]), (4, &[2, 1, 1][..]));
        assert_eq!(kept.examples[0].destination.to_string(), "192.0.2.2:443");
        assert_eq!(tally.tenants["acme"].flows[PolicyChange::WouldDeny as usize], 4);
    }

    #[test]
    fn examples_are_bounded_to_the_latest() {
        let mut tally = CandidateTally::default();
        for second in 0..1000 {
            let name = format!("n{second}.example.com").parse().unwrap();
            keep(&mut tally, kind("acme", "r"), second, Some(&name), "192.0.2.1:443");
        }
        let kept = &tally.kinds[&kind("acme", "r")];
        assert_eq!((kept.times.flows, kept.examples.len()), (1000, MOST_EXAMPLES));
        let oldest = kept.examples.iter().map(|example| example.last.as_second()).min().unwrap();
        assert_eq!(oldest, 990);
    }

    #[test]
    fn kinds_are_bounded_and_sums_exact() {
        let mut tally = CandidateTally::default();
        for rule in 0..MOST_KINDS + 5 {
            keep(&mut tally, kind("acme", &rule.to_string()), 1, None, "192.0.2.1:443");
        }
        assert_eq!((tally.kinds.len(), tally.beyond), (MOST_KINDS, 5));
        assert_eq!(tally.tenants["acme"].flows[PolicyChange::WouldDeny as usize], MOST_KINDS as u64 + 5);
    }
}
