//! ICMP errors as a router on the way would send them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The least MTU that IPv6 allows.
const LEAST: u16 = 1280;
const TCP: u8 = 6;

/// The next MTU below the one that is believed; `None` if none is left to tell. The kernel remembers it for minutes, and
/// doctor's packets have to stay large meanwhile.
pub(super) fn smaller(believed: u32) -> Option<u16> {
    let believed = u16::try_from(believed).unwrap_or(u16::MAX);
    (believed > LEAST).then(|| believed - 1)
}

/// "Fragmentation needed" (RFC 1191), or "packet too big" (RFC 8201): about a segment of `sender`'s to `receiver`.
pub(super) fn too_big(sender: SocketAddr, receiver: SocketAddr, sequence: u32, mtu: u16) -> Vec<u8> {
    let mut tcp = Vec::from(sender.port().to_be_bytes());
    tcp.extend(receiver.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    // The rest of a TCP header: acknowledgement, 20 bytes, ACK, a window.
    tcp.extend([0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    match (sender.ip(), receiver.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => v4(from, to, &tcp, mtu),
        (IpAddr::V6(from), IpAddr::V6(to)) => v6(from, to, &tcp, mtu),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
    }
}

fn v4(from: Ipv4Addr, to: Ipv4Addr, tcp: &[u8], mtu: u16) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    // Version and length, service, 1500 bytes in all, identification, "don't fragment", TTL, protocol, checksum.
    let mut header = vec![0x45, 0, 0x05, 0xdc, 0, 1, 0x40, 0, 63, TCP, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    message.extend(header);
    message.extend(tcp);
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// The kernel fills in the checksum, which covers addresses.
fn v6(from: Ipv6Addr, to: Ipv6Addr, tcp: &[u8], mtu: u16) -> Vec<u8> {
    let mut message = vec![2, 0, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend([0x60, 0, 0, 0, 0x05, 0xb4, TCP, 63]);
    message.extend(from.octets());
    message.extend(to.octets());
    message.extend(tcp);
    message
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_mtus_decrease() {
        assert_eq!([9000, 1500, 1281].map(smaller), [Some(8999), Some(1499), Some(1280)]);
        assert_eq!(smaller(1280), None);
    }

    #[test]
    fn checksums_hold() {
        let (a, b) = ("192.0.2.80:80".parse().unwrap(), "10.0.1.254:61000".parse().unwrap());
        let message = too_big(a, b, 7, 1499);
        assert_eq!(checksum(&message), 0);
        assert_eq!(checksum(&message[8..28]), 0);
        assert_eq!(message.len(), 8 + 20 + 20);
        let (a, b) = ("[2001:db8::1]:80".parse().unwrap(), "[fd00::1]:61000".parse().unwrap());
        assert_eq!(too_big(a, b, 7, 1499).len(), 8 + 40 + 20);
        assert!(too_big(a, "10.0.0.1:1".parse().unwrap(), 7, 1499).is_empty());
    }
}
