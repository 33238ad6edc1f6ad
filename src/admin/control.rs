//! The control API: queries and orders of operators to a running gateway, over HTTP on a unix socket.
//!
//! Anyone who can open the socket may query. Orders, and the steps of a trace, which are gone once they are read, are for
//! root and for the user and group that own the socket, by the credentials that the kernel reports (SO_PEERCRED).

use super::bounded::BoundedListener;
use super::candidate::{
    CandidateReport, DropAnswer, LoadAnswer, LoadOrder, PromoteOrder, PromotionFiles, ShareAnswer, ShareOrder,
};
use super::control_error::ControlError;
use super::explain::{ExplainQuery, ExplainReport};
use super::names::{NamesQuery, NamesReport};
use super::peer::Peer;
use super::pending_order::{NO_MORE_ORDERS, ORDER_BUG, PendingOrder};
use super::places::RequestMark;
use super::ports::{DrainAnswer, DrainOrder, PortsQuery, PortsReport};
use super::probe::{ProbeExpected, ProbeOrder, ProbeQuery, ProbedFlowAnswer};
use super::reload::{self, ReloadAnswer};
use super::socket::{ControlSocket, SocketOwner};
use super::trace::{TraceAnswer, TraceOrder, TraceQuery, TraceStarted};
use crate::audit::SocketPeer;
use axum::extract::connect_info::Connected;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state, map_request, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::Serialize;
use std::io;
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// Largest request body; a path has up to 4 KiB.
const BODY: usize = 8192;

/// Handler of one kind of query.
pub type QueryHandler<Q, A> = Arc<dyn Fn(Q) -> Result<A, ControlError> + Send + Sync>;

/// Handler of one kind of order, called for authorized peers only.
pub type OrderHandler<Q, A> = Arc<dyn Fn(SocketPeer, Q) -> Result<A, ControlError> + Send + Sync>;

/// Callback for rejected orders: the peer, the order, and the reason.
pub type RejectionCallback = Arc<dyn Fn(SocketPeer, &str, &str) + Send + Sync>;

/// Handlers of the control API. Called on the main thread.
#[derive(Clone)]
pub struct ControlHandlers {
    /// Reports port usage.
    pub ports: QueryHandler<PortsQuery, PortsReport>,
    /// Explains the decision on a flow.
    pub explain: QueryHandler<ExplainQuery, ExplainReport>,
    /// Reports the known addresses of names.
    pub names: QueryHandler<NamesQuery, NamesReport>,
    /// Starts or stops draining a source address.
    pub drain: OrderHandler<DrainOrder, DrainAnswer>,
    /// Reloads the configuration; answers when that is done.
    pub reload: OrderHandler<(), PendingOrder<ReloadAnswer>>,
    /// Starts a trace of flows.
    pub trace: OrderHandler<TraceOrder, TraceStarted>,
    /// Takes the steps of a trace since the last query.
    pub traced: QueryHandler<TraceQuery, TraceAnswer>,
    /// Expects the connections of a probe.
    pub probe: OrderHandler<ProbeOrder, ProbeExpected>,
    /// Reports the flow of a probe.
    pub probed: QueryHandler<ProbeQuery, ProbedFlowAnswer>,
    /// Handlers for the candidate policy.
    pub candidate: CandidateHandlers,
    /// Called for orders that are rejected because the peer is not authorized.
    pub forbidden: RejectionCallback,
}

/// Handlers for the candidate policy. Orders are answered once carried out.
#[derive(Clone)]
pub struct CandidateHandlers {
    /// Reports its status and results.
    pub report: QueryHandler<(), CandidateReport>,
    /// Lists the files that a promotion reads and writes.
    pub files: QueryHandler<(), PromotionFiles>,
    /// Loads a candidate.
    pub load: OrderHandler<LoadOrder, PendingOrder<LoadAnswer>>,
    /// Changes the share of clients that it is enforced for.
    pub share: OrderHandler<ShareOrder, PendingOrder<Result<ShareAnswer, ControlError>>>,
    /// Puts the candidate in force, if the files of the running configuration now match it. Refused after a rollback, unless
    /// forced.
    pub promote: OrderHandler<PromoteOrder, PendingOrder<ReloadAnswer>>,
    /// Drops the candidate.
    pub drop: OrderHandler<(), PendingOrder<Result<DropAnswer, ControlError>>>,
}

/// Serves until dropped, which removes the socket's file.
pub async fn serve_control(socket: ControlSocket, control: ControlHandlers) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener()?)?;
    let owner = socket.owner();
    let listener = BoundedListener::new(
        listener,
        Box::new(move |stream, _| {
            let peer = credentials(stream);
            Peer::User { uid: peer.uid, may_give_orders: may_change(peer, owner) }
        }),
    );
    let service = router(control, owner).into_make_service_with_connect_info::<ControlConnection>();
    axum::serve(listener, service).await
}

