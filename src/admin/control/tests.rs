use super::*;
use crate::admin::pending_order;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[test]
fn only_root_and_owners_may_change() {
    let owner = SocketOwner { user: 100, group: 200 };
    let may = |uid, gid| may_change(SocketPeer { uid, gid, pid: Some(7) }, owner);
    assert!(may(Some(0), Some(5)));
    assert!(may(Some(100), Some(5)));
    assert!(may(Some(7), Some(200)));
    assert!(!may(Some(7), Some(5)) && !may(Some(200), Some(100)));
    assert!(!may(Some(7), Some(0)), "root's group is nobody in particular");
    assert!(!may(None, None));
}

#[tokio::test(start_paused = true)]
async fn late_order_tells_if_it_waits() {
    for (begins, said) in [(true, "it goes on"), (false, "it waits behind another order")] {
        let (reply, order) = pending_order::<()>();
        if begins {
            reply.begin();
        }
        let response = carried_out(Ok(order)).await.unwrap_err();
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        let body = axum::body::to_bytes(response.into_body(), BODY).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains(said), "{body:?}");
        reply.send(());
    }
    let (reply, order) = pending_order();
    reply.send(7);
    assert_eq!(carried_out(Ok(order)).await.unwrap(), 7);
}

#[tokio::test]
async fn order_without_answer_tells_if_it_failed() {
    for (begins, status, said) in [(true, 500, "is a bug"), (false, 503, "it is stopping")] {
        let (reply, order) = pending_order::<()>();
        if begins {
            reply.begin();
        }
        drop(reply);
        let response = carried_out(Ok(order)).await.unwrap_err();
        assert_eq!(response.status(), status);
        let body = axum::body::to_bytes(response.into_body(), BODY).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains(said), "{body:?}");
    }
}

fn no_query<Q, A>() -> QueryHandler<Q, A> {
    Arc::new(|_| Err(ControlError::Unknown("nothing".to_owned())))
}

fn no_order<Q, A>() -> OrderHandler<Q, A> {
    Arc::new(|_, _| Err(ControlError::Unknown("nothing".to_owned())))
}

/// Handlers that know nothing. Rejected orders are noted in `rejected`.
fn handlers(rejected: Arc<Mutex<Vec<String>>>) -> ControlHandlers {
    ControlHandlers {
        ports: no_query(),
        explain: no_query(),
        names: no_query(),
        drain: no_order(),
        reload: no_order(),
        trace: no_order(),
        traced: no_query(),
        probe: no_order(),
        probed: no_query(),
        candidate: CandidateHandlers {
            report: no_query(),
            files: no_query(),
            load: no_order(),
            share: no_order(),
            promote: no_order(),
            drop: no_order(),
        },
        forbidden: Arc::new(move |_, order, _| rejected.lock().unwrap().push(order.to_owned())),
    }
}

/// Asks all that can be asked, as a user who may give no orders. Also the query by which `egret doctor` looks if the
/// gateway answers.
#[tokio::test]
async fn queries_are_never_rejected_as_orders() {
    let nobody = SocketPeer { uid: Some(7), gid: Some(7), pid: None };
    let as_nobody = move |mut request: Request| {
        let connection = ControlConnection { peer: nobody, request: RequestMark::default() };
        request.extensions_mut().insert(ConnectInfo(connection));
        std::future::ready(request)
    };
    let rejected = Arc::default();
    let owner = SocketOwner { user: 100, group: 200 };
    let service = router(handlers(Arc::clone(&rejected)), owner).layer(map_request(as_nobody));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, service).await });
    let orders = [
        "POST /v1/ports/drain",
        "POST /v1/reload",
        "POST /v1/trace",
        "GET /v1/trace?trace=7",
        "POST /v1/probe",
        "POST /v1/candidate/load",
        "POST /v1/candidate/share",
        "POST /v1/candidate/promote",
        "POST /v1/candidate/drop",
    ];
    let queries = [
        "GET /v1/ports",
        "GET /v1/explain?from=192.0.2.1&to=a.example",
        "GET /v1/candidate",
        "GET /v1/candidate/files",
        "GET /v1/names",
        "GET /v1/probe?client=0.0.0.0:0",
    ];
    for (asked, answer) in
        orders.iter().map(|order| (order, "403")).chain(queries.iter().map(|query| (query, "404")))
    {
        let mut client = UnixStream::connect(&path).await.unwrap();
        let request = format!("{asked} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut told = String::new();
        client.read_to_string(&mut told).await.unwrap();
        assert_eq!(told.split(' ').nth(1), Some(answer), "{asked}: {told}");
    }
    server.abort();
    let rejected = rejected.lock().unwrap();
    assert_eq!(rejected.len(), orders.len(), "{rejected:?}");
}
