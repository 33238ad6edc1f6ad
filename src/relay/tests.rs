//! The relay between real sockets on loopback.

use super::scratch::COPY;
use super::*;
use crate::sys::event_loop::{EventLoop, spawn, timeout, yield_now};
use crate::sys::stream;
use nix::sys::socket::{MsgFlags, send};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::thread;

mod ends;
mod guarded;

const NEVER: IdleTimeouts = IdleTimeouts { idle: None, half_open: Duration::from_secs(60) };

#[derive(Default)]
struct ByteTally {
    up: usize,
    down: usize,
}

impl<G> ByteMeter<G> for ByteTally {
    fn up(&mut self, bytes: usize) {
        self.up += bytes;
    }
    fn down(&mut self, bytes: usize) {
        self.down += bytes;
    }
    fn on_inspected(&mut self, _: &mut G) {}
}

/// A guard that is never present.
enum Nobody {}

impl Guard for Nobody {
    type Place = ();
    fn place(&self) -> Option<()> {
        match *self {}
    }
    fn free(&self, _: Side) -> u64 {
        match *self {}
    }
    fn passes(&mut self, _: Side, _: usize) {
        match *self {}
    }
    fn judge(&mut self, _: &mut [u8]) -> GuardVerdict {
        match *self {}
    }
    fn observe_server(&mut self, _: &[u8]) {
        match *self {}
    }
    fn server_finished(&mut self, _: u64) {
        match *self {}
    }
    fn cut_off(&mut self, _: TruncationReason) -> NextStep {
        match *self {}
    }
    fn pending_answer(&self) -> Poll<bool> {
        match *self {}
    }
    fn is_answered(&self) -> Option<bool> {
        match *self {}
    }
    fn is_over(&self) -> bool {
        match *self {}
    }
}

fn unguarded() -> Option<Box<Guarded<Nobody>>> {
    None
}

/// Two connected sockets: the end of a test, and the end of the gateway.
fn pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let outer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let inner = listener.accept().unwrap().0;
    inner.set_nonblocking(true).unwrap();
    stream::prepare(&inner).unwrap();
    (outer, inner)
}

struct RelayRun {
    end: RelayEnd,
    up: usize,
    down: usize,
    idle_pipes: usize,
}

/// Relays between a client and a server that each run on a thread of their own.
fn run(
    silence: IdleTimeouts,
    client: impl FnOnce(std::net::TcpStream) + Send + 'static,
    server: impl FnOnce(std::net::TcpStream) + Send + 'static,
) -> RelayRun {
    let (client_end, inner_client) = pair();
    let (server_end, inner_server) = pair();
    let client = thread::spawn(move || client(client_end));
    let server = thread::spawn(move || server(server_end));
    let result = EventLoop::run(async |event_loop| {
        let client = Socket::new(inner_client, &event_loop).unwrap();
        let upstream = Socket::new(inner_server, &event_loop).unwrap();
        let (scratch, mut tally) = (WorkerScratch::new(4), ByteTally::default());
        let end = relay(&client, &upstream, &scratch, &silence, &mut tally, &mut unguarded()).await;
        match end.failure() {
            Some((Side::Client, _)) => settle(&upstream).await,
            Some((Side::Upstream, _)) => settle(&client).await,
            None if matches!(end, RelayEnd::Finished { .. }) => {
                client.ended_well();
                upstream.ended_well();
            }
            None => {}
        }
        RelayRun { end, up: tally.up, down: tally.down, idle_pipes: scratch.pipes.idle() }
    })
    .unwrap();
    client.join().unwrap();
    server.join().unwrap();
    result
}

/// Records the sides whose bytes were delivered, in order.
#[derive(Clone)]
struct Diary(&'static str, Rc<RefCell<Vec<&'static str>>>);

impl<G> ByteMeter<G> for Diary {
    fn up(&mut self, _: usize) {
        self.1.borrow_mut().push(self.0);
    }
    fn down(&mut self, _: usize) {
        self.1.borrow_mut().push(self.0);
    }
    fn on_inspected(&mut self, _: &mut G) {}
}

/// Bytes that vary by position, so that loss, duplication and reordering show.
fn pattern(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
    .take(length)
    .collect()
}

fn read_all(mut socket: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    socket.read_to_end(&mut all).unwrap();
    all
}

#[test]
fn short_messages_overtake_bulk() {
    const BULK: usize = 4 * COPY;
    let diary = Rc::default();
    let arrived = |socket: &std::net::TcpStream| while socket.peek(&mut [0]).is_err() {};
    EventLoop::run(async |event_loop| {
        let scratch = Rc::new(WorkerScratch::new(4));
        let [bulk, short] = ["bulk", "short"].map(|name| {
            let ends = [pair(), pair()];
            let sockets = [&ends[0].1, &ends[1].1].map(|socket| socket.try_clone().unwrap());
            let [client, upstream] = sockets.map(|socket| Socket::new(socket, &event_loop).unwrap());
            let (scratch, mut diary) = (Rc::clone(&scratch), Diary(name, Rc::clone(&diary)));
            spawn(async move {
                relay(&client, &upstream, &scratch, &NEVER, &mut diary, &mut unguarded()).await;
            });
            ends
        });
        let [(mut bulk_client, _), (mut bulk_server, bulk_inner)] = bulk;
        let [(mut short_client, short_inner), _] = short;
        let mut download = async |bytes| {
            bulk_server.write_all(&vec![bytes; BULK]).unwrap();
            arrived(&bulk_inner);
            if bytes == 2 {
                short_client.write_all(b"short").unwrap();
                arrived(&short_inner);
            }
            timeout(Duration::from_secs(10), async {
                while !diary.borrow().contains(&"bulk") {
                    yield_now().await;
                }
            })
            .await
            .unwrap();
            bulk_client.read_exact(&mut vec![0; BULK]).unwrap();
        };
        // From the first on it is known to be bulk.
        download(1).await;
        diary.borrow_mut().clear();
        download(2).await;
    })
    .unwrap();
    assert_eq!(diary.borrow()[0], "short");
}

