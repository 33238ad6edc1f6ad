//! Makes the checks that the policy in force requires of live flows and that were not made before: in the background,
//! and within a bounded time, after which a check without result counts as failed.

use super::again::Fate;
use super::certification::Prober;
use super::flow_table::{LiveFlow, Proof, Revoked};
use super::snapshot::{Snapshot, Verification};
use super::verification::address_refusal;
use super::worker::Gateway;
use crate::addr::DialAddr;
use crate::clock;
use crate::egress::Dialler;
use crate::hostname::{AskedName, Hostname};
use crate::policy::Seen;
use crate::verify::{Certificate, Match};
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
pub struct Recheck {
    /// Dialler of the certificate checks.
    pub dialler: Dialler,
    /// Time after which a flow without result is reset.
    pub patience: Duration,
}

/// Key of a check: flows that have it in common share the result.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    tenant: Arc<str>,
    canary: bool,
    name: Hostname,
    to: DialAddr,
    missing: Proof,
}

/// Result of a check.
enum Found {
    /// Success: these are all the checks that the flow was missing.
    Proof(Proof),
    /// Failure: the flow is to be reset.
    Wrong(Revoked),
    /// The policy in force no longer requires it of that flow.
    Needless,
}

/// Reason to reset a flow whose checks had no result in time.
fn too_late(missing: Proof) -> Revoked {
    Revoked(match (missing.address, missing.certificate) {
        (true, false) => "nobody could say in time whether the address is one of the name's",
        (false, true) => "nobody could say in time whether the server proves the name",
        (true, true) | (false, false) => "nobody could say in time whether address and server are the name's",
    })
}

/// Numbers of the flows that wait for each check.
type Waiting = HashMap<Question, Vec<u64>>;

impl Gateway {
    /// Rechecks all live flows at each order, until the channel is closed.
    pub async fn recheck(self: Arc<Self>, how: Recheck, mut orders: mpsc::Receiver<()>) {
        let (mut queue, mut waiting) = (VecDeque::new(), Waiting::new());
        let (mut proved, mut revoked) = (0, 0);
        let (mut asking, mut asked) = (JoinSet::new(), HashMap::new());
        loop {
            while asking.len() < AT_ONCE
                && let Some((question, flow, deadline)) = queue.pop_front()
            {
                let gateway = Arc::clone(&self);
                let task = asking.spawn(async move { gateway.ask_until(&flow, deadline, how.dialler).await });
                asked.insert(task.id(), (question, deadline));
            }
            let done = tokio::select! {
                order = orders.recv() => match order {
                    Some(()) => {
                        let deadline = clock::now() + how.patience;
                        let new = self.collect(&mut waiting, |look| self.table.each(look));
                        queue.extend(new.into_iter().map(|(question, flow)| (question, flow, deadline)));
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
            let Some((question, deadline)) = asked.remove(&id) else { continue };
            let flows = waiting.remove(&question).unwrap_or_default();
            // A check that panicked has no result.
            match found.unwrap_or(Found::Wrong(too_late(question.missing))) {
                Found::Proof(proof) => {
                    proved += flows.len() as u64;
                    self.table.prove(&flows, proof);
                    queue.extend(self.left_over(&mut waiting, &flows, deadline));
                }
                Found::Wrong(why) => revoked += self.revoke_unproved(&flows, why),
                Found::Needless => queue.extend(self.left_over(&mut waiting, &flows, deadline)),
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
    fn collect(
        &self,
        waiting: &mut Waiting,
        each: impl FnOnce(&mut dyn FnMut(&LiveFlow)),
    ) -> Vec<(Question, LiveFlow)> {
        let (snapshot, now) = (self.snapshot.load_full(), clock::timestamp());
        let mut found: HashMap<Question, (LiveFlow, Vec<u64>)> = HashMap::new();
        each(&mut |flow| {
            if let Fate::Unproved(missing) = snapshot.fate(flow, now)
                && let Some(question) = question(flow, missing)
            {
                let (_, flows) = found.entry(question).or_insert_with(|| (flow.clone(), Vec::new()));
                flows.push(flow.id.number);
            }
        });
        let mut new = Vec::new();
        for (question, (flow, flows)) in found {
            match waiting.entry(question) {
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
    fn left_over(
        &self,
        waiting: &mut Waiting,
        flows: &[u64],
        deadline: Instant,
    ) -> impl Iterator<Item = (Question, LiveFlow, Instant)> {
        let new = self.collect(waiting, |look| self.table.each_of(flows, look));
        new.into_iter().map(move |(question, flow)| (question, flow, deadline))
    }

    /// Repeats a check until it has a result, or the deadline has passed.
    async fn ask_until(&self, flow: &LiveFlow, deadline: Instant, dialler: Dialler) -> Found {
        loop {
            // Always by the current snapshot: it may have been replaced, and require another check.
            let snapshot = self.snapshot.load_full();
            let Fate::Unproved(missing) = snapshot.fate(flow, clock::timestamp()) else {
                return Found::Needless;
            };
            let left = deadline.saturating_duration_since(clock::now());
            let asking = ask(&snapshot, flow, missing, dialler);
            if let Ok(Some(found)) = timeout(left, asking).await {
                return found;
            }
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Found::Wrong(too_late(missing));
            }
            sleep(BETWEEN.min(left)).await;
        }
    }

    /// Revokes the flows, except those that the policy now in force allows without the check.
    fn revoke_unproved(&self, flows: &[u64], why: Revoked) -> u64 {
        let (snapshot, now) = (self.snapshot.load_full(), clock::timestamp());
        self.table.revoke_of(flows, |flow| match snapshot.fate(flow, now) {
            Fate::Stays => None,
            Fate::Goes(why) => Some(why),
            Fate::Unproved(_) => Some(why),
        })
    }
}

fn question(flow: &LiveFlow, missing: Proof) -> Option<Question> {
    let (tenant, canary) = (Arc::clone(&flow.tenant), flow.canary);
    Some(Question { tenant, canary, name: name_of(flow)?.clone(), to: flow.destination, missing })
}

/// Name of the flow; rules with checks match by name.
fn name_of(flow: &LiveFlow) -> Option<&Hostname> {
    match &flow.seen {
        Some(Seen::Asked { name: AskedName::Valid(name), .. }) => Some(name),
        Some(Seen::Asked { .. } | Seen::Unclear(_)) | None => None,
    }
}

/// Makes a check; `None` if it has no result.
async fn ask(snapshot: &Snapshot, flow: &LiveFlow, missing: Proof, dialler: Dialler) -> Option<Found> {
    let verification: &Verification = snapshot.ruling_of(flow)?.verification?;
    let (name, to) = (name_of(flow)?, flow.destination);
    if missing.address {
        let found = verification.verifier.names().check(name, to.ip(), &verification.asker).await;
        if let Some((_, why)) = address_refusal(found) {
            let known = !matches!(found, Match::Unknown(_));
            return known.then_some(Found::Wrong(Revoked(why)));
        }
    }
    if missing.certificate {
        let tenant = snapshot.still_of(flow.client, &flow.tenant)?;
        let prober = Prober { tenant, verification, dialler, client: flow.client, name };
        match prober.check(to).await {
            Certificate::Valid => {}
            Certificate::Invalid(why) => return Some(Found::Wrong(Revoked(why))),
            Certificate::Unsupported(_) | Certificate::Unknown(_) => return None,
        }
    }
    Some(Found::Proof(missing))
}
