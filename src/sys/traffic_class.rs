//! Traffic class of a client (DSCP, RFC 2474), which Egret applies to the other leg.

use super::stream;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// DSCP of packets: the upper six bits of the octet called TOS in IPv4 and traffic class in IPv6. The lower two are
/// ECN, which each connection negotiates for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrafficClass(u8);

const DSCP: u8 = 0b1111_1100;

impl TrafficClass {
    /// Class of the client's SYN, if the listener keeps the headers of SYNs and this is the first call; else none. A
    /// connection made by a SYN cookie has none.
    pub fn of_client(accepted: impl AsFd) -> Self {
        let mut headers = [0; 2];
        match stream::saved_syn(accepted, &mut headers) {
            Ok(()) => Self::in_header(headers),
            Err(_) => Self::default(),
        }
    }

    /// Reads it from the first bytes of an IP header (RFC 791 §3.1, RFC 8200 §3).
    fn in_header(header: [u8; 2]) -> Self {
        match header[0] >> 4 {
            4 => Self(header[1] & DSCP),
            6 => Self((header[0] << 4 | header[1] >> 4) & DSCP),
            _ => Self::default(),
        }
    }

    /// Sets it on the packets of a socket with this `peer`. Makes no system call without a class.
    pub fn set_on(self, socket: impl AsFd, peer: SocketAddr) -> io::Result<()> {
        if self == Self::default() {
            return Ok(());
        }
        let socket = SockRef::from(&socket);
        if peer.ip().to_canonical().is_ipv4() {
            socket.set_tos_v4(self.0.into())
        } else {
            socket.set_tclass_v6(self.0.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_is_read_from_both_headers() {
        let of = |header| TrafficClass::in_header(header).0;
        assert_eq!([of([0x45, 0xb8]), of([0x4f, 0xbb]), of([0x45, 0x03])], [0xb8, 0xb8, 0]);
        assert_eq!([of([0x6b, 0x80]), of([0x6b, 0xbf]), of([0x60, 0x30])], [0xb8, 0xb8, 0]);
        assert_eq!(of([0, 0xff]), 0);
    }
}
