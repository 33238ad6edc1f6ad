//! Makes the checks that the policy in force requires of live flows and that were not made before: in the background,
//! and within a bounded time, after which a check without result counts as failed.

use super::certification::CertificateProber;
use super::effective_rules::VerificationHandles;
use super::reevaluate::Reevaluation;
use super::snapshot::Snapshot;
use super::verification::address_refusal;
use super::worker::GatewayState;
use crate::addr::DialAddr;
use crate::clock;
use crate::egress::Dialler;
use crate::flow::{LiveFlow, RevocationReason};
use crate::hostname::{AskedName, Hostname};
use crate::policy::{CheckSet, ClientInspection};
use crate::verify::{AddressMatch, CertificateVerdict};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Most checks in progress; each is bounded elsewhere too, with those of new flows.
const AT_ONCE: usize = 64;
/// Delay until a check without result is repeated.
const BETWEEN: Duration = Duration::from_secs(2);

/// Settings of the checks of live flows.
#[derive(Debug, Clone, Copy)]
pub struct RecheckSettings {
    /// Dialler of the certificate checks.
    pub dialler: Dialler,
    /// Time after which a flow without result is reset.
    pub patience: Duration,
}

/// Key of a check: flows that have it in common share the result.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CheckKey {
    tenant: Arc<str>,
    canary: bool,
    name: Hostname,
    to: DialAddr,
    missing: CheckSet,
}

/// Result of a check.
enum CheckResult {
    /// Success: these are all the checks that the flow was missing.
    Proof(CheckSet),
    /// Failure: the flow is to be reset.
    Wrong(RevocationReason),
    /// The policy in force no longer requires it of that flow.
    Needless,
}

/// Reason to reset a flow whose checks had no result in time.
fn timeout_reason(missing: CheckSet) -> RevocationReason {
    RevocationReason(match (missing.address, missing.certificate) {
        (true, false) => "nobody could say in time whether the address is one of the name's",
        (false, true) => "nobody could say in time whether the server proves the name",
        (true, true) | (false, false) => "nobody could say in time whether address and server are the name's",
    })
}

/// Numbers of the flows that wait for each check.
type WaitingFlows = HashMap<CheckKey, Vec<u64>>;

impl GatewayState {
    /// Rechecks all live flows at each order, until the channel is closed.
    pub async fn recheck(self: Arc<Self>, how: RecheckSettings, mut orders: mpsc::Receiver<()>) {
        let (mut queue, mut waiting) = (VecDeque::new(), WaitingFlows::new());
        let (mut proved, mut revoked) = (0, 0);
        let (mut asking, mut asked) = (JoinSet::new(), HashMap::new());
        loop {
            while asking.len() < AT_ONCE
                && let Some((key, flow, deadline)) = queue.pop_front()
            {
                let gateway = Arc::clone(&self);
                let task =
                    asking.spawn(async move { gateway.check_until(&flow, deadline, how.dialler).await });
                asked.insert(task.id(), (key, deadline));
            }
            let done = tokio::select! {
                order = orders.recv() => match order {
                    Some(()) => {
                        let deadline = clock::now() + how.patience;
                        let new = self.collect_checks(&mut waiting, |look| self.table.each(look));
                        queue.extend(new.into_iter().map(|(key, flow)| (key, flow, deadline)));
                        continue;
                    }
                    None => return,
                },
                Some(done) = asking.join_next_with_id() => done,
            };
            let (id, found) = match done {
                Ok((id, found)) => (id, Some(found)),
                Err(panicked) => (panicked.id(), None),
            };
            let Some((key, deadline)) = asked.remove(&id) else { continue };
            let flows = waiting.remove(&key).unwrap_or_default();
            // A check that panicked has no result.
            match found.unwrap_or(CheckResult::Wrong(timeout_reason(key.missing))) {
                CheckResult::Proof(proof) => {
                    proved += flows.len() as u64;
                    self.table.prove(&flows, proof);
                    queue.extend(self.remaining_checks(&mut waiting, &flows, deadline));
                }
                CheckResult::Wrong(why) => revoked += self.revoke_unproved(&flows, why),
                CheckResult::Needless => queue.extend(self.remaining_checks(&mut waiting, &flows, deadline)),
            }
            if waiting.is_empty() {
                tracing::info!(
                    proved,
                    revoked,
                    "live flows were asked what the policy in force asks of them"
                );
                (proved, revoked) = (0, 0);
            }
        }
    }

