//! Addresses of a pool's networks, and their rendezvous weights per client. Pure, and the same in every process.

use crate::addr::SourceAddr;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 networks of up to this many host bits are listed address by address: 4,096 addresses.
const OPENED_BITS_V4: u8 = 12;
/// IPv6 networks of up to this many host bits are listed address by address: 256 addresses.
const OPENED_BITS_V6: u8 = 8;
/// True if the addresses of a network are derived per client instead of listed.
pub fn is_derived(net: &IpNet) -> bool {
    let bits = net.max_prefix_len() - net.prefix_len();
    bits > if net.addr().is_ipv4() { OPENED_BITS_V4 } else { OPENED_BITS_V6 }
}

/// Returns every address of a network, the first and last too. Only for networks that are listed.
pub(super) fn every_address(net: &IpNet) -> Vec<SourceAddr> {
    match net.trunc() {
        IpNet::V4(net) => {
            let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
            (first..=last).map(|a| SourceAddr::new(Ipv4Addr::from(a).into())).collect()
        }
        IpNet::V6(net) => {
            let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
            (first..=last).map(|a| SourceAddr::new(Ipv6Addr::from(a).into())).collect()
        }
    }
}

/// Returns a client's `n`-th address in a wide network; the same in every process.
pub(super) fn derived_address(client: u64, net: &IpNet, n: u8) -> SourceAddr {
    let prefix = bits(net.network());
    let seed = mix(client ^ hash(net.network()) ^ mix(u64::from(net.prefix_len()) << 8 | u64::from(n)));
    let host = u128::from(seed) << 64 | u128::from(mix(seed));
    let host_bits = net.max_prefix_len() - net.prefix_len();
    // a wide network of prefix length 0 has host bits only
    let mask = if host_bits >= 128 { u128::MAX } else { (1 << host_bits) - 1 };
    let address = prefix | (host & mask);
    SourceAddr::new(match net {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(low_word(address))),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(address)),
    })
}

/// Weight of an address for a client (rendezvous, or highest-random-weight hashing): the client prefers the largest.
/// Removing an address moves only its own clients; adding one moves only the clients that now prefer it. Both
/// parameters are results of [`hash`].
pub(super) fn weight(client: u64, address: u64) -> u64 {
    mix(client ^ address)
}

/// Hash that is the same in every process and version: clients keep their address over restarts. Not a defence: a
/// client that picks its own address can influence its source, and gains nothing by it.
pub(super) fn hash(address: IpAddr) -> u64 {
    let bits = bits(address);
    mix(mix(low_half(bits)) ^ low_half(bits >> 64))
}

/// Finaliser of `SplitMix64` (Steele, Lea, Flood 2014): a bijection in which every input bit flips half the output
/// bits.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn low_half(x: u128) -> u64 {
    x as u64
}

#[expect(clippy::cast_possible_truncation, reason = "an IPv4 address is the low 32 bits")]
fn low_word(x: u128) -> u32 {
    x as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn hash_never_changes() {
        // a change here moves every client to another source address at the next upgrade
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf, "the published first output of SplitMix64 for seed 0");
        assert_eq!(hash("10.0.0.1".parse().unwrap()), 0x7ab4_29e2_5706_964c);
        assert_eq!(hash("2001:db8::1".parse().unwrap()), 0x188e_3d1b_99f6_9ff0);
        let first = derived_address(hash("10.0.0.1".parse().unwrap()), &net("2001:db8:100::/64"), 0);
        assert_eq!(first.to_string(), "2001:db8:100:0:755b:7e7:8ac3:3b0b");
    }

    #[test]
    fn small_networks_use_first_and_last() {
        let all = every_address(&net("203.0.113.18/30"));
        assert_eq!(
            all.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["203.0.113.16", "203.0.113.17", "203.0.113.18", "203.0.113.19"]
        );
        assert_eq!(every_address(&net("255.255.255.255/32")).len(), 1);
        assert_eq!(every_address(&net("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120")).len(), 256);
        for (text, wide) in [
            ("10.0.0.0/20", false),
            ("10.0.0.0/19", true),
            ("2001:db8::/120", false),
            ("2001:db8::/119", true),
            ("0.0.0.0/0", true),
            ("::/0", true),
        ] {
            assert_eq!(is_derived(&net(text)), wide, "{text}");
        }
    }

    #[test]
    fn derived_addresses_differ_by_client() {
        for text in ["2001:db8:100::/64", "2001:db8::/119", "10.0.0.0/8", "::/0", "0.0.0.0/0"] {
            let net = net(text);
            let mut seen = HashSet::new();
            for client in 0..50u32 {
                let client = hash(Ipv4Addr::from_bits(0x0a00_0000 + client).into());
                for n in 0..8 {
                    let address = derived_address(client, &net, n);
                    assert!(net.contains(&address.ip()), "{address} is not in {net}");
                    seen.insert(address);
                }
            }
            let distinct = if text == "2001:db8::/119" { 200 } else { 399 };
            assert!(seen.len() >= distinct, "{} of 400 in {net}", seen.len());
        }
    }
}
