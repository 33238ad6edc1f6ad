//! The composition root: builds everything from a checked configuration, runs it, and takes it down again.

mod health;
mod late_listener;
mod limits;
mod listeners;
mod observe;
mod opened;
mod run;
mod signals;
mod start_error;
mod startup;
mod workers;

pub use limits::descriptors_for;
pub use run::{RunError, run};
pub use start_error::StartError;
pub use startup::Startup;
pub use workers::count as worker_count;

use crate::admin::{self, AdminState, ControlHandlers, ControlSocket, Readiness};
use crate::audit::Originator;
use crate::clock;
use crate::config::{Config, ConfigDigest, LoadedConfig};
use crate::control::{
    ActiveConfig, Auditor, CompiledConfig, ControlHandles, ControlPlane, DeferredDrop, ExpectedNetwork,
    FallbackReason, ForecastHandle, MonitoringLog, NetworkThread, PolicySource, RecheckHandle,
    ReconcilerThread, ReloadHandle, Reloader, SharedCandidate, UntrackedPools,
};
use crate::egress::{Dialler, Ledger};
use crate::flow::{FlowEvent, FlowSink, FlowTable, UNKNOWN_TENANT};
use crate::gateway::{
    AddressMismatchLog, FlowSettings, GatewayState, Limit, RecheckSettings, ShutdownPhase, Snapshot,
};
use crate::relay::IdleTimeouts;
use crate::sys::liveness::Liveness;
use crate::telemetry::{FlowLogHandle, Metrics, StandingProblem};
use crate::threads;
use crate::units::format_duration;
use crate::verify::VerifierCapacity;
use arc_swap::ArcSwap;
use health::WorkerHealth;
use late_listener::LateListener;
use limits::DescriptorBudget;
use observe::ScrapeSources;
use opened::{Opened, RunningFlowLog};
use signals::{SignalAction, Signals};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use workers::Workers;

/// Time for the flow log to write its queue at the end.
const FLOW_LOG_PATIENCE: Duration = Duration::from_secs(5);

struct App {
    /// `[gateway] drain`
    drain: Duration,
    handles: ControlHandles,
    reloads: ReloadHandle,
    auditor: Auditor,
    readiness: Readiness,
    health: WorkerHealth,
    monitoring: MonitoringLog,
    metrics: Arc<Metrics>,
    stage: watch::Sender<ShutdownPhase>,
    workers: Workers,
    flow_log: Option<RunningFlowLog>,
    signals: Signals,
    /// Reconciles the ledger with the kernel until dropped.
    _reconciler: ReconcilerThread,
    /// Watches steering until dropped.
    _network: NetworkThread,
}

