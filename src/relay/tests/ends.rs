//! Ends of relays: by FIN, by reset, by timeout.

use super::*;
use crate::sys::failure::Failure;
use socket2::SockRef;

#[test]
fn half_closed_flow_continues_other_way() {
    let result = run(
        NEVER,
        |mut socket| {
            socket.write_all(b"question").unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            assert!(read_all(socket) == pattern(3_000_000, 7));
        },
        |mut socket| {
            assert_eq!(read_all(&socket), b"question");
            socket.write_all(&pattern(3_000_000, 7)).unwrap();
        },
    );
    assert!(matches!(result.end, RelayEnd::Finished { first: Side::Client }), "{:?}", result.end);
}

#[test]
fn server_that_finishes_first_is_noticed() {
    let result = run(
        NEVER,
        |mut socket| {
            assert_eq!(read_all(&socket), b"greeting");
            socket.write_all(b"thanks").unwrap();
        },
        |mut socket| {
            socket.write_all(b"greeting").unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(socket), b"thanks");
        },
    );
    assert!(matches!(result.end, RelayEnd::Finished { first: Side::Upstream }), "{:?}", result.end);
}

#[test]
fn reset_is_forwarded_after_pending_bytes() {
    let result = run(
        NEVER,
        |socket| {
            let mut all = Vec::new();
            let error = (&socket).read_to_end(&mut all).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert!(all == pattern(300_000, 3), "{} bytes", all.len());
        },
        |mut socket| {
            socket.write_all(&pattern(300_000, 3)).unwrap();
            while stream::unacknowledged(&socket).unwrap() > 0 {
                thread::yield_now();
            }
            stream::reset_on_close(&socket).unwrap();
        },
    );
    assert_eq!(result.end.failure(), Some((Side::Upstream, Failure::Reset)));
}

