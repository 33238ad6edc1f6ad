//! Reloads the configuration on a thread of its own, so that neither a million names nor a dead disk delays flows,
//! metrics or other orders.

use super::StartError;
use super::audit::Auditor;
use super::candidate::{Candidates, NotTheCandidate};
use super::file_watch::FileWatch;
use super::in_force::{Built, InForce};
use super::last_good::{Kept, LastGood};
use super::network::{Expected, Network, Renewal};
use super::recheck::Rechecks;
use super::retired::Retired;
use super::snapshot;
use crate::admin::{Refusal, ReloadAnswer};
use crate::audit::{By, Difference, What};
use crate::clock;
use crate::config::{self, Config, Diagnostic, Loaded, Outline, Texts};
use crate::egress::Ledger;
use crate::gateway::{Gateway, Judged};
use crate::steering::REMEDY;
use crate::sys::{memory, priority};
use crate::telemetry::Metrics;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

/// Most pending orders. Reloads that are pending when one ends are coalesced into the next.
const WAITING: usize = 64;
/// Interval of checks for retired snapshots to drop, and for changed files if they are watched.
const TICK: Duration = Duration::from_secs(1);

/// Request for a reload.
struct Order {
    by: By,
    reply: Option<oneshot::Sender<ReloadAnswer>>,
}

/// A task of the thread.
enum Task {
    Reload(Order),
    /// Any other change of what is in force.
    Other(Box<dyn FnOnce(&mut Reloader) + Send>),
}

/// Handle for ordering reloads. The thread ends when the last handle is dropped.
#[derive(Clone)]
pub(super) struct Reloads(SyncSender<Task>);

impl Reloads {
    /// Orders a reload; returns the receiver of its result.
    pub(super) fn order(&self, by: By) -> Result<oneshot::Receiver<ReloadAnswer>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.put(Task::Reload(Order { by, reply: Some(reply) }))?;
        Ok(answer)
    }

    /// Runs another task on the thread; returns the receiver of its result.
    pub(super) fn run<A: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Reloader) -> A + Send + 'static,
    ) -> Result<oneshot::Receiver<A>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.put(Task::Other(Box::new(move |reloader| {
            // The receiver may be gone.
            let _ = reply.send(task(reloader));
        })))?;
        Ok(answer)
    }

    fn put(&self, task: Task) -> Result<(), Refusal> {
        self.0.try_send(task).map_err(|_| {
            Refusal(format!(
                "{WAITING} reloads are waiting already; see the gateway's log for what holds them up"
            ))
        })
    }
}

/// State of the reload thread.
pub(super) struct Reloader {
    /// The main file.
    pub(super) path: PathBuf,
    /// Configuration in force without tenants and pools: they live on in compiled form, and a million names are not
    /// kept twice.
    pub(super) running: Config,
    /// Outline of the configuration in force.
    pub(super) outline: Outline,
    pub(super) ledger: Arc<Ledger>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) in_force: Arc<InForce>,
    pub(super) auditor: Auditor,
    pub(super) retired: Retired,
    pub(super) candidates: Candidates,
    pub(super) rechecks: Rechecks,
    /// Watch of the files that were last read.
    pub(super) files: FileWatch,
    /// Store for configurations that come into force.
    pub(super) last_good: LastGood,
    /// Configuration that the gateway started with, until it is stored; `None` if it is stored already.
    pub(super) started_with: Option<Texts>,
    pub(super) network: Network,
}

/// A configuration that came into force.
struct Reloaded {
    difference: Difference,
    steering: Renewal,
    warnings: Vec<Diagnostic>,
    judged: Judged,
}

