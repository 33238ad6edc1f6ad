//! Addresses for probes, and the places in the network where they seem to be.

use super::path::{self, NetworkDevice};
use super::probe::Spot;
use crate::steering::SteeringParams;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks of a tenant that are looked at.
const NETWORKS: usize = 64;

/// The devices of this machine that `[steering] interfaces` covers.
pub(super) fn steered(params: &SteeringParams) -> Vec<String> {
    let covered = |name: &String| params.interfaces.iter().any(|interface| interface.covers(name));
    path::devices().into_iter().map(|device| device.name).filter(covered).collect()
}

/// Where a client with this address is. `chosen`: doctor has chosen the address, nobody is expected to have it.
pub(super) fn client(address: IpAddr, steered: &[String], chosen: bool) -> Result<Spot, String> {
    let route = path::route(address, None)?;
    if route.dev == "lo" {
        return Err(format!("{address} is one of this machine's own addresses"));
    }
    let leaves = ethernet(&route.dev)?;
    let enters = if steered.contains(&route.dev) {
        leaves.clone()
    } else {
        ethernet(steered.first().ok_or("no interface of [steering] exists")?)?
    };
    let mac = match route.gateway {
        Some(hop) => Some(next_hop(hop, &route.dev)?),
        None => path::link_address(address, &route.dev),
    };
    let vacant = mac.is_none();
    let shared = !vacant && (route.gateway.is_none() || !chosen);
    let same_wire = enters.name == leaves.name;
    let gateway = if vacant && same_wire { own_address(&route.dev, address) } else { None };
    Ok(Spot { address, enters, leaves, mac, gateway, shared })
}

/// The device that such a client's packets come in by, if that is sure and no steered one: it has an address in the client's
/// network, and none of the steered ones has.
pub(super) fn unsteered<'a>(spot: &'a Spot, steered: &[String]) -> Option<&'a str> {
    let leaves = &spot.leaves.name;
    let is_near = |device: &String| path::addresses(device).iter().any(|own| is_neighbour(own, spot.address));
    (!steered.contains(leaves) && is_near(leaves) && !steered.iter().any(is_near)).then_some(leaves)
}

fn is_neighbour(own: &IpNet, client: IpAddr) -> bool {
    own.prefix_len() < own.max_prefix_len() && own.contains(&client)
}

/// Where a server with this address is, for packets from `from`.
pub(super) fn server(address: IpAddr, from: Option<IpAddr>) -> Result<Spot, String> {
    let route = path::route(address, from)?;
    if route.dev == "lo" {
        return Err(format!("{address} is local to this machine"));
    }
    let link = ethernet(&route.dev)?;
    let mac = route.gateway.map(|hop| next_hop(hop, &route.dev)).transpose()?;
    Ok(Spot { address, enters: link.clone(), leaves: link, mac, gateway: None, shared: false })
}

fn next_hop(hop: IpAddr, device: &str) -> Result<String, String> {
    path::link_address(hop, device).ok_or_else(|| {
        let how = if hop.is_ipv4() { "ARP" } else { "neighbour discovery" };
        format!("the next hop {hop} does not answer {how} on {device}")
    })
}

fn ethernet(device: &str) -> Result<NetworkDevice, String> {
    let link = path::link(device)?;
    if !link.is_up() {
        return Err(format!("{device} is down; ip link set {device} up"));
    }
    if link.is_ethernet() {
        Ok(link)
    } else {
        Err(format!("{device} is no Ethernet device, which is all that doctor can send through"))
    }
}

/// The machine's address on the network of a neighbour.
fn own_address(device: &str, neighbour: IpAddr) -> Option<IpAddr> {
    let own = path::addresses(device);
    own.into_iter().find(|network| network.contains(&neighbour)).map(|network| network.addr())
}

