//! Reloads the configuration on a thread of its own, so that neither a million names nor a dead disk delays flows,
//! metrics or other orders.

mod result;
mod start_gate;

use super::active_config::{ActiveConfig, CompiledConfig};
use super::audit::{AuditedOrder, Auditor};
use super::build_error::BuildError;
use super::deferred_drop::DeferredDrop;
use super::last_good::LastGoodStore;
use super::loaded_candidate::SharedCandidate;
use super::network::{ExpectedNetwork, NetworkThread};
use super::policy_source::PolicySource;
use super::recheck::RecheckHandle;
use super::snapshot;
use super::untracked::UntrackedPools;
use crate::admin::{
    ControlError, NO_MORE_ORDERS, ORDER_BUG, OrderReply, PendingOrder, PromoteOrder, ReloadAnswer,
    pending_order,
};
use crate::audit::{Originator, What};
use crate::clock;
use crate::config::{Config, ConfigDigest, LoadedConfig, Texts};
use crate::egress::Ledger;
use crate::gateway::GatewayState;
use crate::steering;
use crate::sys::{memory, priority};
use crate::telemetry::Metrics;
use crate::threads;
use crate::verify::VerifierCapacity;
use result::{ReloadError, ReloadSummary, answer, audit_result, say};
use start_gate::StartGate;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::Duration;

/// Most pending orders. Reloads that are pending when one ends are coalesced into the next.
const WAITING: usize = 64;
/// Interval of checks for retired snapshots to drop, and for changed files if they are watched.
const TICK: Duration = Duration::from_secs(1);

/// Request for a reload.
struct ReloadOrder {
    by: Originator,
    reply: Option<OrderReply<ReloadAnswer>>,
}

/// A task of the thread.
enum ReloadTask {
    Reload(ReloadOrder),
    /// Any other change of what is in force; it writes its own audit record, unless it panics.
    Other(AuditedOrder, Box<dyn FnOnce(&mut Reloader) + Send>),
}

impl ReloadTask {
    fn audited(self) -> AuditedOrder {
        match self {
            Self::Reload(order) => AuditedOrder { what: What::Reload, by: order.by, subject: None },
            Self::Other(order, _) => order,
        }
    }
}

/// Handle for ordering reloads. The thread ends when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct ReloadHandle {
    tasks: SyncSender<ReloadTask>,
    auditor: Auditor,
}

impl ReloadHandle {
    /// Orders a reload; its result is sent once it is carried out.
    pub(crate) fn order(&self, by: Originator) -> Result<PendingOrder<ReloadAnswer>, ControlError> {
        let (reply, answer) = pending_order();
        self.put(ReloadTask::Reload(ReloadOrder { by, reply: Some(reply) }))?;
        Ok(answer)
    }

    /// Runs another task on the thread; its result is sent once it is carried out.
    pub(crate) fn run<A: Send + 'static>(
        &self,
        order: AuditedOrder,
        task: impl FnOnce(&mut Reloader) -> A + Send + 'static,
    ) -> Result<PendingOrder<A>, ControlError> {
        let (reply, answer) = pending_order();
        let work = move |reloader: &mut Reloader| {
            reply.begin();
            reply.send(task(reloader));
        };
        self.put(ReloadTask::Other(order, Box::new(work)))?;
        Ok(answer)
    }

    /// Queues a task. One that is not taken is recorded as refused.
    fn put(&self, task: ReloadTask) -> Result<(), ControlError> {
        self.tasks.try_send(task).map_err(|error| {
            let (task, why) = match error {
                TrySendError::Full(task) => (
                    task,
                    format!(
                        "{WAITING} orders are waiting already; see the gateway's log for what holds them up"
                    ),
                ),
                TrySendError::Disconnected(task) => (task, NO_MORE_ORDERS.to_owned()),
            };
            self.auditor.refused(task.audited(), &why);
            ControlError::Unavailable(why)
        })
    }
}