/// Reason why a reload took no effect; the previous configuration stays in force.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    /// The files have errors.
    #[error(transparent)]
    Config(#[from] config::Report),
    /// The configuration could not be built.
    #[error(transparent)]
    Build(#[from] StartError),
    /// A promotion, and the files do not match the candidate.
    #[error(transparent)]
    NotTheCandidate(#[from] NotTheCandidate),
    /// The reload panicked.
    #[error("the reload failed in a way that is a bug; please report it")]
    Bug,
}

impl Reloader {
    /// Starts the thread.
    pub(super) fn start(mut self) -> Result<Reloads, StartError> {
        let (orders, ordered) = mpsc::sync_channel(WAITING);
        thread::Builder::new().name("reload".to_owned()).spawn(move || {
            priority::yield_to_others();
            self.serve(&ordered);
        })?;
        Ok(Reloads(orders))
    }

    fn serve(&mut self, ordered: &Receiver<Task>) {
        if let Some(texts) = self.started_with.take() {
            self.last_good.keep(Kept::Started, &texts);
            self.last_good.keep(Kept::InForce, &texts);
        }
        // A start reads as much as a reload does, and that memory is free by now.
        memory::give_back();
        loop {
            let next = ordered.recv_timeout(TICK);
            self.unharmed(|reloader| reloader.watch_candidate());
            let worked = match next {
                Ok(first) => {
                    self.work_off(std::iter::once(first).chain(ordered.try_iter()).take(WAITING));
                    true
                }
                Err(RecvTimeoutError::Timeout) if self.running.watch && self.files.is_due() => {
                    self.carry_out(vec![Order { by: By::Watch, reply: None }]);
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
    fn work_off(&mut self, tasks: impl Iterator<Item = Task>) {
        let mut orders = Vec::new();
        for task in tasks {
            match task {
                Task::Reload(order) => orders.push(order),
                Task::Other(task) => {
                    self.carry_out(std::mem::take(&mut orders));
                    self.unharmed(|reloader| {
                        // Reports a rollback before the task replaces the candidate.
                        reloader.watch_candidate();
                        task(reloader);
                    });
                }
            }
        }
        self.carry_out(orders);
    }

    /// Catches a panic, so that the thread goes on.
    fn unharmed(&mut self, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            tracing::error!("an order failed in a way that is a bug; please report it");
        }
    }

    /// Reloads once, and sends the result to all who ordered it.
    fn carry_out(&mut self, orders: Vec<Order>) {
        if orders.is_empty() {
            return;
        }
        let before = Arc::clone(&self.in_force.current().version);
        let result = self.reload(false);
        let config = Arc::clone(&self.in_force.current().version);
        if result.is_err() {
            self.in_force.refused();
        }
        say(&result, &config);
        for Order { by, reply } in orders {
            self.auditor.exchanged(What::Reload, by, &before, audit_result(&result));
            if let Some(reply) = reply {
                // The receiver may be gone.
                let _ = reply.send(answer(&result, &config));
            }
        }
    }

    /// A reload that takes effect only if it puts the candidate in force.
    pub(super) fn promote(&mut self, by: By) -> ReloadAnswer {
        let before = Arc::clone(&self.in_force.current().version);
        let result = self.reload(true);
        let config = Arc::clone(&self.in_force.current().version);
        say(&result, &config);
        self.auditor.exchanged(What::CandidatePromote, by, &before, audit_result(&result));
        answer(&result, &config)
    }

    fn reload(&mut self, promoted: bool) -> Result<Reloaded, ReloadError> {
        catch_unwind(AssertUnwindSafe(|| self.exchange(promoted))).unwrap_or(Err(ReloadError::Bug))
    }

    /// Puts the files' configuration in force. If `promoted`, only if it matches the candidate, which ends then.
    fn exchange(&mut self, promoted: bool) -> Result<Reloaded, ReloadError> {
        let loaded = config::load(&self.path);
        self.files.read(loaded.as_ref().map_or_else(|report| &report.read, |loaded| &loaded.read).clone());
        let Loaded { mut config, warnings, files, texts, .. } = loaded?;
        let read = Outline::of(&config);
        let difference = self.outline.difference(&read);
        for header in &difference.restart {
            tracing::warn!("{header} has changed; that takes effect at the next restart");
        }
        let expected = Expected::of(&config);
        config.keep_fixed(&self.running);
        let before = self.gateway.snapshot.load_full();
        let mut built = Built::new(&config, files, &self.ledger, &self.metrics, Some(&before))?;
        drop(before);
        if promoted {
            self.check_candidate(&built.current.version)?;
            built.snapshot.candidate = None;
        }
        config.tenants = Vec::new();
        config.pools = Vec::new();
        // Nothing below can fail.
        self.in_force.exchange(&built);
        snapshot::put_limits_in_force(&built.snapshot);
        let before = self.gateway.snapshot.swap(Arc::new(built.snapshot));
        self.retired.add(before);
        self.pin_names();
        let judged = self.gateway.judge_again(clock::timestamp());
        self.rechecks.order(judged);
        self.running = config;
        self.outline = read.fixed_as_in(&self.outline);
        self.last_good.keep(Kept::InForce, &texts);
        let steering = self.network.expect(expected);
        Ok(Reloaded { difference, steering, warnings, judged })
    }
}

fn say(result: &Result<Reloaded, ReloadError>, config: &str) {
    match result {
        Ok(Reloaded { difference, steering, warnings, judged: Judged { revoked, unproved } }) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            tracing::info!(%config, revoked, unproved, "reloaded: {difference}");
            match (steering, said_of_steering(*steering)) {
                (Renewal::Unneeded, _) | (_, None) => {}
                (Renewal::Renewed, Some(said)) => tracing::info!("{said}"),
                (Renewal::Pending | Renewal::ByHand, Some(said)) => tracing::warn!("{said}"),
            }
        }
        Err(error) => {
            tracing::error!("the configuration was not reloaded, the one before stays in force:\n{error}");
        }
    }
}

/// Result for the audit log: the differences and resets, or the reason for the failure.
fn audit_result(result: &Result<Reloaded, ReloadError>) -> Result<(Difference, u64), String> {
    match result {
        Ok(Reloaded { difference, judged, .. }) => Ok((difference.clone(), judged.revoked)),
        Err(ReloadError::Config(report)) => {
            let first = report.diagnostics.iter().find(|found| found.severity == config::Severity::Error);
            let first = first.map(ToString::to_string).unwrap_or_default();
            match report.errors() {
                0 | 1 => Err(first),
                2 => Err(format!("{first} (and one more error)")),
                errors => Err(format!("{first} (and {} more errors)", errors - 1)),
            }
        }
        Err(error @ (ReloadError::Build(_) | ReloadError::NotTheCandidate(_) | ReloadError::Bug)) => {
            Err(error.to_string())
        }
    }
}

/// Describes the change of packet rules and routes, and any step left to the operator.
fn said_of_steering(renewal: Renewal) -> Option<String> {
    match renewal {
        Renewal::Unneeded => None,
        Renewal::Renewed => Some("steering was renewed for it".to_owned()),
        Renewal::Pending => Some(format!(
            "steering has to be renewed for it and is not yet; see `egret steering status`, or run {REMEDY}"
        )),
        Renewal::ByHand => Some(format!("steering has to be renewed for it: run {REMEDY}")),
    }
}

fn answer(result: &Result<Reloaded, ReloadError>, config: &str) -> ReloadAnswer {
    let lines = |found: &[Diagnostic]| found.iter().map(ToString::to_string).collect();
    let steering = result.as_ref().ok().and_then(|reloaded| said_of_steering(reloaded.steering));
    let (difference, Judged { revoked, unproved }, findings) = match result {
        Ok(Reloaded { difference, warnings, judged, .. }) => {
            (Some(difference.clone()), *judged, lines(warnings))
        }
        Err(ReloadError::Config(report)) => (None, Judged::default(), lines(&report.diagnostics)),
        Err(error @ (ReloadError::Build(_) | ReloadError::NotTheCandidate(_) | ReloadError::Bug)) => {
            (None, Judged::default(), vec![error.to_string()])
        }
    };
    ReloadAnswer {
        reloaded: result.is_ok(),
        config: config.to_owned(),
        difference,
        revoked,
        unproved,
        steering,
        findings,
    }
}
