//! Protocol and addresses of the benchmark's clients and servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Length of the ClientHello that starts every connection.
pub const HELLO: usize = 517;
/// Length of every service's reply to it.
pub const REPLY: usize = 64;
/// Length of a request of the exchange.
pub const REQUEST: usize = 100;
/// Length of its response.
pub const RESPONSE: usize = 1000;

/// A name that every policy allows.
pub const ALLOWED: &str = "allowed.example.org";
/// A name that no policy allows.
pub const DENIED: &str = "denied.example.org";

/// Behaviour of a server after the hello, by port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Service {
    /// Answers requests.
    Exchange = 443,
    /// Sends without end, from the next byte received on.
    Source = 444,
    /// Discards everything received.
    Sink = 445,
}

impl Service {
    pub const ALL: [Self; 3] = [Self::Exchange, Self::Source, Self::Sink];
}

/// Server address of a service.
pub fn server(service: Service, v6: bool) -> SocketAddr {
    let ip: IpAddr = if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 2).into()
    } else {
        Ipv4Addr::new(198, 51, 100, 2).into()
    };
    SocketAddr::new(ip, service as u16)
}

/// Address of the n-th client.
pub fn client(n: u16, v6: bool) -> IpAddr {
    let n = n + 1;
    if v6 {
        Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, n).into()
    } else {
        let [high, low] = n.to_be_bytes();
        Ipv4Addr::new(10, 1, high, low).into()
    }
}

/// The n-th source address of the gateway with this number.
pub fn source(gateway: u8, n: u16, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0x64, gateway.into(), 0, 0, 0, n + 1).into()
    } else {
        let low = u8::try_from(n).expect("a pool has at most 256 addresses");
        Ipv4Addr::new(100, 64, gateway, low).into()
    }
}
