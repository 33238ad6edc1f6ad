//! Traces of flows: the events of matching flows of a running gateway, for one reader at a time.
//!
//! A flow's task runs inside a span ([`FLOW_SPAN`](crate::flow::FLOW_SPAN)), and each step of it is an event at level DEBUG. Both are off, at the
//! cost of reading a number, unless `EGRET_LOG` asks for them or a trace runs.

mod layer;

pub use layer::TraceLayer;

use crate::clock;
use crate::hostname::{HostPattern, Hostname};
use ipnet::IpNet;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest trace.
pub const LONGEST: Duration = Duration::from_secs(600);
/// Most flows of one trace.
pub const MOST_FLOWS: u32 = 1000;
/// Most steps that wait for the reader; later ones are dropped and counted.
const MOST_WAITING: usize = 4096;
/// Most flows whose steps are kept until their name is known.
const MOST_UNNAMED: usize = 1024;
/// A trace ends if nobody has read from it for this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The flows of a trace, and its bounds.
#[derive(Debug, Clone)]
pub struct TraceRequest {
    /// Network of the clients; any if `None`.
    pub clients: Option<IpNet>,
    /// The names asked for; any, and none, if `None`.
    pub names: Option<HostPattern>,
    /// Time until the trace ends, at most [`LONGEST`].
    pub time: Duration,
    /// Number of flows after which no further one is traced, at most [`MOST_FLOWS`]. The trace ends with the last of them.
    pub flows: u32,
}

/// One step of a traced flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedStep {
    /// The flow's id.
    pub flow: String,
    /// The client's address and port.
    pub client: SocketAddr,
    /// Microseconds since the connection was accepted.
    pub microseconds: u64,
    /// Description of the step, with its values.
    pub step: String,
}

/// The steps that a reader has not read yet.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TraceReport {
    /// The steps, in their order.
    pub steps: Vec<TracedStep>,
    /// Number of flows traced so far.
    pub flows: u32,
    /// Steps that were dropped because the reader was slow.
    pub dropped: u64,
    /// The reason why no more will come; `None` while the trace runs.
    pub over: Option<&'static str>,
}

/// The trace that runs, if one does.
#[derive(Debug, Default, Clone)]
pub struct FlowTraces(Arc<TraceState>);

#[derive(Debug, Default)]
struct TraceState {
    /// Read for each event while anything is traced or logged at level DEBUG.
    is_running: AtomicBool,
    trace: Mutex<Option<RunningTrace>>,
}

#[derive(Debug)]
struct RunningTrace {
    number: u64,
    request: TraceRequest,
    until: Instant,
    read: Instant,
    waiting: VecDeque<TracedStep>,
    flows: u32,
    /// Traced flows that have not ended.
    open: u32,
    dropped: u64,
    /// Flows whose steps are kept until their name is known.
    unnamed: usize,
}

/// Decision of a trace on a flow that began while it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TraceDecision {
    /// It is traced.
    Traced,
    /// Its steps are kept until its name is known.
    Unnamed,
    /// It is not traced, or not yet: a later name may match.
    Not,
}

impl FlowTraces {
    /// Starts a trace, which ends the one before. Returns its number.
    pub fn start(&self, request: TraceRequest) -> u64 {
        let now = clock::now();
        let number = rand::random::<u64>() >> 12; // exact in JSON
        let mut lock = self.lock();
        *lock = Some(RunningTrace {
            number,
            until: now + request.time,
            request,
            read: now,
            waiting: VecDeque::new(),
            flows: 0,
            open: 0,
            dropped: 0,
            unnamed: 0,
        });
        self.set_running(true);
        drop(lock);
        number
    }

    /// Takes the steps that are waiting.
    pub fn read(&self, number: u64) -> TraceReport {
        let mut lock = self.lock();
        let Some(trace) = lock.as_mut().filter(|trace| trace.number == number) else {
            let over = Some("another trace was started, or this one was not read for 10 s");
            return TraceReport { over, ..TraceReport::default() };
        };
        trace.read = clock::now();
        let over = if trace.until <= trace.read {
            Some("its time is over")
        } else if trace.flows >= trace.request.flows && trace.open == 0 {
            Some("all of its flows have ended")
        } else {
            None
        };
        let report = TraceReport {
            steps: trace.waiting.drain(..).collect(),
            flows: trace.flows,
            dropped: trace.dropped,
            over,
        };
        if over.is_some() {
            *lock = None;
            self.set_running(false);
        }
        report
    }