impl App {
    fn start(
        startup: &Startup,
        source: &PolicySource,
        loaded: LoadedConfig,
        fallback: Option<FallbackReason>,
    ) -> Result<Self, StartError> {
        let LoadedConfig { mut config, files, texts, .. } = loaded;
        // A fallback is stored already.
        let started_with = fallback.is_none().then_some(texts);
        let signals = Signals::new()?;
        let worker_count = workers::count(&config);
        let room = limits::descriptor_budget(worker_count, config.gateway.max_flows)?;
        let (metrics, claims) = Metrics::new(clock::wall(), worker_count);
        let metrics = Arc::new(metrics);
        let liveness = liveness(&config);
        let opened = Opened::open(&config, worker_count, &liveness, &metrics)?;
        let mut problems = opened.problems();
        problems.push(startup.last_good.problem());
        let monitoring = MonitoringLog::open(startup.last_good.folder(), clock::timestamp());
        problems.push(monitoring.problem());
        let Opened { flow_log, audit_log, listen, listeners, metrics_listener, control_socket } = opened;

        let ledger = Arc::new(Ledger::new());
        let settings = settings(&config, liveness, room.pipes);
        let outline = ConfigDigest::of(&config);
        let expected = ExpectedNetwork::of(&config, config.gateway.listen.port());
        let capacity = VerifierCapacity::new(room.lookup_sockets, room.probes);
        let built = CompiledConfig::new(&config, files, &ledger, &metrics, &capacity, None)?;
        let in_force = ActiveConfig::new(&built, fallback);
        let auditor = Auditor::new(audit_log, Arc::clone(&in_force));
        let reconciler = ReconcilerThread::start(&config, &in_force, &ledger, &metrics.gateway().sock_diag)?;
        let gateway =
            Arc::new(gateway_state(built.snapshot, &room, worker_count, flow_log.as_ref(), &metrics));
        let untracked = UntrackedPools::new(&config.pools, clock::now());
        problems.extend([untracked.problem(), reconciler.problem()]);
        let readiness = Readiness::new();
        let network = NetworkThread::start(&gateway, &in_force, expected, listen.is_ipv6(), &readiness)?;

        let (tenants, pools) = (config.tenants.len(), config.pools.len());
        config.tenants = Vec::new();
        config.pools = Vec::new();
        let drain = config.gateway.drain;
        let handles = ControlHandles {
            gateway: Arc::clone(&gateway),
            in_force,
            ledger,
            forecast: ForecastHandle::default(),
            candidates: SharedCandidate::default(),
            traces: startup.traces.clone(),
        };
        // Twelve inspection deadlines, which is one minute by default.
        let how = RecheckSettings { dialler: settings.dialler, patience: settings.inspect_deadline * 12 };
        let reloader = Reloader {
            source: source.clone(),
            running: config,
            outline,
            ledger: Arc::clone(&handles.ledger),
            metrics: Arc::clone(&metrics),
            capacity,
            gateway: Arc::clone(&gateway),
            in_force: Arc::clone(&handles.in_force),
            auditor: auditor.clone(),
            retired: DeferredDrop::default(),
            candidates: handles.candidates.clone(),
            rechecks: RecheckHandle::start(Arc::clone(&gateway), how)?,
            last_good: startup.last_good.clone(),
            started_with,
            network: network.clone(),
            untracked,
        };
        let (reloads, start_gate) = reloader.start()?;

        let (last, steering) = (reconciler.last(), network.last());
        let sources =
            ScrapeSources { handles: handles.clone(), metrics: Arc::clone(&metrics), last, steering };
        if let Some(listener) = metrics_listener {
            tokio::spawn(serve_metrics(listener, readiness.clone(), sources, problems));
        }
        if let Some(socket) = control_socket {
            let (handles, reloads, auditor) = (handles.clone(), reloads.clone(), auditor.clone());
            let (network, main) = (network.last(), startup.path.clone());
            let control = ControlPlane { handles, network, reloads, auditor, main }.control();
            tokio::spawn(serve_control(socket, control));
        }
        let (stage, _) = watch::channel(ShutdownPhase::Running);
        let (workers, heartbeats) = Workers::start(listeners, claims, &gateway, settings, &stage)?;
        tracing::info!(
            %listen, workers = worker_count, max_flows = room.flows, tenants, pools, config = %handles.in_force.current().version, "ready"
        );
        auditor.started();
        readiness.advance(admin::Lifecycle::Ready);
        start_gate.open();
        // Fails without effect if there is no supervisor.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        Ok(Self {
            drain,
            handles,
            reloads,
            auditor,
            health: WorkerHealth::new(heartbeats, readiness.clone()),
            readiness,
            monitoring,
            metrics,
            stage,
            workers,
            flow_log,
            signals,
            _reconciler: reconciler,
            _network: network,
        })
    }

    /// Runs periodic tasks and handles signals until told to stop, or until a thread has ended.
    async fn run_until_stopped(&mut self) -> Result<(), StartError> {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = seconds.tick() => self.keep_house(),
                order = self.signals.next() => match order {
                    SignalAction::Stop => return Ok(()),
                    SignalAction::Reopen => self.reopen_logs(),
                    SignalAction::Reload => {
                        self.reopen_logs();
                        if let Err(why) = self.reloads.order(Originator::Signal) {
                            tracing::error!("not reloaded: {why}");
                        }
                    }
                },
                () = self.workers.one_has_ended() => {
                    tracing::error!("a worker has ended by itself; stopping");
                    // The worker's own result tells why.
                    return Ok(());
                }
                () = threads::one_has_panicked() => {
                    tracing::error!("stopping, because of the thread that has panicked");
                    return Err(StartError::Panic);
                }
            }
        }
    }

    fn reopen_logs(&self) {
        tracing::info!("reopening the logs");
        if let Some((flow_log, _)) = &self.flow_log {
            flow_log.reopen();
        }
        self.auditor.reopen();
    }

    fn keep_house(&mut self) {
        self.health.look();
        self.metrics.upkeep();
        let now = clock::now();
        self.handles.ledger.sweep(now);
        self.monitoring.watch(
            &self.handles.gateway.snapshot.load().policy,
            clock::timestamp(),
            &self.auditor,
        );
        self.handles.forecast.observe(
            &self.handles.in_force.current().pools,
            &self.handles.gateway.table,
            now,
        );
    }

    /// Drains: lets flows finish for the drain period, or until a second stop signal, then resets the rest.
    async fn stop(mut self) -> Result<(), StartError> {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.readiness.advance(admin::Lifecycle::Draining);
        self.stage.send_replace(ShutdownPhase::Draining);
        tracing::info!(
            flows = self.handles.gateway.flows.taken(),
            drain = format_duration(self.drain),
            "draining"
        );
        let deadline = Instant::now() + self.drain;
        let mut looks = interval(Duration::from_millis(50));
        let mut seconds = interval(Duration::from_secs(1));
        let gateway = Arc::clone(&self.handles.gateway);
        while gateway.accepting.load(Ordering::Acquire) > 0 || gateway.flows.taken() > 0 {
            tokio::select! {
                _ = looks.tick() => {}
                _ = seconds.tick() => {
                    self.health.look();
                    self.metrics.upkeep();
                }
                () = sleep_until(deadline) => break,
                order = self.signals.next() => match order {
                    SignalAction::Stop => break,
                    SignalAction::Reopen | SignalAction::Reload => self.reopen_logs(),
                },
            }
        }
        let left = gateway.flows.taken();
        self.stage.send_replace(ShutdownPhase::Stopping);
        let result = self.workers.join();
        if let Some((_, thread)) = self.flow_log
            && !thread.stop(FLOW_LOG_PATIENCE)
        {
            tracing::error!("the flow log could not write its last lines in time");
        }
        if !self.auditor.flush() {
            tracing::error!("the audit log could not write its last lines in time");
        }
        tracing::info!(reset = left, "stopped");
        result
    }
}

