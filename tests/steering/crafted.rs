//! Packets that no kernel sends, but a client with root may.

use egret::clock;
use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, TcpHeader, TcpHeaderSlice,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Hides the ports of a segment from who does not put the packet together, or does not read it to its end.
#[derive(Clone, Copy)]
pub(super) enum Disguise {
    /// In fragments, of which the first has no more than the TCP header's first bytes.
    Fragments,
    /// After more IPv6 destination options than the kernel's policy routing reads past.
    Options,
}

/// The kernel takes the whole packet with its IP header.
const RAW: i32 = 255;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Sends a SYN in disguise and says if a SYN-ACK comes back.
pub(super) fn syn(to: SocketAddr, disguise: Disguise) -> &'static str {
    // The route to the server decides the source address.
    let own = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    own.connect(to).unwrap();
    let own = own.local_addr().unwrap();
    let mut header = TcpHeader::new(own.port(), to.port(), 1000, 64240);
    header.syn = true;
    // No payload, and options that make the segment longer than a fragment must be.
    header.set_options_raw(&[1; 12]).unwrap();
    let domain = Domain::for_address(to);
    let listener = Socket::new(domain, Type::RAW, Some(Protocol::TCP)).unwrap();
    let sender = Socket::new(domain, Type::RAW, Some(Protocol::from(RAW))).unwrap();
    for packet in packets(&mut header, own.ip(), to.ip(), disguise) {
        sender.send_to(&packet, &SocketAddr::new(to.ip(), 0).into()).unwrap();
    }
    if answered(listener, to.port(), own.port()) { "SYN-ACK" } else { "nothing" }
}

fn packets(header: &mut TcpHeader, from: IpAddr, to: IpAddr, disguise: Disguise) -> Vec<Vec<u8>> {
    const FIRST: usize = 24;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.checksum = header.calc_checksum_ipv4_raw(from.octets(), to.octets(), &[]).unwrap();
            let segment = header.to_bytes();
            [(0, &segment[..FIRST], true), (FIRST, &segment[FIRST..], false)]
                .map(|(offset, part, more)| {
                    let length = u16::try_from(part.len()).unwrap();
                    let mut ip =
                        Ipv4Header::new(length, 64, IpNumber::TCP, from.octets(), to.octets()).unwrap();
                    (ip.identification, ip.dont_fragment, ip.more_fragments) = (77, false, more);
                    ip.fragment_offset = IpFragOffset::try_new(u16::try_from(offset / 8).unwrap()).unwrap();
                    ip.header_checksum = ip.calc_header_checksum();
                    [&ip.to_bytes()[..], part].concat()
                })
                .into()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            header.checksum = header.calc_checksum_ipv6_raw(from.octets(), to.octets(), &[]).unwrap();
            let segment = header.to_bytes();
            let packet = |next: IpNumber, payload: &[u8]| {
                let ip = Ipv6Header {
                    payload_length: u16::try_from(payload.len()).unwrap(),
                    next_header: next,
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                [&ip.to_bytes()[..], payload].concat()
            };
            match disguise {
                Disguise::Fragments => [(0, &segment[..FIRST], true), (FIRST, &segment[FIRST..], false)]
                    .map(|(offset, part, more)| {
                        let offset = IpFragOffset::try_new(u16::try_from(offset / 8).unwrap()).unwrap();
                        let fragment = Ipv6FragmentHeader::new(IpNumber::TCP, offset, more, 77);
                        packet(
                            IpNumber::IPV6_FRAGMENTATION_HEADER,
                            &[&fragment.to_bytes()[..], part].concat(),
                        )
                    })
                    .into(),
                Disguise::Options => {
                    // Eight bytes each: the next header, the length, and padding (PadN).
                    let options = |next: IpNumber| [next.0, 0, 1, 4, 0, 0, 0, 0];
                    let more = options(IpNumber::IPV6_DESTINATION_OPTIONS).repeat(19);
                    let payload = [&more[..], &options(IpNumber::TCP), &segment].concat();
                    vec![packet(IpNumber::IPV6_DESTINATION_OPTIONS, &payload)]
                }
            }
        }
        _ => panic!("one family"),
    }
}

fn answered(mut listener: Socket, from: u16, to: u16) -> bool {
    listener.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let is_v6 = listener.domain().unwrap() == Domain::IPV6;
    let end = clock::now() + PATIENCE;
    let mut packet = [0; 2000];
    while clock::now() < end {
        let Ok(length) = listener.read(&mut packet) else { continue };
        // IPv6 sockets get the payload alone.
        let header = if is_v6 { 0 } else { usize::from(packet[0] & 15) * 4 };
        let segment = TcpHeaderSlice::from_slice(&packet[header..length]).unwrap();
        if (segment.source_port(), segment.destination_port()) == (from, to) {
            return segment.syn() && segment.ack();
        }
    }
    false
}