/// State of the reload thread.
pub(crate) struct Reloader {
    pub(crate) source: PolicySource,
    /// Configuration in force without tenants and pools: they live on in compiled form, and a million names are not
    /// kept twice.
    pub(crate) running: Config,
    /// Outline of the configuration in force.
    pub(crate) outline: ConfigDigest,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) capacity: VerifierCapacity,
    pub(crate) gateway: Arc<GatewayState>,
    pub(crate) in_force: Arc<ActiveConfig>,
    pub(crate) auditor: Auditor,
    pub(crate) retired: DeferredDrop,
    pub(crate) candidates: SharedCandidate,
    pub(crate) rechecks: RecheckHandle,
    /// Store for configurations that come into force.
    pub(crate) last_good: LastGoodStore,
    /// Configuration that the gateway started with, until it is stored; `None` if it is stored already.
    pub(crate) started_with: Option<Texts>,
    pub(crate) network: NetworkThread,
    pub(crate) untracked: UntrackedPools,
}

impl Reloader {
    /// Starts the thread, which does nothing before the whole start has succeeded.
    pub(crate) fn start(mut self) -> Result<(ReloadHandle, StartGate), BuildError> {
        let (orders, ordered) = mpsc::sync_channel(WAITING);
        let (gate, waiter) = StartGate::new();
        let auditor = self.auditor.clone();
        threads::spawn("reload", move || {
            priority::yield_to_others();
            waiter.then(|| self.serve(&ordered));
        })?;
        Ok((ReloadHandle { tasks: orders, auditor }, gate))
    }