    /// Notes the flows that wait for each check, and returns the new checks, each with one of its flows.
    fn collect_checks(
        &self,
        waiting: &mut WaitingFlows,
        each: impl FnOnce(&mut dyn FnMut(&LiveFlow)),
    ) -> Vec<(CheckKey, LiveFlow)> {
        let (snapshot, now) = (self.snapshot.load_full(), clock::timestamp());
        let mut found: HashMap<CheckKey, (LiveFlow, Vec<u64>)> = HashMap::new();
        each(&mut |flow| {
            if let Reevaluation::NeedsCheck(missing) = snapshot.reevaluate(flow, now)
                && let Some(key) = check_key(flow, missing)
            {
                let (_, flows) = found.entry(key).or_insert_with(|| (flow.clone(), Vec::new()));
                flows.push(flow.id.number);
            }
        });
        let mut new = Vec::new();
        for (key, (flow, flows)) in found {
            match waiting.entry(key) {
                Entry::Vacant(entry) => {
                    new.push((entry.key().clone(), flow));
                    entry.insert(flows);
                }
                Entry::Occupied(mut entry) => {
                    let all = entry.get_mut();
                    all.extend(flows);
                    all.sort_unstable();
                    all.dedup();
                }
            }
        }
        new
    }

    /// Returns the checks that flows still need after one is done: another policy may be in force since, which requires
    /// another of some of them, or none of the one that was checked. Their deadline stays the same.
    fn remaining_checks(
        &self,
        waiting: &mut WaitingFlows,
        flows: &[u64],
        deadline: Instant,
    ) -> impl Iterator<Item = (CheckKey, LiveFlow, Instant)> {
        let new = self.collect_checks(waiting, |look| self.table.each_of(flows, look));
        new.into_iter().map(move |(key, flow)| (key, flow, deadline))
    }

    /// Repeats a check until it has a result, or the deadline has passed.
    async fn check_until(&self, flow: &LiveFlow, deadline: Instant, dialler: Dialler) -> CheckResult {
        loop {
            // Always by the current snapshot: it may have been replaced, and require another check.
            let snapshot = self.snapshot.load_full();
            let Reevaluation::NeedsCheck(missing) = snapshot.reevaluate(flow, clock::timestamp()) else {
                return CheckResult::Needless;
            };
            let left = deadline.saturating_duration_since(clock::now());
            let asking = run_check(&snapshot, flow, missing, dialler);
            if let Ok(Some(found)) = timeout(left, asking).await {
                return found;
            }
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                return CheckResult::Wrong(timeout_reason(missing));
            }
            sleep(BETWEEN.min(left)).await;
        }
    }

    /// Revokes the flows, except those that the policy now in force allows without the check.
    fn revoke_unproved(&self, flows: &[u64], why: RevocationReason) -> u64 {
        let (snapshot, now) = (self.snapshot.load_full(), clock::timestamp());
        self.table.revoke_of(flows, |flow| match snapshot.reevaluate(flow, now) {
            Reevaluation::Keep => None,
            Reevaluation::Reset(why) => Some(why),
            Reevaluation::NeedsCheck(_) => Some(why),
        })
    }
}

fn check_key(flow: &LiveFlow, missing: CheckSet) -> Option<CheckKey> {
    let (tenant, canary) = (Arc::clone(&flow.tenant), flow.canary);
    Some(CheckKey { tenant, canary, name: name_of(flow)?.clone(), to: flow.destination, missing })
}

/// Name of the flow; rules with checks match by name.
fn name_of(flow: &LiveFlow) -> Option<&Hostname> {
    match &flow.seen {
        Some(ClientInspection::Asked { name: AskedName::Valid(name), .. }) => Some(name),
        Some(ClientInspection::Asked { .. } | ClientInspection::Unclear(_)) | None => None,
    }
}

/// Makes a check; `None` if it has no result.
async fn run_check(
    snapshot: &Snapshot,
    flow: &LiveFlow,
    missing: CheckSet,
    dialler: Dialler,
) -> Option<CheckResult> {
    let verification: &VerificationHandles = snapshot.rules_of(flow)?.verification?;
    let (name, to) = (name_of(flow)?, flow.destination);
    if missing.address {
        let found = verification.verifier.names().check(name, to.ip(), &verification.asker).await;
        if let Some((_, why)) = address_refusal(found) {
            let known = !matches!(found, AddressMatch::Unknown(_));
            return known.then_some(CheckResult::Wrong(RevocationReason(why)));
        }
    }
    if missing.certificate {
        let tenant = snapshot.tenant_if_unchanged(flow.client, &flow.tenant)?;
        let prober = CertificateProber { tenant, verification, dialler, client: flow.client, name };
        match prober.check(to).await {
            CertificateVerdict::Valid => {}
            CertificateVerdict::Invalid(why) => return Some(CheckResult::Wrong(RevocationReason(why))),
            CertificateVerdict::Unsupported(_) | CertificateVerdict::Unknown(_) => return None,
        }
    }
    Some(CheckResult::Proof(missing))
}