fn router(control: ControlHandlers, owner: SocketOwner) -> Router {
    let orders = Router::new()
        .route("/v1/ports/drain", post(drain))
        .route("/v1/reload", post(reload))
        .route("/v1/trace", post(trace).get(traced))
        .route("/v1/probe", post(probe))
        .route("/v1/candidate/load", post(load_candidate))
        .route("/v1/candidate/share", post(share_candidate))
        .route("/v1/candidate/promote", post(promote_candidate))
        .route("/v1/candidate/drop", post(drop_candidate))
        .route_layer(from_fn_with_state((control.clone(), owner), only_who_may));
    Router::new()
        .route("/v1/ports", get(ports))
        .route("/v1/explain", get(explain))
        .route("/v1/candidate", get(candidate))
        .route("/v1/candidate/files", get(candidate_files))
        .route("/v1/names", get(names))
        .route("/v1/probe", get(probed))
        .merge(orders)
        .with_state(control)
        .layer(DefaultBodyLimit::max(BODY))
        .layer(map_response(super::close_after))
        .layer(map_request(mark_request))
}

/// Notes that the head of a connection's request was read, and who sent it.
async fn mark_request(
    ConnectInfo(connection): ConnectInfo<ControlConnection>,
    mut request: Request,
) -> Request {
    connection.request.set();
    request.extensions_mut().insert(ConnectInfo(connection.peer));
    request
}

async fn only_who_may(
    State((control, owner)): State<(ControlHandlers, SocketOwner)>,
    ConnectInfo(peer): ConnectInfo<SocketPeer>,
    order: Request,
    next: Next,
) -> Response {
    if may_change(peer, owner) {
        return next.run(order).await;
    }
    let why = "only root and the gateway's own user and group may change what it does; \
               a member of that group asks by `sg GROUP -c \"egret …\"`";
    (control.forbidden)(peer, order.uri().path(), why);
    error(StatusCode::FORBIDDEN, why)
}

async fn ports(
    State(control): State<ControlHandlers>,
    query: Result<Query<PortsQuery>, QueryRejection>,
) -> Response {
    answer(query, &control.ports)
}

async fn explain(
    State(control): State<ControlHandlers>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Response {
    answer(query, &control.explain)
}

fn answer<Q, A: Serialize>(
    query: Result<Query<Q>, QueryRejection>,
    answers: &QueryHandler<Q, A>,
) -> Response {
    match query {
        Ok(Query(query)) => respond(answers(query)),
        Err(wrong) => error(wrong.status(), &wrong.body_text()),
    }
}

async fn names(
    State(control): State<ControlHandlers>,
    query: Result<Query<NamesQuery>, QueryRejection>,
) -> Response {
    answer(query, &control.names)
}

async fn drain(
    State(control): State<ControlHandlers>,
    ConnectInfo(peer): ConnectInfo<SocketPeer>,
    order: Result<Json<DrainOrder>, JsonRejection>,
) -> Result<Response, Response> {
    let order = understood(order, |_| Ok(()))?;
    Ok(respond((control.drain)(peer, order)))
}

async fn trace(
    State(control): State<ControlHandlers>,
    ConnectInfo(peer): ConnectInfo<SocketPeer>,
    order: Result<Json<TraceOrder>, JsonRejection>,
) -> Result<Response, Response> {
    let order = understood(order, |_| Ok(()))?;
    Ok(respond((control.trace)(peer, order)))
}

async fn traced(
    State(control): State<ControlHandlers>,
    query: Result<Query<TraceQuery>, QueryRejection>,
) -> Response {
    answer(query, &control.traced)
}

async fn probe(
    State(control): State<ControlHandlers>,
    ConnectInfo(peer): ConnectInfo<SocketPeer>,
    order: Result<Json<ProbeOrder>, JsonRejection>,
) -> Result<Response, Response> {
    let order = understood(order, |_| Ok(()))?;
    Ok(respond((control.probe)(peer, order)))
}

async fn probed(
    State(control): State<ControlHandlers>,
    query: Result<Query<ProbeQuery>, QueryRejection>,
) -> Response {
    answer(query, &control.probed)
}

async fn reload(
    State(control): State<ControlHandlers>,
    ConnectInfo(peer): ConnectInfo<SocketPeer>,
) -> Result<Response, Response> {
    let answer = carried_out((control.reload)(peer, ())).await?;
    Ok(done_or_not(answer.reloaded, answer))
}

/// Waits for the result of an order; otherwise returns the error response.
async fn carried_out<A>(order: Result<PendingOrder<A>, ControlError>) -> Result<A, Response> {
    let mut order = order.map_err(refused)?;
    match timeout(reload::PATIENCE, order.answer()).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) if order.has_begun() => Err(error(StatusCode::INTERNAL_SERVER_ERROR, ORDER_BUG)),
        Ok(None) => Err(error(StatusCode::SERVICE_UNAVAILABLE, NO_MORE_ORDERS)),
        Err(_) => Err(error(StatusCode::GATEWAY_TIMEOUT, late(order.has_begun()))),
    }
}

