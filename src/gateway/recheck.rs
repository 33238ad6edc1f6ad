//! Makes the checks that the policy in force requires of live flows and that were not made before: in the background,
//! in turns of tenants, and within a bounded time, after which a check without result counts as failed.

mod turns;

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
use tokio::time::{sleep_until, timeout};
use turns::CheckTurns;

/// Delay until a check without result is repeated.
const BETWEEN: Duration = Duration::from_secs(2);
/// Longest time that a check keeps its place: a lookup and a probe take five seconds each.
const LONGEST: Duration = Duration::from_secs(10);
/// Time from the order after which a check counts as failed even if others left it no turn, as a multiple of `patience`.
const PATIENCE_IN_ALL: u32 = 5;

/// Settings of the checks of live flows.
#[derive(Debug, Clone, Copy)]
pub struct RecheckSettings {
    /// Dialler of the certificate checks.
    pub dialler: Dialler,
    /// Time from the first check after which a flow without result is reset.
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

/// Times after which a check without result counts as failed.
#[derive(Debug, Clone, Copy)]
struct CheckExpiry {
    /// By when the check began first; `None` until then.
    from_start: Option<Instant>,
    /// By when it was ordered.
    from_order: Instant,
}

impl CheckExpiry {
    /// Returns the deadline of a check that begins now, for the first time or again.
    fn begin(&mut self, now: Instant, patience: Duration) -> Instant {
        (*self.from_start.get_or_insert(now + patience)).min(self.from_order)
    }
}

/// A check to make, with one of its flows.
#[derive(Debug)]
struct QueuedCheck {
    key: CheckKey,
    flow: LiveFlow,
    expiry: CheckExpiry,
}

/// Queues new checks, each behind all others of its tenant.
fn queue(turns: &mut CheckTurns<QueuedCheck>, new: Vec<(CheckKey, LiveFlow)>, expiry: CheckExpiry) {
    for (key, flow) in new {
        turns.push(Arc::clone(&key.tenant), QueuedCheck { key, flow, expiry });
    }
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
        let (mut turns, mut waiting) = (CheckTurns::default(), WaitingFlows::new());
        // Checks without result, by the time when they are due again.
        let mut later: VecDeque<(Instant, QueuedCheck)> = VecDeque::new();
        let (mut proved, mut revoked) = (0, 0);
        let (mut asking, mut asked) = (JoinSet::new(), HashMap::new());
        loop {
            let now = clock::now();
            while later.front().is_some_and(|(due, _)| *due <= now)
                && let Some((_, check)) = later.pop_front()
            {
                turns.push(Arc::clone(&check.key.tenant), check);
            }
            while let Some(mut check) = turns.begin() {
                let deadline = check.expiry.begin(now, how.patience);
                let (gateway, flow) = (Arc::clone(&self), check.flow.clone());
                let task =
                    asking.spawn(async move { gateway.check_once(&flow, deadline, how.dialler).await });
                asked.insert(task.id(), check);
            }
            let due = later.front().map(|(due, _)| *due);
            let done = tokio::select! {
                order = orders.recv() => match order {
                    Some(()) => {
                        let from_order = clock::now() + how.patience * PATIENCE_IN_ALL;
                        let expiry = CheckExpiry { from_start: None, from_order };
                        let new = self.collect_checks(&mut waiting, |look| self.table.each(look));
                        queue(&mut turns, new, expiry);
                        continue;
                    }
                    None => return,
                },
                Some(done) = asking.join_next_with_id() => done,
                () = sleep_until(due.unwrap_or(now).into()), if due.is_some() => continue,
            };
            let (id, found) = match done {
                Ok(done) => done,
                Err(panicked) => (panicked.id(), None),
            };
            let Some(check) = asked.remove(&id) else { continue };
            turns.ended(&check.key.tenant);
            let Some(found) = found else {
                later.push_back((clock::now() + BETWEEN, check));
                continue;
            };
            let flows = waiting.remove(&check.key).unwrap_or_default();
            let left = match found {
                CheckResult::Proof(proof) => {
                    proved += flows.len() as u64;
                    self.table.prove(&flows, proof);
                    flows
                }
                CheckResult::Wrong(why) => {
                    revoked += self.revoke_unproved(&flows, why);
                    Vec::new()
                }
                CheckResult::Needless => flows,
            };
            // Another policy may be in force since, which requires another check of some of them, or none of the one that
            // was made. The deadline stays the same.
            let new = self.collect_checks(&mut waiting, |look| self.table.each_of(&left, look));
            queue(&mut turns, new, check.expiry);
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
        let (snapshot, now) = (self.snapshot.load_full(), clock::policy_time());
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

    /// Makes a check. `None` if it has no result and the deadline has not passed: it is to be repeated.
    async fn check_once(&self, flow: &LiveFlow, deadline: Instant, dialler: Dialler) -> Option<CheckResult> {
        // Always by the current snapshot: it may have been replaced, and require another check.
        let snapshot = self.snapshot.load_full();
        let Reevaluation::NeedsCheck(missing) = snapshot.reevaluate(flow, clock::policy_time()) else {
            return Some(CheckResult::Needless);
        };
        let left = deadline.saturating_duration_since(clock::now());
        if !left.is_zero()
            && let Ok(Some(found)) =
                timeout(left.min(LONGEST), run_check(&snapshot, flow, missing, dialler)).await
        {
            return Some(found);
        }
        (clock::now() >= deadline).then_some(CheckResult::Wrong(timeout_reason(missing)))
    }

    /// Revokes the flows, except those that the policy now in force allows without the check.
    fn revoke_unproved(&self, flows: &[u64], why: RevocationReason) -> u64 {
        let (snapshot, now) = (self.snapshot.load_full(), clock::policy_time());
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
