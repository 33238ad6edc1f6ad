//! What clients and servers of the benchmark say to each other, and where they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a ClientHello, with which every connection starts.
pub const HELLO: usize = 517;
/// Bytes that every service answers to it.
pub const REPLY: usize = 64;
/// Bytes of a request of the exchange, after that.
pub const REQUEST: usize = 100;
/// Bytes of the answer to one.
pub const RESPONSE: usize = 1000;

/// The name that everybody's policy allows.
pub const ALLOWED: &str = "allowed.example.org";
/// A name that nobody's policy allows.
pub const DENIED: &str = "denied.example.org";

/// What a server does after the hello, by port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Service {
    /// Answers requests.
    Exchange = 443,
    /// Sends for ever, from the next byte that it gets on.
    Source = 444,
    /// Takes whatever comes.
    Sink = 445,
}

impl Service {
    pub const ALL: [Self; 3] = [Self::Exchange, Self::Source, Self::Sink];
}

/// The server's side of a service.
pub fn server(service: Service, v6: bool) -> SocketAddr {
    let ip: IpAddr = if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 2).into()
    } else {
        Ipv4Addr::new(198, 51, 100, 2).into()
    };
    SocketAddr::new(ip, service as u16)
}

/// The n-th address that clients connect from.
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
