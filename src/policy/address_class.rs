//! Scope of addresses, so that a name cannot be made to point into the operator's own network (DNS rebinding).

use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Scope of an address: whether a name alone may lead to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AddressClass {
    /// The internet, documentation ranges included, as nobody uses those.
    Public,
    /// A private network: only if the operator allows it.
    Private,
    /// The host itself, the link, a cloud's metadata service, more than one receiver, or nowhere: never.
    Never,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, d: u16, last: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, last), prefix)
}

const fn host(a: u16, b: u16, c: u16, second_last: u16, last: u16) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, second_last, last), 128)
}

/// The first that contains the address decides; none: public. From the IANA special-purpose registry (RFC 6890).
const V4: &[(Ipv4Net, AddressClass)] = &[
    (v4(0, 0, 0, 0, 8), AddressClass::Never), // "this host"; Linux takes 0.0.0.0 for loopback
    (v4(127, 0, 0, 0, 8), AddressClass::Never), // loopback
    (v4(169, 254, 0, 0, 16), AddressClass::Never), // link-local, with the metadata of most clouds
    (v4(168, 63, 129, 16, 32), AddressClass::Never), // Azure's host agent
    (v4(100, 100, 100, 200, 32), AddressClass::Never), // Alibaba Cloud's metadata
    (v4(192, 0, 0, 192, 32), AddressClass::Never), // Oracle Cloud's older metadata
    (v4(224, 0, 0, 0, 4), AddressClass::Never), // multicast
    (v4(255, 255, 255, 255, 32), AddressClass::Never), // broadcast
    (v4(10, 0, 0, 0, 8), AddressClass::Private), // RFC 1918
    (v4(172, 16, 0, 0, 12), AddressClass::Private), // RFC 1918
    (v4(192, 168, 0, 0, 16), AddressClass::Private), // RFC 1918
    (v4(100, 64, 0, 0, 10), AddressClass::Private), // RFC 6598, carrier-grade NAT
    (v4(192, 0, 0, 0, 24), AddressClass::Private), // RFC 6890, protocol assignments
    (v4(198, 18, 0, 0, 15), AddressClass::Private), // RFC 2544, benchmarking
    (v4(240, 0, 0, 0, 4), AddressClass::Private), // RFC 1112, reserved; some use it within their walls
];

/// The first that contains the address decides; none: never, because only `2000::/3` is assigned as global unicast.
const V6: &[(Ipv6Net, AddressClass)] = &[
    (v6(0xfd00, 0xec2, 0, 0, 0, 32), AddressClass::Never), // AWS: metadata, DNS, time, credentials
    (host(0xfd20, 0xce, 0, 0, 0x254), AddressClass::Never), // Google Cloud's metadata
    (host(0xfd00, 0x42, 0, 0, 0x42), AddressClass::Never), // Scaleway's metadata
    (host(0xfd00, 0xa9fe, 0xa9fe, 0, 1), AddressClass::Never), // Akamai's (Linode's) metadata
    (host(0xfd00, 0xc1, 0, 0xa9fe, 0xa9fe), AddressClass::Never), // Oracle Cloud's metadata
    (host(0xfd00, 0x100, 0, 0x100, 0x200), AddressClass::Never), // Alibaba Cloud's metadata
    (v6(0xfc00, 0, 0, 0, 0, 7), AddressClass::Private),    // RFC 4193, unique local
    (v6(0xfec0, 0, 0, 0, 0, 10), AddressClass::Private),   // RFC 3879, the former site-local
    (v6(0x2001, 2, 0, 0, 0, 48), AddressClass::Private),   // RFC 5180, benchmarking
    (v6(0x2000, 0, 0, 0, 0, 3), AddressClass::Public),
];

/// Returns the scope of a canonical address. One that embeds an IPv4 address has the scope of that; one of ISATAP the
/// narrower of both, as its prefix may be any.
pub(super) fn of(address: IpAddr) -> AddressClass {
    match address {
        IpAddr::V4(address) => of_v4(address),
        IpAddr::V6(v6) => {
            let [first, second, isatap] = carried(address);
            let translated = [first, second].into_iter().flatten().map(of_v4).max();
            let of_v6 = || V6.iter().find(|(network, _)| network.contains(&v6)).map(|&(_, scope)| scope);
            let outer = translated.or_else(of_v6).unwrap_or(AddressClass::Never);
            isatap.map_or(outer, |carried| outer.max(of_v4(carried)))
        }
    }
}

fn of_v4(address: Ipv4Addr) -> AddressClass {
    V4.iter()
        .find(|(network, _)| network.contains(&address))
        .map_or(AddressClass::Public, |&(_, scope)| scope)
}