/// The answer to an order whose result takes long.
fn late(has_begun: bool) -> &'static str {
    if has_begun {
        "it goes on, and takes long; the gateway's log and its audit log will say what came of it"
    } else {
        "it waits behind another order, such as a load of large or slow files, and is carried out after that; the gateway's log \
         and its audit log will say what came of it"
    }
}

fn done_or_not(done: bool, answer: impl Serialize) -> Response {
    let status = if done { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    (status, Json(answer)).into_response()
}

async fn candidate(State(control): State<ControlHandlers>) -> Response {
    respond((control.candidate.report)(()))
}

async fn candidate_files(State(control): State<ControlHandlers>) -> Response {
    respond((control.candidate.files)(()))
}

/// Returns an order that parses and passes its check; otherwise the error response.
#[expect(clippy::result_large_err, reason = "the error is the answer, made once")]
fn understood<T>(
    order: Result<Json<T>, JsonRejection>,
    check: impl Fn(&T) -> Result<(), &'static str>,
) -> Result<T, Response> {
    let Json(order) = order.map_err(|wrong| error(wrong.status(), &wrong.body_text()))?;
    check(&order).map_err(|why| error(StatusCode::BAD_REQUEST, why))?;
    Ok(order)
}

async fn load_candidate(
    State(control): State<ControlHandlers>,
    ConnectInfo(peer): ConnectInfo<SocketPeer>,
    order: Result<Json<LoadOrder>, JsonRejection>,
) -> Result<Response, Response> {
    let order = understood(order, LoadOrder::check)?;
    let answer = carried_out((control.candidate.load)(peer, order)).await?;
    Ok(done_or_not(answer.loaded, answer))
}

async fn share_candidate(
    State(control): State<ControlHandlers>,
    ConnectInfo(peer): ConnectInfo<SocketPeer>,
    order: Result<Json<ShareOrder>, JsonRejection>,
) -> Result<Response, Response> {
    let order = understood(order, ShareOrder::check)?;
    carried_out((control.candidate.share)(peer, order)).await.map(respond)
}

async fn promote_candidate(
    State(control): State<ControlHandlers>,
    ConnectInfo(peer): ConnectInfo<SocketPeer>,
    order: Result<Json<PromoteOrder>, JsonRejection>,
) -> Result<Response, Response> {
    let order = understood(order, |_| Ok(()))?;
    let answer = carried_out((control.candidate.promote)(peer, order)).await?;
    Ok(done_or_not(answer.reloaded, answer))
}

async fn drop_candidate(
    State(control): State<ControlHandlers>,
    ConnectInfo(peer): ConnectInfo<SocketPeer>,
) -> Result<Response, Response> {
    carried_out((control.candidate.drop)(peer, ())).await.map(respond)
}

fn respond(answer: Result<impl Serialize, ControlError>) -> Response {
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(why) => refused(why),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "maps an error to its answer")]
fn refused(why: ControlError) -> Response {
    error(why.status(), &why.to_string())
}

fn error(status: StatusCode, why: &str) -> Response {
    (status, Json(serde_json::json!({ "error": why }))).into_response()
}

fn may_change(peer: SocketPeer, owner: SocketOwner) -> bool {
    peer.uid == Some(0) || peer.uid == Some(owner.user) || peer.gid == Some(owner.group)
}

/// A connection to the control socket.
#[derive(Debug, Clone)]
struct ControlConnection {
    peer: SocketPeer,
    request: RequestMark,
}

impl Connected<IncomingStream<'_, BoundedListener<UnixListener>>> for ControlConnection {
    fn connect_info(stream: IncomingStream<'_, BoundedListener<UnixListener>>) -> Self {
        Self { peer: credentials(stream.io().stream()), request: stream.io().request().clone() }
    }
}

fn credentials(stream: &UnixStream) -> SocketPeer {
    let known = stream.peer_cred().ok();
    SocketPeer {
        uid: known.map(|peer| peer.uid()),
        gid: known.map(|peer| peer.gid()),
        pid: known.and_then(|peer| peer.pid()),
    }
}

#[cfg(test)]
mod tests;