    fn serve(&mut self, ordered: &Receiver<ReloadTask>) {
        if let Some(texts) = self.started_with.take() {
            self.last_good.keep_started(&texts);
        }
        // A start reads as much as a reload does, and that memory is free by now.
        memory::give_back();
        loop {
            let next = ordered.recv_timeout(TICK);
            self.catch_panic(|reloader| {
                reloader.watch_candidate();
                reloader.sweep_untracked();
            });
            let worked = match next {
                Ok(first) => {
                    self.run_tasks(std::iter::once(first).chain(ordered.try_iter()).take(WAITING));
                    true
                }
                Err(RecvTimeoutError::Timeout) if self.running.watch && self.source.has_changed() => {
                    self.carry_out(vec![ReloadOrder { by: Originator::Watch, reply: None }]);
                    true
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.retired.sweep() || worked {
                memory::give_back();
            }
        }
    }

    /// Carries out tasks in order; consecutive reloads are coalesced.
    fn run_tasks(&mut self, tasks: impl Iterator<Item = ReloadTask>) {
        let mut orders = Vec::new();
        for task in tasks {
            match task {
                ReloadTask::Reload(order) => orders.push(order),
                ReloadTask::Other(order, task) => {
                    self.carry_out(std::mem::take(&mut orders));
                    // Reports a rollback before the task replaces the candidate.
                    self.catch_panic(|reloader| reloader.watch_candidate());
                    if !self.catch_panic(task) {
                        self.auditor.refused(order, ORDER_BUG);
                    }
                }
            }
        }
        self.carry_out(orders);
    }

    /// Catches a panic, so that the thread goes on. Returns false after one.
    fn catch_panic(&mut self, work: impl FnOnce(&mut Self)) -> bool {
        let went_well = catch_unwind(AssertUnwindSafe(|| work(self))).is_ok();
        if !went_well {
            tracing::error!("the reload thread came upon a bug, and goes on; please report it");
        }
        went_well
    }

    /// Reloads once, and sends the result to all who ordered it.
    fn carry_out(&mut self, orders: Vec<ReloadOrder>) {
        if orders.is_empty() {
            return;
        }
        orders.iter().filter_map(|order| order.reply.as_ref()).for_each(OrderReply::begin);
        let before = Arc::clone(&self.in_force.current().version);
        let result = self.reload(None);
        let config = Arc::clone(&self.in_force.current().version);
        if result.is_err() {
            self.in_force.refused();
        }
        say(&result, &config);
        for ReloadOrder { by, reply } in orders {
            self.auditor.exchanged(What::Reload, by, &before, audit_result(&result));
            if let Some(reply) = reply {
                reply.send(answer(&result, &config));
            }
        }
    }

    /// Removes former pools whose flows have ended.
    fn sweep_untracked(&mut self) {
        let table = &self.gateway.table;
        self.untracked.sweep(clock::now(), || {
            let mut sources = Vec::new();
            table.each(|flow| sources.push(flow.source.socket()));
            sources
        });
    }

    /// A reload that takes effect only if it puts the candidate in force.
    pub(crate) fn promote(&mut self, by: Originator, order: PromoteOrder) -> ReloadAnswer {
        let before = Arc::clone(&self.in_force.current().version);
        let result = self.reload(Some(order));
        let config = Arc::clone(&self.in_force.current().version);
        say(&result, &config);
        self.auditor.exchanged(What::CandidatePromote, by, &before, audit_result(&result));
        answer(&result, &config)
    }

    fn reload(&mut self, promotion: Option<PromoteOrder>) -> Result<ReloadSummary, ReloadError> {
        catch_unwind(AssertUnwindSafe(|| self.exchange(promotion))).unwrap_or(Err(ReloadError::Bug))
    }

    /// Puts the files' configuration in force. For a promotion only if it matches the candidate, which ends then.
    fn exchange(&mut self, promotion: Option<PromoteOrder>) -> Result<ReloadSummary, ReloadError> {
        let LoadedConfig { mut config, warnings, files, texts, .. } = self.source.read()?;
        let expected = ExpectedNetwork::of(&config, self.running.gateway.listen.port());
        steering::replace(&self.running.steering.interfaces, &expected.params)?;
        let read = ConfigDigest::of(&config);
        let difference = self.outline.difference(&read);
        for header in &difference.restart {
            tracing::warn!("{header} has changed; that takes effect at the next restart");
        }
        config.keep_fixed(&self.running);
        let before = self.gateway.snapshot.load_full();
        let mut built =
            CompiledConfig::new(&config, files, &self.ledger, &self.metrics, &self.capacity, Some(&before))?;
        drop(before);
        if let Some(order) = promotion {
            self.check_candidate(&built.current.version, order)?;
            built.snapshot.candidate = None;
        }
        // Before the first flow leaves by them.
        self.untracked.expect(&config.pools, clock::now());
        config.tenants = Vec::new();
        config.pools = Vec::new();
        // Nothing below can fail.
        self.in_force.exchange(&built, &difference.restart);
        snapshot::put_limits_in_force(&built.snapshot);
        let before = self.gateway.snapshot.swap(Arc::new(built.snapshot));
        self.retired.add(before);
        self.resolve_in_advance();
        let judged = self.gateway.reevaluate(clock::policy_time());
        self.rechecks.order(judged);
        self.running = config;
        self.outline = read.fixed_as_in(&self.outline);
        let unkept = self.last_good.keep_in_force(&texts);
        let steering = self.network.expect(expected);
        let unproved_start = self.in_force.fallback().is_some();
        Ok(ReloadSummary { difference, steering, warnings, judged, unproved_start, unkept })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::SocketPeer;

    #[test]
    fn refused_orders_tell_why_and_are_audited() {
        let folder = tempfile::tempdir().unwrap();
        let auditor = Auditor::in_test(folder.path());
        let (tasks, queue) = mpsc::sync_channel(1);
        let handle = ReloadHandle { tasks, auditor: auditor.clone() };
        let by = Originator::Control(SocketPeer { uid: Some(7), gid: None, pid: None });
        let drop_candidate =
            || handle.run(AuditedOrder { what: What::CandidateDrop, by, subject: None }, |_| ());
        handle.order(by).unwrap();
        let full = "64 orders are waiting already; see the gateway's log for what holds them up";
        let refused = |why: &str| Some(ControlError::Unavailable(why.to_owned()));
        assert_eq!(drop_candidate().err(), refused(full));
        drop(queue);
        assert_eq!(drop_candidate().err(), refused(NO_MORE_ORDERS));
        assert_eq!(handle.order(by).err(), refused(NO_MORE_ORDERS));
        let told = auditor.records(folder.path());
        let told = told.iter().map(|line| [&line["change"], &line["result"], &line["why"]]);
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                ["candidate_drop", "refused", full],
                ["candidate_drop", "refused", NO_MORE_ORDERS],
                ["reload", "refused", NO_MORE_ORDERS],
            ]
        );
    }
}