/// IPv4 addresses that a translator or tunnel would send the packets of an IPv6 address to; the last that of ISATAP. The
/// local NAT64 prefix `64:ff9b:1::/48` (RFC 8215) is not here, and so is never reached by name: the position of the IPv4
/// address in it depends on a prefix length that only its operator knows. Nor are prefixes that an operator has chosen
/// for NAT64 (RFC 6052, §2.2) known here.
pub(super) fn carried(address: IpAddr) -> [Option<Ipv4Addr>; 3] {
    let IpAddr::V6(address) = address else { return [None; 3] };
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    // RFC 5214, §6.1: any prefix; bit 6 of the interface identifier is set for a global IPv4 address.
    let isatap = match address.segments() {
        [.., 0 | 0x200, 0x5efe, high, low] => v4(high, low),
        _ => None,
    };
    let [first, second] = match address.segments() {
        // ::a.b.c.d, RFC 4291 §2.5.5.1, and with it `::` and `::1`; NAT64, RFC 6052; 6to4, RFC 3056
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            [v4(high, low), None]
        }
        // Teredo, RFC 4380 §4: the server, and the client's address with every bit inverted
        [0x2001, 0, high, low, _, _, client_high, client_low] => {
            [v4(high, low), v4(!client_high, !client_low)]
        }
        _ => [None, None],
    };
    [first, second, isatap]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::IpNet;

    #[test]
    fn addresses_have_their_routed_scope() {
        use AddressClass::*;
        let cases = [
            ("8.8.8.8", Public),
            ("192.0.2.1", Public),
            ("198.51.100.7", Public),
            ("203.0.113.255", Public),
            ("172.15.255.255", Public),
            ("172.32.0.0", Public),
            ("100.63.255.255", Public),
            ("100.128.0.0", Public),
            ("198.17.255.255", Public),
            ("198.20.0.0", Public),
            ("223.255.255.255", Public),
            ("192.0.1.0", Public),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("192.168.1.1", Private),
            ("100.64.0.0", Private),
            ("100.127.255.255", Private),
            ("192.0.0.8", Private),
            ("198.18.0.1", Private),
            ("198.19.255.255", Private),
            ("240.0.0.1", Private),
            ("255.255.255.254", Private),
            ("0.0.0.0", Never),
            ("0.1.2.3", Never),
            ("127.0.0.1", Never),
            ("127.255.255.254", Never),
            ("169.254.169.254", Never),
            ("169.254.170.2", Never),
            ("168.63.129.16", Never),
            ("100.100.100.200", Never),
            ("192.0.0.192", Never),
            ("224.0.0.1", Never),
            ("239.255.255.255", Never),
            ("255.255.255.255", Never),
            ("2606:4700::1", Public),
            ("2001:db8::1", Public),
            ("3fff::1", Public),
            ("fc00::1", Private),
            ("fdff:ffff::1", Private),
            ("fec0::1", Private),
            ("2001:2::1", Private),
            ("::", Never),
            ("::1", Never),
            ("fe80::1", Never),
            ("febf::1", Never),
            ("ff02::1", Never),
            ("fd00:ec2::254", Never),
            ("fd00:ec2::23", Never),
            ("fd20:ce::254", Never),
            ("fd00:42::42", Never),
            ("fd00:42::43", Private),
            ("fd00:a9fe:a9fe::1", Never),
            ("fd00:c1::a9fe:a9fe", Never),
            ("fd00:100::100:200", Never),
            ("100::1", Never),
            ("4000::1", Never),
            ("5f00::1", Never),
            // IPv4 within IPv6
            ("::8.8.8.8", Public),
            ("::127.0.0.1", Never),
            ("::ffff:0:127.0.0.1", Never),
            ("64:ff9b::8.8.8.8", Public),
            ("64:ff9b::10.0.0.1", Private),
            ("64:ff9b::169.254.169.254", Never),
            ("64:ff9b:1::8.8.8.8", Never),
            ("2002:808:808::1", Public),
            ("2002:a00:1::1", Private),
            ("2002:7f00:1::1", Never),
            ("2001:0:808:808::f7f7:f7f7", Public),  // client 8.8.8.8
            ("2001:0:808:808::f5ff:fffe", Private), // client 10.0.0.1
            ("2001:0:808:808::80ff:fffe", Never),   // client 127.0.0.1
            ("2001:0:a00:1::f7f7:f7f7", Private),   // server 10.0.0.1
            ("2606:4700::5efe:8.8.8.8", Public),
            ("2606:4700::5efe:10.0.0.5", Private),
            ("2606:4700::200:5efe:10.0.0.5", Private),
            ("2606:4700::5efe:169.254.169.254", Never),
            ("2002:808:808::5efe:127.0.0.1", Never),
            ("fd12::5efe:8.8.8.8", Private),
            ("fe80::5efe:8.8.8.8", Never),
        ];
        for (address, scope) in cases {
            assert_eq!(of(address.parse().unwrap()), scope, "{address}");
        }
    }

    #[test]
    fn scope_table_has_no_shadowed_lines() {
        let v4 = V4.iter().map(|&(n, _)| IpNet::V4(n)).collect::<Vec<_>>();
        let v6 = V6.iter().map(|&(n, _)| IpNet::V6(n)).collect::<Vec<_>>();
        for table in [v4, v6] {
            for (at, network) in table.iter().enumerate() {
                assert!(!table[..at].iter().any(|before| before.contains(network)), "{network}");
            }
        }
    }
}