/// The state that workers share.
fn gateway_state(
    snapshot: Snapshot,
    room: &DescriptorBudget,
    workers: usize,
    flow_log: Option<&RunningFlowLog>,
    metrics: &Metrics,
) -> GatewayState {
    GatewayState {
        snapshot: ArcSwap::from_pointee(snapshot),
        flows: Limit::new(room.flows),
        attempts: Limit::new(room.attempts),
        table: Arc::new(FlowTable::new(flow_sinks(flow_log))),
        mismatches: AddressMismatchLog::default(),
        nobody: metrics.tenant(UNKNOWN_TENANT, None, false),
        accepting: AtomicU32::new(u32::try_from(workers).unwrap_or(u32::MAX)),
        accept_errors: metrics.gateway().accept_errors.clone(),
        process: rand::random(),
        count: AtomicU64::new(0),
    }
}

/// Serves health, readiness and metrics, as soon as the listener is open.
async fn serve_metrics(
    listener: LateListener<TcpListener>,
    readiness: Readiness,
    sources: ScrapeSources,
    problems: Vec<StandingProblem>,
) {
    let (handles, last) = (sources.handles.clone(), Arc::clone(&sources.steering));
    let state = AdminState {
        readiness,
        notes: Arc::new(move || observe::notes(&handles, &last.load(), &problems)),
        render: Arc::new(move || sources.render()),
    };
    if let Err(error) = admin::serve(listener.opened().await, state, std::future::pending()).await {
        tracing::error!(%error, "the metrics listener has failed");
    }
}

/// Serves the control API, as soon as its socket is open.
async fn serve_control(socket: LateListener<ControlSocket>, control: ControlHandlers) {
    if let Err(error) = admin::serve_control(socket.opened().await, control).await {
        tracing::error!(%error, "the control socket has failed");
    }
}

/// Receivers of the flows' events: the flow log, if there is one.
fn flow_sinks(flow_log: Option<&RunningFlowLog>) -> Vec<FlowSink> {
    let handles = flow_log.map(|(handle, _)| handle.clone());
    handles.into_iter().map(flow_log_sink).collect()
}

fn flow_log_sink(handle: FlowLogHandle) -> FlowSink {
    Box::new(move |event| match event {
        FlowEvent::Opened(_) | FlowEvent::Updated(_) => {}
        FlowEvent::Closed(record) => handle.submit(record),
    })
}

fn liveness(config: &Config) -> Liveness {
    let keepalive = config.gateway.keepalive;
    Liveness {
        idle: keepalive.idle,
        interval: keepalive.interval,
        probes: keepalive.probes,
        user_timeout: config.gateway.user_timeout,
    }
}

fn settings(config: &Config, liveness: Liveness, most_pipes: usize) -> FlowSettings {
    let gateway = &config.gateway;
    FlowSettings {
        max_hello: config.inspect.max_hello,
        inspect_deadline: config.inspect.deadline,
        keeps_class: gateway.keeps_class,
        dialler: Dialler { connect_timeout: gateway.connect_timeout, user_timeout: gateway.user_timeout },
        liveness,
        silence: IdleTimeouts { idle: gateway.idle_timeout, half_open: gateway.half_open_timeout },
        most_pipes,
    }
}