/// An address of one of these networks, as a client's behind a steered interface: one that nobody has if there is one.
pub(super) fn tenant_client(sources: &[IpNet], v4: bool, steered: &[String]) -> Result<Spot, String> {
    let (mut near, mut far, mut failed) = (None, None, None);
    for address in tenant_addresses(sources, v4, steered) {
        match client(address, steered, true) {
            Ok(spot) if spot.enters.name != spot.leaves.name => far = far.or(Some(spot)),
            Ok(spot) if spot.mac.is_none() => return Ok(spot),
            Ok(spot) => near = near.or(Some(spot)),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    near.or(far).ok_or_else(|| failed.unwrap_or_else(|| "no address to try".to_owned()))
}

/// The addresses of these networks that a client is tried at.
pub(super) fn tenant_addresses(sources: &[IpNet], v4: bool, steered: &[String]) -> Vec<IpAddr> {
    let sources: Vec<_> =
        sources.iter().filter(|net| net.addr().is_ipv4() == v4).take(NETWORKS).copied().collect();
    let own: Vec<IpNet> = steered.iter().flat_map(|device| path::addresses(device)).collect();
    candidates(&sources, &own)
}

/// High addresses of what the networks share with those of the steered interfaces; then of networks behind routers.
fn candidates(sources: &[IpNet], own: &[IpNet]) -> Vec<IpAddr> {
    const NEAR: usize = 3;
    let mut near = Vec::new();
    for source in sources {
        for net in own {
            let shared = if source.contains(&net.trunc()) {
                net.trunc()
            } else if net.trunc().contains(source) {
                *source
            } else {
                continue;
            };
            near.extend((1..=3).filter_map(|number| from_the_end(shared, number)));
        }
    }
    near.retain(|address| own.iter().all(|net| net.addr() != *address));
    near.truncate(NEAR);
    if near.is_empty() {
        near.extend(sources.iter().filter_map(|source| from_the_end(*source, 1)).take(NEAR));
    }
    near
}

/// An address near the end of a network; IPv6's last are anycast (RFC 2526).
fn from_the_end(network: IpNet, number: u32) -> Option<IpAddr> {
    let host_bits = network.max_prefix_len() - network.prefix_len();
    if host_bits < 3 {
        return (number == 1).then(|| network.addr());
    }
    match network.broadcast() {
        IpAddr::V4(last) => Some(Ipv4Addr::from(u32::from(last) - number).into()),
        IpAddr::V6(last) => {
            let skipped = if host_bits >= 16 { 0x1000 } else { 0 };
            Some(Ipv6Addr::from(u128::from(last) - skipped - u128::from(number)).into())
        }
    }
}

/// A destination where no default route leads.
pub(super) fn nowhere(v4: bool) -> IpAddr {
    if v4 { [192, 0, 2, 80].into() } else { [0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x80].into() }
}

/// Servers outside that a probe stands in for: documentation addresses, and an address of IANA's should a filter drop those.
pub(super) fn destinations(v4: bool, params: &SteeringParams) -> Vec<IpAddr> {
    let candidates: [&str; 4] = if v4 {
        ["192.0.2.80", "198.51.100.80", "203.0.113.80", "192.0.43.8"]
    } else {
        ["2001:db8:ffff::80", "3fff::80", "2001:db8:fffe::80", "2001:500:88:200::8"]
    };
    let usable = candidates.iter().filter_map(|text| text.parse().ok()).filter(|address: &IpAddr| {
        let pooled = params.pools.iter().any(|pool| pool.network.contains(address));
        // Behind a router: a real neighbour is not stood in for.
        let routed =
            || path::route(*address, None).is_ok_and(|route| route.dev != "lo" && route.gateway.is_some());
        !pooled && routed()
    });
    let usable: Vec<_> = usable.collect();
    match usable.as_slice() {
        [] => Vec::new(),
        [only] => vec![*only],
        [first, .., last] => vec![*first, *last],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn clients_are_sought_near_the_interface() {
        let own = nets(&["10.0.1.254/24", "fd00:1::1/64"]);
        let found = |sources: &[&str]| {
            candidates(&nets(sources), &own).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(found(&["10.0.0.0/8"]), ["10.0.1.253", "10.0.1.252"]);
        assert_eq!(found(&["10.0.1.16/28"])[0], "10.0.1.30");
        assert_eq!(found(&["10.0.1.9/32"]), ["10.0.1.9"]);
        assert_eq!(found(&["172.16.0.0/24"]), ["172.16.0.254"]);
        assert_eq!(found(&["fd00:1::/64"])[0], "fd00:1::ffff:ffff:ffff:effe");
    }
}
