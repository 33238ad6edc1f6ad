//! The control API: what operators ask of a running gateway, over HTTP on a unix socket.
//!
//! Whoever may open the socket may look. What changes the gateway is taken from root, and from the user and the group
//! that the socket belongs to, by the credentials that the kernel vouches for (SO_PEERCRED).

use super::bounded::BoundedListener;
use super::ports::{DrainAnswer, DrainOrder, PortsQuery, PortsReport};
use super::socket::{ControlSocket, Owner};
use axum::extract::connect_info::Connected;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use std::io;
use std::sync::Arc;
use tokio::net::UnixListener;

/// No order is larger.
const BODY: usize = 4096;

/// Answers one kind of question.
pub type Answers<Q, A> = Arc<dyn Fn(Q) -> Result<A, Refusal> + Send + Sync>;

/// What the API can ask of the gateway. Called on the control thread.
#[derive(Clone)]
pub struct Control {
    /// How ports are used.
    pub ports: Answers<PortsQuery, PortsReport>,
    /// Drains a source address, or ends that.
    pub drain: Answers<DrainOrder, DrainAnswer>,
}

/// Something that was asked for is not there; in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

/// Serves for as long as it is polled. Dropping it removes the socket's file.
pub async fn serve_control(socket: ControlSocket, control: Control) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener()?)?;
    let service = router(control, socket.owner()).into_make_service_with_connect_info::<Peer>();
    axum::serve(BoundedListener::new(listener), service).await
}

fn router(control: Control, owner: Owner) -> Router {
    Router::new()
        .route("/v1/ports", get(ports))
        .route("/v1/ports/drain", post(drain))
        .with_state((control, owner))
        .layer(DefaultBodyLimit::max(BODY))
        .layer(axum::middleware::map_response(super::close_after))
}

async fn ports(
    State((control, _)): State<(Control, Owner)>,
    query: Result<Query<PortsQuery>, QueryRejection>,
) -> Response {
    match query.map(|Query(query)| (control.ports)(query)) {
        Ok(Ok(report)) => Json(report).into_response(),
        Ok(Err(Refusal(why))) => error(StatusCode::NOT_FOUND, &why),
        Err(wrong) => error(wrong.status(), &wrong.body_text()),
    }
}

async fn drain(
    State((control, owner)): State<(Control, Owner)>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    order: Result<Json<DrainOrder>, JsonRejection>,
) -> Response {
    if !peer.may_change(owner) {
        let why = "only root and the gateway's own user and group may change what it does";
        return error(StatusCode::FORBIDDEN, why);
    }
    match order.map(|Json(order)| (control.drain)(order)) {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(Refusal(why))) => error(StatusCode::NOT_FOUND, &why),
        Err(wrong) => error(wrong.status(), &wrong.body_text()),
    }
}

fn error(status: StatusCode, why: &str) -> Response {
    (status, Json(serde_json::json!({ "error": why }))).into_response()
}

/// Who is at the other end; `None` if the kernel does not say.
#[derive(Debug, Clone, Copy)]
struct Peer(Option<Owner>);

impl Peer {
    fn may_change(self, owner: Owner) -> bool {
        self.0.is_some_and(|peer| peer.user == 0 || peer.user == owner.user || peer.group == owner.group)
    }
}

impl Connected<IncomingStream<'_, BoundedListener<UnixListener>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, BoundedListener<UnixListener>>) -> Self {
        let credentials = stream.io().stream().peer_cred();
        Self(credentials.ok().map(|peer| Owner { user: peer.uid(), group: peer.gid() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_owners_may_change_anything() {
        let owner = Owner { user: 100, group: 200 };
        let peer = |user, group| Peer(Some(Owner { user, group }));
        assert!(peer(0, 5).may_change(owner));
        assert!(peer(100, 5).may_change(owner));
        assert!(peer(7, 200).may_change(owner));
        assert!(!peer(7, 5).may_change(owner) && !peer(200, 100).may_change(owner));
        assert!(!peer(7, 0).may_change(owner), "root's group is nobody in particular");
        assert!(!Peer(None).may_change(owner));
    }
}
