//! Sockets of DNS queries. Those of UDP learn of ICMP errors: a server whose port is closed is not waited for like a silent one.

use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::net::UdpSocket;

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

/// Opens sockets like Tokio's provider, and connects those of UDP to their server: the kernel tells ICMP errors to connected sockets
/// alone. Other systems than Linux would take no address with each datagram then, as the resolver gives it.
#[derive(Clone, Default)]
pub(super) struct ConnectedSockets {
    tokio: TokioRuntimeProvider,
    /// The interface of a link-local server, or 0: the resolver's own configuration has no place for it.
    scope: u32,
}

impl ConnectedSockets {
    /// For queries of this server.
    pub(super) fn to(server: SocketAddr) -> Self {
        let scope = match server {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(server) => server.scope_id(),
        };
        Self { tokio: TokioRuntimeProvider::default(), scope }
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
    type Udp = UdpSocket;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        wait: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        self.tokio.connect_tcp(self.scoped(server), from, wait)
    }

    fn bind_udp(&self, from: SocketAddr, server: SocketAddr) -> Opening<Self::Udp> {
        let server = self.scoped(server);
        Box::pin(async move {
            let socket = UdpSocket::bind(from).await?;
            socket.connect(server).await?;
            Ok(socket)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    /// Longer than any wait for an answer.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn sockets_go_by_the_servers_interface() {
        let bare: SocketAddr = "[fe80::1]:53".parse().unwrap();
        let sockets = ConnectedSockets::to("[fe80::1%7]:53".parse().unwrap());
        assert_eq!(sockets.scoped(bare), "[fe80::1%7]:53".parse().unwrap());
        let v4 = "192.0.2.1:53".parse().unwrap();
        assert_eq!(ConnectedSockets::to(v4).scoped(v4), v4);
    }

    #[tokio::test]
    async fn closed_port_ends_the_query() {
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let from = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = ConnectedSockets::default().bind_udp(from, closed).await.unwrap();
        socket.send_to(b"query", closed).await.unwrap();
        let answer = timeout(PATIENCE, socket.recv_from(&mut [0; 16])).await.unwrap();
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
