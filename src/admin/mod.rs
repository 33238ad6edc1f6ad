//! The metrics listener (health, readiness, metrics), and the control API on a unix socket.
//!
//! Both run on the main thread, never on a worker; the text of a scrape is rendered on a thread of its own. Connections are bounded
//! in number and in time, and each answers one request. A peer that opens many loses its own: see `places`.

mod bounded;
mod candidate;
mod control;
mod control_error;
mod explain;
mod names;
mod peer;
mod pending_order;
mod places;
mod ports;
mod probe;
mod readiness;
mod reload;
mod socket;
mod trace;

pub use bounded::CONNECTIONS;
pub use candidate::{
    CanaryStatus, CandidateReport, CandidateStatus, ChangedFlows, DropAnswer, ExampleFlows, FileRead,
    FileSet, LoadAnswer, LoadOrder, NO_CANDIDATE, PromoteOrder, PromotionFiles, RequestChanges,
    RollbackReport, ShareAnswer, ShareOrder, TenantChanges,
};
pub use control::{
    CandidateHandlers, ControlHandlers, OrderHandler, QueryHandler, RejectionCallback, serve_control,
};
pub use control_error::ControlError;
pub use explain::{
    CANARY_REMEDY, CANARY_REMEDY_IN_BOTH, ClientTarget, ExplainQuery, ExplainReport, ExplainedCanary,
    ExplainedOutcome, ExplainedPool, ExplainedRule, FamilyRefusal, NotATarget, NotAnAddress, PortsInUse,
    canary_remedy, parse_address,
};
pub use names::{MismatchRow, NamesQuery, NamesReport};
pub use pending_order::{NO_MORE_ORDERS, ORDER_BUG, OrderReply, PendingOrder, pending_order};
pub use ports::{
    ClientPorts, DestinationFilter, DestinationPorts, DrainAnswer, DrainOrder, PortsQuery, PortsReport,
    SourcePorts, TenantPorts, report,
};
pub use probe::{ProbeExpected, ProbeOrder, ProbeQuery, ProbedFlow, ProbedFlowAnswer};
pub use readiness::{Lifecycle, Readiness};
pub use reload::ReloadAnswer;
pub use socket::{ControlSocket, ControlSocketError};
pub use trace::{TraceAnswer, TraceOrder, TraceQuery, TraceStarted, TraceStep};

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use bounded::BoundedListener;
use peer::Peer;
use places::RequestMark;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Scrapes that are rendered at once; others wait for their turn.
const RENDERINGS: usize = 2;

/// State and callbacks of the metrics listener.
#[derive(Clone)]
pub struct AdminState {
    /// Readiness of the gateway.
    pub readiness: Readiness,
    /// Notes to show with readiness even though the gateway is ready. One line each.
    pub notes: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Renders the metrics, in the Prometheus text format 0.0.4. Called for each scrape, on a thread that may block.
    pub render: Arc<dyn Fn() -> String + Send + Sync>,
}

/// Serves until `shutdown` completes and the connections open by then have ended, which takes at most 30 s more.
///
/// Complete `shutdown` only after the drain: load balancers must be able to read `draining` meanwhile.
pub async fn serve(
    listener: TcpListener,
    state: AdminState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = BoundedListener::new(listener, Box::new(|_, address| Peer::address(address.ip())));
    let service = router(state).into_make_service_with_connect_info::<RequestMark>();
    axum::serve(listener, service).with_graceful_shutdown(shutdown).await
}

fn router(state: AdminState) -> Router {
    let scrapes = get(metrics).with_state((state.clone(), Arc::new(Semaphore::new(RENDERINGS))));
    Router::new()
        .route("/", get(index))
        .route("/metrics", scrapes)
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(state)
        .layer(axum::middleware::map_response(close_after))
        .layer(axum::middleware::map_request(mark_request))
}

/// Notes that the head of a connection's request was read.
async fn mark_request(ConnectInfo(mark): ConnectInfo<RequestMark>, request: Request) -> Request {
    mark.set();
    request
}

impl Connected<IncomingStream<'_, BoundedListener<TcpListener>>> for RequestMark {
    fn connect_info(stream: IncomingStream<'_, BoundedListener<TcpListener>>) -> Self {
        stream.io().request().clone()
    }
}

async fn index() -> &'static str {
    "Egret\n\n/metrics  for Prometheus\n/healthz  200 while the gateway works, else 503\n/readyz   200 while flows are taken, else 503\n"
}

async fn metrics(
    State((state, renderings)): State<(AdminState, Arc<Semaphore>)>,
) -> Result<impl IntoResponse, StatusCode> {
    let turn = renderings.acquire_owned().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    // On a thread of its own: the text of a thousand tenants takes a while, and health is to be answered meanwhile. It goes
    // on if the client leaves, and keeps its turn.
    let render = move || {
        let text = (state.render)();
        drop(turn);
        text
    };
    let text = tokio::task::spawn_blocking(render).await;
    let text = text.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

async fn healthz(State(AdminState { readiness, .. }): State<AdminState>) -> impl IntoResponse {
    match readiness.problem() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

async fn readyz(State(AdminState { readiness, notes, .. }): State<AdminState>) -> impl IntoResponse {
    let stage = readiness.stage();
    let unsteered = || readiness.unsteered().filter(|_| stage == Lifecycle::Ready);
    let problem = readiness.problem().or_else(unsteered);
    let status = match (stage, &problem) {
        (Lifecycle::Ready, None) => StatusCode::OK,
        (Lifecycle::Ready, Some(_)) | (Lifecycle::Starting | Lifecycle::Draining, _) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let mut text = problem.map_or_else(|| format!("{stage}\n"), |problem| format!("{problem}\n"));
    for note in notes() {
        text += &note;
        text.push('\n');
    }
    (status, text)
}

/// Closes connections after each response: one kept alive until the next scrape would occupy a bounded slot.
async fn close_after(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