#[test]
fn every_byte_arrives_both_ways_and_is_counted() {
    let length = 20_000_003;
    let talk = move |mine: u8, theirs: u8| {
        move |socket: std::net::TcpStream| {
            let mut writer = socket.try_clone().unwrap();
            let writing = thread::spawn(move || {
                writer.write_all(&pattern(length, mine)).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            assert!(read_all(&socket) == pattern(length, theirs));
            writing.join().unwrap();
        }
    };
    let result = run(NEVER, talk(1, 2), talk(2, 1));
    assert!(matches!(result.end, RelayEnd::Finished { .. }), "{:?}", result.end);
    assert_eq!((result.up, result.down), (length, length));
    assert!(result.idle_pipes > 0, "bulk is spliced, and its pipes come back");
}

#[test]
fn small_messages_need_no_pipe() {
    let result = run(
        NEVER,
        |mut socket| {
            for i in 0..500u32 {
                socket.write_all(&i.to_be_bytes()).unwrap();
                let mut echo = [0; 4];
                socket.read_exact(&mut echo).unwrap();
                assert_eq!(u32::from_be_bytes(echo), i);
            }
        },
        |mut socket| {
            let mut message = [0; 4];
            while socket.read_exact(&mut message).is_ok() {
                socket.write_all(&message).unwrap();
            }
        },
    );
    assert!(matches!(result.end, RelayEnd::Finished { first: Side::Client }), "{:?}", result.end);
    assert_eq!((result.up, result.down, result.idle_pipes), (2000, 2000, 0));
}

#[test]
fn splice_goes_on_past_urgent_data() {
    let result = run(
        NEVER,
        |mut socket| {
            socket.write_all(&pattern(8_000_000, 4)).unwrap();
            send(socket.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
            socket.write_all(&pattern(8_000_000, 5)).unwrap();
        },
        |socket| {
            let all = read_all(socket);
            let sent = [pattern(8_000_000, 4), b"!".to_vec(), pattern(8_000_000, 5)].concat();
            assert!(all == sent, "{} bytes", all.len());
        },
    );
    assert!(matches!(result.end, RelayEnd::Finished { first: Side::Client }), "{:?}", result.end);
}

/// The server receives "before!after", of which `send` sends the client's part: the "!" is urgent.
fn receives_all_of(send: impl AsyncFnOnce(&std::net::TcpStream, &Socket)) {
    let ((client_end, inner_client), (mut server_end, inner_server)) = (pair(), pair());
    server_end.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let server = thread::spawn(move || {
        let mut received = [0; 12];
        let result = server_end.read_exact(&mut received);
        stream::reset_on_close(&server_end).unwrap();
        result.map(|()| received)
    });
    EventLoop::run(async |event_loop| {
        let client = Socket::new(inner_client, &event_loop).unwrap();
        send(&client_end, &client).await;
        // The event loop has told of every byte by the time that it tells of the new connection.
        let upstream = Socket::new(inner_server, &event_loop).unwrap();
        poll_fn(|cx| upstream.poll_writable(cx)).await;
        relay(
            &client,
            &upstream,
            &WorkerScratch::new(4),
            &NEVER,
            &mut ByteTally::default(),
            &mut unguarded(),
        )
        .await;
    })
    .unwrap();
    assert_eq!(&server.join().unwrap().unwrap(), b"before!after");
}

/// Sends these bytes, the last one urgent or not, and waits until they have arrived.
fn deliver(from: &std::net::TcpStream, bytes: &[u8], flags: MsgFlags) {
    assert_eq!(send(from.as_raw_fd(), bytes, flags).unwrap(), bytes.len());
    while stream::unacknowledged(from).unwrap() > 0 {
        thread::yield_now();
    }
}

#[test]
fn bytes_after_urgent_data_pass_immediately() {
    receives_all_of(async |client, _| {
        deliver(client, b"before!", MsgFlags::MSG_OOB);
        deliver(client, b"after", MsgFlags::empty());
    });
}

#[test]
fn bytes_after_bytes_read_ahead_pass_immediately() {
    receives_all_of(async |client, inspected| {
        deliver(client, b"before!", MsgFlags::MSG_OOB);
        poll_fn(|cx| inspected.poll_readable(cx)).await;
        let mut peeked = [0; 12];
        assert_eq!(inspected.peek(&mut peeked).unwrap(), 6);
        assert!(inspected.read_ahead(6).unwrap());
        assert_eq!(inspected.peek(&mut peeked).unwrap(), 7);
        // More arrives before it is asked whether any has: the mark is passed.
        deliver(client, b"after", MsgFlags::empty());
        assert!(inspected.read_ahead(7).unwrap());
    });
}