    /// Ends a trace that nobody reads. True while it runs.
    pub fn sweep(&self, number: u64) -> bool {
        let now = clock::now();
        let mut lock = self.lock();
        let Some(trace) = lock.as_ref().filter(|trace| trace.number == number) else { return false };
        let is_read = now < trace.read + PATIENCE;
        if !is_read {
            *lock = None;
            self.set_running(false);
        }
        is_read
    }

    fn is_running(&self) -> bool {
        self.0.is_running.load(Ordering::Relaxed)
    }

    /// Events that nobody wants cost nothing only if `tracing` knows that. The caller holds the lock, so that no other trace
    /// begins meanwhile.
    fn set_running(&self, running: bool) {
        self.0.is_running.store(running, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Decides on a flow that begins. Returns also the number of the trace that runs; `None` if none does.
    fn begin(&self, client: IpAddr) -> Option<(u64, TraceDecision)> {
        let mut lock = self.lock();
        let trace = lock.as_mut().filter(|trace| clock::now() < trace.until)?;
        Some((trace.number, trace.decide(client, None)))
    }

    /// Decides on a flow that began in this trace, by the name that it asks for.
    fn decide_named(&self, number: u64, client: IpAddr, name: &Hostname) -> TraceDecision {
        let mut lock = self.lock();
        let trace = lock.as_mut().filter(|trace| trace.number == number && clock::now() < trace.until);
        trace.map_or(TraceDecision::Not, |trace| trace.decide(client, Some(name)))
    }

    /// Notes that the steps of a flow are no longer kept for a trace.
    fn release_unnamed(&self, number: u64) {
        if let Some(trace) = self.lock().as_mut().filter(|trace| trace.number == number) {
            trace.unnamed -= 1;
        }
    }

    /// Notes that a traced flow has ended.
    fn end_traced(&self, number: u64) {
        if let Some(trace) = self.lock().as_mut().filter(|trace| trace.number == number) {
            trace.open -= 1;
        }
    }

    fn add(&self, number: u64, step: TracedStep) {
        if let Some(trace) = self.lock().as_mut().filter(|trace| trace.number == number) {
            if trace.waiting.len() < MOST_WAITING {
                trace.waiting.push_back(step);
            } else {
                trace.dropped += 1;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<RunningTrace>> {
        self.0.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunningTrace {
    /// Decides on a flow by its client and, if known, its name. A flow that is traced counts.
    fn decide(&mut self, client: IpAddr, name: Option<&Hostname>) -> TraceDecision {
        if self.request.clients.is_some_and(|clients| !clients.contains(&client.to_canonical())) {
            return TraceDecision::Not;
        }
        let is_named = match (&self.request.names, name) {
            (Some(_), None) if self.unnamed < MOST_UNNAMED => {
                self.unnamed += 1;
                return TraceDecision::Unnamed;
            }
            (Some(_), None) => false,
            (Some(pattern), Some(name)) => pattern.matches(name),
            (None, _) => true,
        };
        if !is_named || self.flows >= self.request.flows {
            return TraceDecision::Not;
        }
        self.flows += 1;
        self.open += 1;
        TraceDecision::Traced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::Layer as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// `tracing` keeps for the whole process which events anybody wants, and looks at one thread's subscriber only while there
    /// is but one: each test holds this.
    fn alone() -> MutexGuard<'static, ()> {
        static ONE: Mutex<()> = Mutex::new(());
        ONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(names: Option<&str>) -> TraceRequest {
        let names = names.map(|names| names.parse().unwrap());
        TraceRequest { clients: Some("10.0.1.0/24".parse().unwrap()), names, time: LONGEST, flows: 2 }
    }

    /// Runs flows of clients that ask for names while `traces` is asked; each says its client, then its name.
    fn run(traces: &FlowTraces, flows: &[(&str, &str)]) {
        let layer = TraceLayer(traces.clone());
        let subscriber = tracing_subscriber::registry().with(layer.clone().with_filter(layer));
        tracing::subscriber::with_default(subscriber, || {
            for (client, name) in flows {
                let client = client.parse::<SocketAddr>().unwrap();
                let name_later = tracing::field::Empty;
                let span = tracing::debug_span!(crate::flow::FLOW_SPAN, id = 1, %client, name = name_later);
                let _inside = span.enter();
                tracing::debug!("accepted");
                span.record("name", tracing::field::display(name));
                tracing::debug!(%name, "inspected");
            }
            tracing::debug!("of no flow");
        });
    }

    fn told(report: &TraceReport) -> Vec<String> {
        report.steps.iter().map(|step| format!("{} {}", step.client.port(), step.step)).collect()
    }

    #[test]
    fn matching_flows_are_traced_within_bounds() {
        let (_alone, traces) = (alone(), FlowTraces::default());
        let flows = [
            ("10.0.1.9:1", "a.example"),
            ("10.0.2.9:2", "a.example"),
            ("[::ffff:10.0.1.9]:3", "b.a.example"),
            ("10.0.1.9:4", "a.example"),
        ];
        run(&traces, &flows);
        let by_client = traces.start(request(None));
        run(&traces, &flows);
        let report = traces.read(by_client);
        let expected =
            ["1 accepted", "1 inspected name=a.example", "3 accepted", "3 inspected name=b.a.example"];
        assert_eq!((told(&report), report.flows), (expected.map(str::to_owned).into(), 2));
        assert_eq!(report.over, Some("all of its flows have ended"));
        let by_name = traces.start(request(Some("*.a.example")));
        run(&traces, &flows);
        let report = traces.read(by_name);
        assert_eq!(told(&report), ["3 accepted", "3 inspected name=b.a.example"]);
        assert_eq!(report.over, None, "one more may come");
        assert!(traces.read(by_client).over.is_some(), "it was replaced");
    }

    #[test]
    fn unread_steps_are_bounded() {
        let (_alone, traces) = (alone(), FlowTraces::default());
        let trace = traces.start(TraceRequest { flows: MOST_FLOWS, ..request(None) });
        let flows = [("10.0.1.9:1", "a.example"); 3];
        (0..MOST_WAITING / 3).for_each(|_| run(&traces, &flows));
        let report = traces.read(trace);
        assert_eq!(report.flows, MOST_FLOWS);
        assert_eq!(report.steps.len() as u64 + report.dropped, 2 * u64::from(MOST_FLOWS));
        assert!(report.steps.len() <= MOST_WAITING);
    }

    #[test]
    fn flow_belongs_to_one_trace() {
        let (_alone, traces) = (alone(), FlowTraces::default());
        let layer = TraceLayer(traces.clone());
        let subscriber = tracing_subscriber::registry().with(layer.clone().with_filter(layer));
        tracing::subscriber::with_default(subscriber, || {
            let first = traces.start(request(None));
            let client = "10.0.1.9:1";
            let span = tracing::debug_span!(crate::flow::FLOW_SPAN, id = 1, %client);
            span.in_scope(|| tracing::debug!("accepted"));
            assert_eq!(told(&traces.read(first)), ["1 accepted"]);
            let clients = Some("10.0.2.0/24".parse().unwrap());
            let second = traces.start(TraceRequest { clients, ..request(None) });
            span.in_scope(|| tracing::debug!("ended"));
            assert_eq!(told(&traces.read(second)), Vec::<String>::new());
        });
    }

    #[test]
    fn later_trace_takes_no_earlier_flow() {
        let (_alone, traces) = (alone(), FlowTraces::default());
        let layer = TraceLayer(traces.clone());
        let subscriber = tracing_subscriber::registry().with(layer.clone().with_filter(layer));
        tracing::subscriber::with_default(subscriber, || {
            traces.start(request(Some("a.example")));
            let (client, name) = ("10.0.1.9:1", tracing::field::Empty);
            let span = tracing::debug_span!(crate::flow::FLOW_SPAN, id = 1, %client, name);
            let second = traces.start(request(Some("b.example")));
            span.record("name", tracing::field::display("b.example"));
            span.in_scope(|| tracing::debug!("inspected"));
            assert_eq!(traces.read(second).flows, 0, "it began before");
        });
    }

    #[test]
    fn steps_of_few_unnamed_flows_are_kept() {
        let (_alone, traces) = (alone(), FlowTraces::default());
        let trace = traces.start(request(Some("a.example")));
        let client = "10.0.1.9".parse().unwrap();
        let is_kept = || traces.begin(client) == Some((trace, TraceDecision::Unnamed));
        let kept = (0..2 * MOST_UNNAMED).filter(|_| is_kept()).count();
        assert_eq!(kept, MOST_UNNAMED);
        (0..kept).for_each(|_| traces.release_unnamed(trace));
        assert!(is_kept(), "those of the others have ended");
    }

    #[test]
    fn trace_ends_with_its_time() {
        let (_alone, traces) = (alone(), FlowTraces::default());
        let trace = traces.start(TraceRequest { time: Duration::ZERO, ..request(None) });
        run(&traces, &[("10.0.1.9:1", "a.example")]);
        let report = traces.read(trace);
        assert!(report.steps.is_empty() && report.over.is_some() && !traces.is_running());
        assert!(!traces.sweep(trace));
    }
}
