//! Sockets of DNS queries, of which there is a bound. Those of UDP learn of ICMP errors: a server whose port is closed is not waited
//! for like a silent one.

use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{DnsUdpSocket, RuntimeProvider, TokioRuntimeProvider, TokioTime};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Longest wait for a place among the sockets; the query fails then.
const PATIENCE: Duration = Duration::from_secs(2);

type Receiving<'a> = Pin<Box<dyn Send + Future<Output = io::Result<(usize, SocketAddr)>> + 'a>>;
type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

/// Opens sockets like Tokio's provider, and connects those of UDP to their server: the kernel tells ICMP errors to connected sockets
/// alone. Other systems than Linux would take no address with each datagram then, as the resolver gives it.
#[derive(Clone)]
pub(super) struct ConnectedSockets {
    tokio: TokioRuntimeProvider,
    /// Places for the sockets of all servers. What a lookup with DNSSEC opens is estimated in advance; this is the bound.
    places: Arc<Semaphore>,
    /// The interface of a link-local server, or 0: the resolver's own configuration has no place for it.
    scope: u32,
}

impl ConnectedSockets {
    /// For queries of this server.
    pub(super) fn to(server: SocketAddr, places: &Arc<Semaphore>) -> Self {
        let scope = match server {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(server) => server.scope_id(),
        };
        Self { tokio: TokioRuntimeProvider::default(), places: Arc::clone(places), scope }
    }

    fn scoped(&self, mut server: SocketAddr) -> SocketAddr {
        if let SocketAddr::V6(server) = &mut server {
            server.set_scope_id(self.scope);
        }
        server
    }
}

impl RuntimeProvider for ConnectedSockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = CountedSocket<UdpSocket>;
    type Tcp = AsyncIoTokioAsStd<CountedSocket<TcpStream>>;

    fn create_handle(&self) -> Self::Handle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        wait: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        let (places, connecting) =
            (Arc::clone(&self.places), self.tokio.connect_tcp(self.scoped(server), from, wait));
        Box::pin(async move {
            let place = place(places).await?;
            Ok(AsyncIoTokioAsStd(CountedSocket { socket: connecting.await?.0, _place: place }))
        })
    }

    fn bind_udp(&self, from: SocketAddr, server: SocketAddr) -> Opening<Self::Udp> {
        let (places, server) = (Arc::clone(&self.places), self.scoped(server));
        Box::pin(async move {
            let place = place(places).await?;
            let socket = UdpSocket::bind(from).await?;
            socket.connect(server).await?;
            Ok(CountedSocket { socket, _place: place })
        })
    }
}

async fn place(places: Arc<Semaphore>) -> io::Result<OwnedSemaphorePermit> {
    let none = || io::Error::new(io::ErrorKind::TimedOut, "as many sockets of DNS queries as there may be");
    timeout(PATIENCE, places.acquire_owned()).await.map_err(|_| none())?.map_err(|_| none())
}

/// A socket with its place, which it gives back when it is closed.
#[derive(Debug)]
pub(super) struct CountedSocket<T> {
    // Closed before the place is given back.
    socket: T,
    _place: OwnedSemaphorePermit,
}

impl DnsUdpSocket for CountedSocket<UdpSocket> {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        DnsUdpSocket::poll_recv_from(&self.socket, cx, buffer)
    }

    /// The default goes by the poll above, which is not woken by an ICMP error.
    fn recv_from<'a, 'b, 'c>(&'a self, buffer: &'b mut [u8]) -> Receiving<'c>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(self.socket.recv_from(buffer))
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, bytes: &[u8], to: SocketAddr) -> Poll<io::Result<usize>> {
        DnsUdpSocket::poll_send_to(&self.socket, cx, bytes, to)
    }
}

impl AsyncRead for CountedSocket<TcpStream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CountedSocket<TcpStream> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Longer than any wait for an answer.
    const ANSWER: Duration = Duration::from_secs(60);

    fn sockets_to(server: &str, places: usize) -> ConnectedSockets {
        ConnectedSockets::to(server.parse().unwrap(), &Arc::new(Semaphore::new(places)))
    }

    #[test]
    fn sockets_go_by_the_servers_interface() {
        let bare: SocketAddr = "[fe80::1]:53".parse().unwrap();
        let sockets = sockets_to("[fe80::1%7]:53", 1);
        assert_eq!(sockets.scoped(bare), "[fe80::1%7]:53".parse().unwrap());
        let v4 = "192.0.2.1:53".parse().unwrap();
        assert_eq!(sockets_to("192.0.2.1:53", 1).scoped(v4), v4);
    }

    #[tokio::test]
    async fn closed_port_ends_the_query() {
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let from = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = sockets_to("192.0.2.1:53", 1).bind_udp(from, closed).await.unwrap();
        socket.send_to(b"query", closed).await.unwrap();
        let answer = timeout(ANSWER, socket.recv_from(&mut [0; 16])).await.unwrap();
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test(start_paused = true)]
    async fn sockets_never_exceed_their_places() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (server, from) = (listener.local_addr().unwrap(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let sockets = sockets_to("127.0.0.1:53", 2);
        let (tcp, udp) = (
            sockets.connect_tcp(server, None, None).await.unwrap(),
            sockets.bind_udp(from, server).await.unwrap(),
        );
        let kind = |error: io::Error| error.kind();
        assert_eq!(sockets.bind_udp(from, server).await.map_err(kind).unwrap_err(), io::ErrorKind::TimedOut);
        let refused = sockets.clone().connect_tcp(server, None, None).await.err().map(kind);
        assert_eq!(refused, Some(io::ErrorKind::TimedOut));
        drop(tcp);
        let again = sockets.bind_udp(from, server).await.unwrap();
        drop((udp, again));
        assert_eq!(sockets.places.available_permits(), 2);
    }
}
