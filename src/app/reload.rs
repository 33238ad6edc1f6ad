//! Reads the configuration anew and puts it in force, on a thread of its own: neither a million names nor a dead disk hold
//! up flows, metrics or other orders.

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

/// Orders that may wait. All that wait when a reload ends are served by the next one.
const WAITING: usize = 64;
/// How often what is out of force is looked at, and the files if they are watched.
const TICK: Duration = Duration::from_secs(1);

/// Somebody wants the configuration read anew.
struct Order {
    by: By,
    reply: Option<oneshot::Sender<ReloadAnswer>>,
}

/// What the thread is to do.
enum Task {
    Reload(Order),
    /// Anything else that changes what is in force.
    Other(Box<dyn FnOnce(&mut Reloader) + Send>),
}

/// Where reloads are ordered. The thread ends when the last one of these is gone.
#[derive(Clone)]
pub(super) struct Reloads(SyncSender<Task>);

impl Reloads {
    /// Orders a reload, and yields where its result will be told.
    pub(super) fn order(&self, by: By) -> Result<oneshot::Receiver<ReloadAnswer>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.put(Task::Reload(Order { by, reply: Some(reply) }))?;
        Ok(answer)
    }

    /// Has something else done, and yields where its result will be told.
    pub(super) fn run<A: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Reloader) -> A + Send + 'static,
    ) -> Result<oneshot::Receiver<A>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.put(Task::Other(Box::new(move |reloader| {
            // Whoever asked may have gone.
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

/// What a reload needs.
pub(super) struct Reloader {
    /// The main file.
    pub(super) path: PathBuf,
    /// In force, without tenants and pools: what was made of those is elsewhere, and a million names are not kept twice.
    pub(super) running: Config,
    /// Of the configuration in force.
    pub(super) outline: Outline,
    pub(super) ledger: Arc<Ledger>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) in_force: Arc<InForce>,
    pub(super) auditor: Auditor,
    pub(super) retired: Retired,
    pub(super) candidates: Candidates,
    pub(super) rechecks: Rechecks,
    /// Of the files that were read last.
    pub(super) files: FileWatch,
    /// Where what comes into force is kept.
    pub(super) last_good: LastGood,
    /// What the gateway has started with, until it is kept; `None` if it was kept already.
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

/// Why a reload took no effect; the configuration before it stays in force.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    /// Something is wrong with the files.
    #[error(transparent)]
    Config(#[from] config::Report),
    /// It could not be built.
    #[error(transparent)]
    Build(#[from] StartError),
    /// It was to bring the candidate into force.
    #[error(transparent)]
    NotTheCandidate(#[from] NotTheCandidate),
    /// It panicked.
    #[error("the reload failed in a way that is a bug; please report it")]
    Bug,
}

impl Reloader {
    /// Waits for orders.
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
        // What a start reads is as large as what a reload does, and gone by now.
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

    /// In their order; reloads that follow each other are one.
    fn work_off(&mut self, tasks: impl Iterator<Item = Task>) {
        let mut orders = Vec::new();
        for task in tasks {
            match task {
                Task::Reload(order) => orders.push(order),
                Task::Other(task) => {
                    self.carry_out(std::mem::take(&mut orders));
                    self.unharmed(|reloader| {
                        // It may have fallen back a moment ago, and is about to be another one.
                        reloader.watch_candidate();
                        task(reloader);
                    });
                }
            }
        }
        self.carry_out(orders);
    }

    /// Does something after whose panic the thread goes on.
    fn unharmed(&mut self, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            tracing::error!("an order failed in a way that is a bug; please report it");
        }
    }

    /// One reload, told to everybody who wanted it.
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
                // Whoever asked may have gone.
                let _ = reply.send(answer(&result, &config));
            }
        }
    }

    /// A reload that takes effect only if it brings the candidate into force.
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

    /// Exchanges the configuration in force for what the files say now.
    /// If a candidate is to be `promoted` by it, only if they say what that does; it ends then.
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
        // From here on nothing can fail.
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

/// What the audit log is told: how much has changed, or why nothing has.
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

/// What became of packet rules and routes, and what is to be done.
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