#[test]
fn reset_by_the_client_reaches_the_server() {
    let result = run(
        NEVER,
        |mut socket| {
            socket.write_all(b"x").unwrap();
            socket.read_exact(&mut [0; 1]).unwrap();
            stream::reset_on_close(&socket).unwrap();
        },
        |mut socket| {
            socket.read_exact(&mut [0; 1]).unwrap();
            socket.write_all(b"y").unwrap();
            assert_eq!(socket.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        },
    );
    assert_eq!(result.end.failure(), Some((Side::Client, Failure::Reset)));
}

#[test]
fn idle_flow_ends_only_by_timeout() {
    let idle = IdleTimeouts { idle: Some(Duration::from_millis(80)), ..NEVER };
    let wait_for_reset = |mut socket: std::net::TcpStream| {
        assert_eq!(socket.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    };
    assert!(matches!(run(idle, wait_for_reset, wait_for_reset).end, RelayEnd::Idle));
}

#[test]
fn half_open_flow_has_own_timeout() {
    let silence = IdleTimeouts { half_open: Duration::from_millis(80), ..NEVER };
    let (was_reset, client_was_reset) = std::sync::mpsc::channel();
    let result = run(
        silence,
        move |mut socket| {
            socket.shutdown(Shutdown::Write).unwrap();
            assert_eq!(socket.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            was_reset.send(()).unwrap();
        },
        move |mut socket| {
            // A server that answers nothing and does not finish.
            assert_eq!(socket.read(&mut [0; 1]).unwrap(), 0);
            client_was_reset.recv().unwrap();
            assert_eq!(socket.write(b"late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        },
    );
    assert!(matches!(result.end, RelayEnd::HalfOpen), "{:?}", result.end);
}

#[test]
fn dead_peer_is_not_awaited() {
    let (outer, inner) = pair();
    EventLoop::run(async |event_loop| {
        let socket = Socket::new(inner, &event_loop).unwrap();
        while stream::write(&socket, &[0; 4096]).is_ok() {}
        stream::reset_on_close(&outer).unwrap();
        drop(outer);
        let settled = timeout(Duration::from_secs(5), settle(&socket)).await;
        assert!(settled.is_ok(), "{} bytes", stream::unacknowledged(&socket).unwrap());
    })
    .unwrap();
}

#[test]
fn answer_before_reset_reaches_sending_client() {
    let ((mut client_end, inner_client), (mut server_end, inner_server)) = (pair(), pair());
    client_end.write_all(b"more of the upload").unwrap();
    server_end.write_all(b"413 too large").unwrap();
    while stream::unacknowledged(&server_end).unwrap() > 0 {
        thread::yield_now();
    }
    stream::reset_on_close(&server_end).unwrap();
    drop(server_end);
    let end = EventLoop::run(async |event_loop| {
        let client = Socket::new(inner_client, &event_loop).unwrap();
        let upstream = Socket::new(inner_server, &event_loop).unwrap();
        relay(&client, &upstream, &WorkerScratch::new(4), &NEVER, &mut ByteTally::default(), &mut unguarded())
            .await
    })
    .unwrap();
    assert_eq!(end.failure(), Some((Side::Upstream, Failure::Reset)));
    let mut answer = [0; 13];
    client_end.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"413 too large");
    assert_eq!(client_end.read(&mut answer).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn reset_after_half_close_is_forwarded() {
    let (reset, client_has_reset) = std::sync::mpsc::channel();
    let result = run(
        NEVER,
        move |mut socket| {
            socket.shutdown(Shutdown::Write).unwrap();
            socket.read_exact(&mut [0; 1]).unwrap();
            stream::reset_on_close(&socket).unwrap();
            drop(socket);
            reset.send(crate::clock::now()).unwrap();
        },
        move |mut socket| {
            assert_eq!(socket.read(&mut [0; 1]).unwrap(), 0);
            socket.write_all(b"x").unwrap();
            let at = client_has_reset.recv().unwrap();
            // A server in CLOSE_WAIT reads end of file before and after: the error tells the difference.
            while socket.take_error().unwrap().is_none() {
                thread::yield_now();
                assert!(at.elapsed() < SETTLE / 2, "the reset is late");
            }
        },
    );
    assert_eq!(result.end.failure(), Some((Side::Client, Failure::Reset)));
}

/// End of a relay whose server sent this and reset before the relay read it.
fn end_after_reset(said: &[u8], finishes: bool) -> RelayEnd {
    let ((client_end, inner_client), (mut server_end, inner_server)) = (pair(), pair());
    server_end.write_all(said).unwrap();
    while stream::unacknowledged(&server_end).unwrap() > 0 {
        thread::yield_now();
    }
    if finishes {
        server_end.shutdown(Shutdown::Write).unwrap();
        // The kernel resets a peer that writes to a socket that is not read any more.
        server_end.set_nonblocking(true).unwrap();
        drop(server_end);
        while stream::received(&inner_server).unwrap() <= said.len() as u64 {
            thread::yield_now();
        }
        stream::write(&inner_server, b"late").unwrap();
        while SockRef::from(&inner_server).take_error().unwrap().is_none() {
            thread::yield_now();
        }
    } else {
        stream::reset_on_close(&server_end).unwrap();
        drop(server_end);
    }
    EventLoop::run(async |event_loop| {
        let client = Socket::new(inner_client, &event_loop).unwrap();
        let upstream = Socket::new(inner_server, &event_loop).unwrap();
        let relayed = async {
            let (scratch, mut tally) = (WorkerScratch::new(4), ByteTally::default());
            relay(&client, &upstream, &scratch, &NEVER, &mut tally, &mut unguarded()).await
        };
        // The client's bytes make the relay find the reset, once the FIN was passed on.
        (&client_end).write_all(b"x").unwrap();
        timeout(Duration::from_secs(30), relayed).await.unwrap()
    })
    .unwrap()
}

#[test]
fn reset_differs_from_earlier_fin() {
    for (finishes, finished) in [(true, Some(Side::Upstream)), (false, None)] {
        let RelayEnd::Failed(failure) = end_after_reset(b"an answer", finishes) else { panic!() };
        let SocketFailure { side, progress, .. } = *failure;
        assert_eq!((side, progress.finished, progress.down), (Side::Upstream, finished, 9));
    }
    let alert = b"\x15\x03\x03\0\x02\x01\0";
    let RelayEnd::Failed(failure) = end_after_reset(alert, false) else { panic!() };
    assert!(failure.progress.notified);
}

#[test]
fn bytes_undelivered_at_reset_are_counted() {
    let ((client_end, inner_client), (mut server_end, inner_server)) = (pair(), pair());
    server_end.write_all(b"half an answer").unwrap();
    let end = EventLoop::run(async |event_loop| {
        let client = Socket::new(inner_client, &event_loop).unwrap();
        let upstream = Socket::new(inner_server, &event_loop).unwrap();
        let (scratch, mut tally, mut nobody) = (WorkerScratch::new(4), ByteTally::default(), unguarded());
        poll_fn(|cx| upstream.poll_readable(cx)).await;
        // No event has told of it when the server's bytes are read.
        stream::reset_on_close(&client_end).unwrap();
        drop(client_end);
        relay(&client, &upstream, &scratch, &NEVER, &mut tally, &mut nobody).await
    })
    .unwrap();
    let RelayEnd::Failed(failed) = end else { panic!("{end:?}") };
    let RelayProgress { down, held, .. } = failed.progress;
    assert_eq!((failed.side, down, held), (Side::Client, 0, 14));
}
