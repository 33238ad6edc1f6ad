//! A server on a probe's host, in place of one outside: takes a request, and sends an answer of many packets.

use super::probe::ProbeHost;
use crate::cli::interrupted;
use crate::clock;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Bytes of an answer's body: some 180 full packets.
pub(super) const BODY: usize = 256 * 1024;
const PATIENCE: Duration = Duration::from_secs(4);
/// The alert `handshake_failure`.
const TLS_ALERT: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 40];

/// Serves until dropped.
#[derive(Debug)]
pub(super) struct StandIn {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Listens on each of the ports.
    pub(super) fn start(probe: &ProbeHost, address: IpAddr, ports: &[u16]) -> io::Result<Self> {
        let listen = |port: &u16| listener(SocketAddr::new(address, *port));
        let listeners = probe.run(|| ports.iter().map(listen).collect::<io::Result<Vec<_>>>())?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let clients: Vec<_> =
                    listeners.iter().filter_map(|listener| listener.accept().ok()).collect();
                if clients.is_empty() {
                    thread::sleep(Duration::from_millis(10));
                }
                for (client, _) in clients {
                    // Each on its own: one that hangs ends by its deadline. A client that goes away is the client's affair.
                    drop(thread::spawn(|| serve(client)));
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&address.into())?;
    socket.listen(64)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn serve(mut client: TcpStream) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let deadline = clock::now() + PATIENCE;
    let mut request = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while !request.ends_with(b"\r\n\r\n") {
        let length = interrupted::repeat(deadline, || client.read(&mut buffer))?;
        request.extend(buffer.get(..length).unwrap_or_default());
        if request.first() == Some(&0x16) {
            return client.write_all(&TLS_ALERT);
        }
        if length == 0 || request.len() > 2 * BODY {
            return Ok(());
        }
    }
    write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\nConnection: close\r\n\r\n")?;
    client.write_all(&vec![b'.'; BODY])
}
