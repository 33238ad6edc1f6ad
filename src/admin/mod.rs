//! The metrics listener (health, readiness, metrics), and the control API on a unix socket.
//!
//! Both run on the control thread, never on a worker. Their clients can delay only each other: connections are bounded
//! in number and in lifetime, and each answers one request.

mod bounded;
mod candidate;
mod control;
mod explain;
mod names;
mod ports;
mod readiness;
mod reload;
mod socket;

pub use candidate::{
    CanaryStatus, CandidateReport, CandidateStatus, ChangedFlows, DropAnswer, ExampleFlows, FileRead,
    FileSet, LoadAnswer, LoadOrder, PromotionFiles, RequestChanges, RollbackReport, ShareAnswer, ShareOrder,
    TenantChanges,
};
pub use control::{
    CandidateHandlers, ControlError, ControlHandlers, OrderHandler, QueryHandler, RejectionCallback,
    serve_control,
};
pub use explain::{
    ClientTarget, ExplainQuery, ExplainReport, ExplainedCanary, ExplainedOutcome, ExplainedPool,
    ExplainedRule, NotATarget, NotAnAddress, PortsInUse, parse_address,
};
pub use names::{MismatchRow, NamesQuery, NamesReport};
pub use ports::{
    ClientPorts, DestinationFilter, DestinationPorts, DrainAnswer, DrainOrder, PortsQuery, PortsReport,
    SourcePorts, TenantPorts, report,
};
pub use readiness::{Lifecycle, Readiness};
pub use reload::ReloadAnswer;
pub use socket::{ControlSocket, ControlSocketError};

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bounded::BoundedListener;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;

/// State and callbacks of the metrics listener.
#[derive(Clone)]
pub struct AdminState {
    /// Readiness of the gateway.
    pub readiness: Readiness,
    /// Notes to show with readiness even though the gateway is ready. One line each.
    pub notes: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Renders the metrics, in the Prometheus text format 0.0.4. Called for each scrape, on the control thread.
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
    axum::serve(BoundedListener::new(listener), router(state)).with_graceful_shutdown(shutdown).await
}

fn router(state: AdminState) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(state)
        .layer(axum::middleware::map_response(close_after))
}

async fn index() -> &'static str {
    "Egret\n\n/metrics  for Prometheus\n/healthz  200 while the gateway works, else 503\n/readyz   200 while flows are taken, else 503\n"
}

async fn metrics(State(state): State<AdminState>) -> Result<impl IntoResponse, StatusCode> {
    // On a thread of its own: the text of a thousand tenants takes a while, and health is to be answered meanwhile.
    let text = tokio::task::spawn_blocking(move || (state.render)()).await;
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
