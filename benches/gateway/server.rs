//! The servers: one process in the server's namespace, with one thread for each service.

use crate::bytes::{Ended, Payload, discard};
use crate::poller::{CHANGES, Poller, READABLE, WRITABLE};
use crate::wire::{HELLO, REPLY, REQUEST, RESPONSE, Service};
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Prints `ready` when all servers listen, and serves until its standard input ends.
pub fn serve() {
    for service in Service::ALL {
        let listeners = [listen(service, false), listen(service, true)];
        thread::spawn(move || Server::new(service, listeners).run());
    }
    println!("ready");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn listen(service: Service, v6: bool) -> TcpListener {
    let port = service as u16;
    let address: SocketAddr =
        if v6 { (Ipv6Addr::UNSPECIFIED, port).into() } else { (Ipv4Addr::UNSPECIFIED, port).into() };
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None).expect("a socket");
    if v6 {
        socket.set_only_v6(true).expect("IPV6_V6ONLY");
    }
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.set_tcp_nodelay(true).expect("TCP_NODELAY");
    socket.bind(&address.into()).unwrap_or_else(|e| panic!("bind {address}: {e}"));
    socket.listen(65_535).expect("listen");
    socket.into()
}

struct Server {
    service: Service,
    poller: Poller,
    listeners: [TcpListener; 2],
    connections: Vec<Option<Connection>>,
    vacant: Vec<usize>,
    buffer: Vec<u8>,
    payload: Payload,
}

struct Connection {
    stream: TcpStream,
    stage: Stage,
    /// Bytes received and not answered yet.
    got: usize,
    /// Offset in the payload.
    offset: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The hello is incomplete.
    Hello,
    Answering,
    /// Waits for the order to send.
    Order,
    Sending,
    Taking,
}

impl Server {
    fn new(service: Service, listeners: [TcpListener; 2]) -> Self {
        let poller = Poller::new();
        // connection numbers follow those of the listeners
        for (key, listener) in listeners.iter().enumerate() {
            poller.watch(listener, key, READABLE);
        }
        Self {
            service,
            poller,
            listeners,
            connections: Vec::new(),
            vacant: Vec::new(),
            buffer: vec![0; 1 << 20],
            payload: Payload::new(),
        }
    }

    fn run(mut self) {
        loop {
            for n in 0..self.poller.wait(None) {
                let (key, _) = self.poller.event(n);
                match key.checked_sub(self.listeners.len()) {
                    None => self.accept(key),
                    Some(number) => self.handle(number),
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) {
        // ends with "would block", or with an error that the next call would return again
        while let Ok((stream, _)) = self.listeners[listener].accept() {
            stream.set_nonblocking(true).expect("O_NONBLOCK");
            let number = self.vacant.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.poller.watch(&stream, self.key(number), CHANGES);
            self.connections[number] = Some(Connection { stream, stage: Stage::Hello, got: 0, offset: 0 });
        }
    }

    fn handle(&mut self, number: usize) {
        let Some(connection) = &mut self.connections[number] else { return };
        let end = match connection.stage {
            Stage::Sending => self.payload.send(&connection.stream, &mut connection.offset),
            Stage::Taking => discard(&connection.stream, &mut self.buffer),
            Stage::Hello | Stage::Answering | Stage::Order => self.read(number),
        };
        if end.is_err() {
            self.connections[number] = None;
            self.vacant.push(number);
        }
    }

    /// Reads, and answers every complete request; returns the number of bytes read.
    fn read(&mut self, number: usize) -> Result<usize, Ended> {
        let key = self.key(number);
        let Some(connection) = &mut self.connections[number] else { return Ok(0) };
        let came = match (&connection.stream).read(&mut self.buffer) {
            Ok(0) => return Err(Ended),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(_) => return Err(Ended),
        };
        connection.got += came;
        if connection.stage == Stage::Hello && connection.got >= HELLO {
            connection.got -= HELLO;
            send(&connection.stream, &self.buffer[..REPLY])?;
            connection.stage = match self.service {
                Service::Exchange => Stage::Answering,
                Service::Source => Stage::Order,
                Service::Sink => Stage::Taking,
            };
            if self.service == Service::Sink {
                self.poller.watch_instead(&connection.stream, key, READABLE);
            }
        }
        if connection.stage == Stage::Answering {
            while connection.got >= REQUEST {
                connection.got -= REQUEST;
                send(&connection.stream, &self.buffer[..RESPONSE])?;
            }
        }
        if connection.stage == Stage::Order && connection.got > 0 {
            connection.stage = Stage::Sending;
            self.poller.watch_instead(&connection.stream, key, WRITABLE);
        }
        Ok(came)
    }

    fn key(&self, number: usize) -> usize {
        self.listeners.len() + number
    }
}

/// Sends a whole message; a client with one request at a time never fills the buffer.
fn send(mut stream: &TcpStream, bytes: &[u8]) -> Result<(), Ended> {
    stream.write_all(bytes).map_err(|_| Ended)
}
