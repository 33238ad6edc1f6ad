use super::*;
use axum::Router;
use axum::routing::get;
use std::future::{pending, poll_fn};
use std::io::Read;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longer than any test waits.
const LONG: Duration = Duration::from_secs(600);
/// Far beyond any bound, so that a lack of one fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(60);

async fn listen(places: usize, times: Times) -> (BoundedListener<TcpListener>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut bounded = BoundedListener::new(listener, Box::new(|_, peer| Peer::address(peer.ip())));
    (bounded.places, bounded.times) = (Places::new(places), times);
    (bounded, address)
}

async fn read_error(connection: &mut BoundedStream<TcpStream>) -> io::ErrorKind {
    let mut byte = [0];
    let read = poll_fn(|cx| Pin::new(&mut *connection).poll_read(cx, &mut ReadBuf::new(&mut byte)));
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap_err().kind()
}

#[tokio::test]
async fn silent_connection_ends_at_head_deadline() {
    let (mut bounded, address) = listen(4, Times { head: Duration::from_millis(50), whole: LONG }).await;
    let mut client = std::net::TcpStream::connect(address).unwrap();
    let (mut connection, _) = bounded.accept().await;
    assert_eq!(read_error(&mut connection).await, io::ErrorKind::TimedOut);
    drop(connection);
    assert_eq!((client.read(&mut [0]).unwrap(), bounded.places.held()), (0, 0));
}

#[tokio::test]
async fn unread_answer_ends_the_connection() {
    let times = Times { head: Duration::from_millis(1), whole: Duration::from_millis(50) };
    let (mut bounded, address) = listen(4, times).await;
    let client = std::net::TcpStream::connect(address).unwrap();
    let (mut connection, _) = bounded.accept().await;
    connection.request().set();
    let mut written = 0;
    let error = loop {
        let write = poll_fn(|cx| Pin::new(&mut connection).poll_write(cx, &[0; 4096]));
        match tokio::time::timeout(PATIENCE, write).await.unwrap() {
            Ok(bytes) => written += bytes,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(written > 0, "the head's deadline does not hold for the answer");
    drop(client);
}

#[tokio::test]
async fn taken_place_ends_its_connection() {
    let (mut bounded, address) = listen(4, Times { head: LONG, whole: LONG }).await;
    let _clients = [0; 2].map(|_| std::net::TcpStream::connect(address).unwrap());
    let (mut first, _) = bounded.accept().await;
    let (second, _) = bounded.accept().await;
    assert_eq!(read_error(&mut first).await, io::ErrorKind::ConnectionAborted);
    drop((first, second));
    assert_eq!(bounded.places.held(), 0);
}

/// Also while their handlers wait, which the server tells by descriptors that it has closed.
#[tokio::test]
async fn flood_delays_no_other_answer() {
    let (bounded, address) = listen(8, Times { head: LONG, whole: LONG }).await;
    let places = Arc::clone(&bounded.places);
    let router = Router::new()
        .route("/", get(async || "ok"))
        .route("/waits", get(async || pending::<&'static str>().await))
        .layer(axum::middleware::map_request(super::super::mark_request));
    let service = router.into_make_service_with_connect_info::<RequestMark>();
    let server = tokio::spawn(axum::serve(bounded, service).into_future());
    let mut flood = Vec::new();
    for at in 0..40 {
        let mut client = TcpStream::connect(address).await.unwrap();
        let sent: &[u8] = if at % 2 == 0 { b"GET / HT" } else { b"GET /waits HTTP/1.1\r\nHost: x\r\n\r\n" };
        client.write_all(sent).await.unwrap();
        flood.push(client);
    }
    let answer = async {
        let mut good = TcpStream::connect(address).await.unwrap();
        good.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        good.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(places.held() <= 2);
    let ends = async {
        for client in &mut flood[..37] {
            let end = client.read(&mut [0; 64]).await;
            assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        }
    };
    tokio::time::timeout(PATIENCE, ends).await.unwrap();
    server.abort();
}
