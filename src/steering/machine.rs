//! The machine's interfaces, addresses, routes and neighbours, as `ip -j` lists them.

use crate::verify::name_servers;
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// The machine's network, read from the output of `ip -j` and from files.
#[derive(Debug, Clone, Default)]
pub struct MachineNetwork {
    /// Empty if `ip` failed.
    pub(super) links: Vec<LinkEntry>,
    pub(super) next_hops: BTreeSet<IpAddr>,
    /// The interfaces of default routes of IPv4 and IPv6, by which the machine's own connections leave.
    pub(super) uplinks: [BTreeSet<String>; 2],
    /// Networks that routes lead to, other than by default, and their interfaces.
    pub(super) routes: Vec<(IpNet, String)>,
    pub(super) neighbours: Vec<(IpAddr, String)>,
    pub(super) resolvers: Vec<IpAddr>,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub(super) first_port: u16,
    /// `net.bridge.bridge-nf-call-iptables`, or the same of `ip6tables`.
    pub(super) bridges_call_filters: bool,
    /// Interfaces with strict reverse-path filtering (`rp_filter` 1; of `all` and the interface, the larger value counts).
    pub(super) strict_interfaces: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct LinkEntry {
    #[serde(default)]
    pub(super) ifname: String,
    #[serde(default)]
    pub(super) altnames: Vec<String>,
    #[serde(default)]
    pub(super) addr_info: Vec<AddressEntry>,
    pub(super) master: Option<String>,
    #[serde(default)]
    pub(super) linkinfo: LinkEntryInfo,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct LinkEntryInfo {
    #[serde(rename = "info_kind")]
    pub(super) kind: String,
    #[serde(rename = "info_slave_kind")]
    pub(super) kind_of_master: String,
    #[serde(rename = "info_data")]
    pub(super) data: LinkData,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct LinkData {
    pub(super) nf_call_iptables: u8,
    pub(super) nf_call_ip6tables: u8,
    /// The other end of a tunnel, of IPv4 or IPv6; or a word, such as `any`.
    remote: String,
    remote6: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct AddressEntry {
    pub(super) local: Option<IpAddr>,
    /// The other end of a point-to-point link.
    #[serde(rename = "address")]
    peer: Option<IpAddr>,
    #[serde(default)]
    prefixlen: u8,
    #[serde(default)]
    pub(super) secondary: bool,
}

#[derive(Debug, Deserialize)]
struct RouteEntry {
    /// Absent for unicast.
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    dst: String,
    #[serde(default)]
    dev: String,
    gateway: Option<IpAddr>,
    via: Option<Via>,
    #[serde(default)]
    nexthops: Vec<Hop>,
}

#[derive(Debug, Deserialize)]
struct Hop {
    #[serde(default)]
    dev: String,
    gateway: Option<IpAddr>,
    via: Option<Via>,
}

#[derive(Debug, Deserialize)]
struct Via {
    host: Option<IpAddr>,
}

#[derive(Debug, Deserialize)]
struct NeighbourEntry {
    dst: Option<IpAddr>,
    #[serde(default)]
    dev: String,
    lladdr: Option<String>,
    #[serde(default)]
    state: Vec<String>,
}

/// The output of the commands and the text of the files; empty where one failed.
#[derive(Debug, Clone, Default)]
pub struct MachineOutput {
    /// `ip -j -d addr show`.
    pub addresses: String,
    /// `ip -j -4 route show table all`, and `-6`.
    pub routes: [String; 2],
    /// `ip -j neigh show`.
    pub neighbours: String,
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// `/run/systemd/resolve/resolv.conf`: the servers that systemd-resolved asks.
    pub resolved_conf: String,
    /// The first port that needs no privilege.
    pub first_port: u16,
    /// `/proc/sys/net/bridge/bridge-nf-call-iptables`, and the same of `ip6tables`.
    pub bridges: [String; 2],
    /// Interfaces whose `rp_filter` is 1, as the kernel takes it.
    pub strict_interfaces: Vec<String>,
}

impl MachineNetwork {
    /// Parses them; `resolvers` are those of the configuration.
    pub fn read(told: &MachineOutput, resolvers: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut machine = Self { links: list(&told.addresses), ..Self::default() };
        let routes = told.routes.iter().map(|routes| list::<RouteEntry>(routes)).enumerate();
        for (family, route) in routes.flat_map(|(family, all)| all.into_iter().map(move |one| (family, one)))
        {
            if matches!(&*route.kind, "" | "unicast") && !matches!(&*route.dev, "" | "lo") {
                let network =
                    route.dst.parse().ok().or_else(|| Some(route.dst.parse::<IpAddr>().ok()?.into()));
                machine.routes.extend(network.map(|network| (network, route.dev.clone())));
            }
            let host = |via: Option<Via>| via.and_then(|via| via.host);
            machine.next_hops.extend(route.gateway.or(host(route.via)));
            if route.dst == "default" && !route.dev.is_empty() && route.dev != "lo" {
                machine.uplinks[family].insert(route.dev);
            }
            for hop in route.nexthops {
                machine.next_hops.extend(hop.gateway.or(host(hop.via)));
                if route.dst == "default" {
                    machine.uplinks[family].insert(hop.dev);
                }
            }
        }
        // An entry without a link-layer address is an unanswered query.
        let neighbours = list::<NeighbourEntry>(&told.neighbours).into_iter();
        let answered =
            neighbours.filter(|one| one.lladdr.is_some() && !one.state.iter().any(|state| state == "FAILED"));
        machine.neighbours = answered.filter_map(|one| Some((one.dst?, one.dev))).collect();
        machine.resolvers = asked_servers(&told.resolv_conf, &told.resolved_conf, resolvers);
        machine.first_port = told.first_port;
        machine.strict_interfaces.clone_from(&told.strict_interfaces);
        machine.bridges_call_filters = told.bridges.iter().any(|value| value.trim() == "1");
        machine
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.addresses().any(|(_, own)| own.addr() == address)
    }

    /// The other ends of point-to-point links and tunnels, and the interface that leads to each.
    pub(super) fn peers(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.links.iter().flat_map(|link| {
            let LinkData { remote, remote6, .. } = &link.linkinfo.data;
            let remotes = [remote, remote6].into_iter().filter_map(|remote| remote.parse().ok());
            let peers = link.addr_info.iter().filter_map(|one| one.peer).chain(remotes);
            peers.map(|peer| (peer, &*link.ifname))
        })
    }

    /// Every address with its prefix, and the interface that has it.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&LinkEntry, IpNet)> {
        self.links.iter().flat_map(|link| {
            let networks = link.addr_info.iter().filter_map(|one| IpNet::new(one.local?, one.prefixlen).ok());
            networks.map(move |network| (link, network))
        })
    }
}

/// The DNS servers that the machine asks, by the text of `/etc/resolv.conf` and of systemd-resolved, and those of the configuration.
pub(super) fn asked_servers(
    resolv_conf: &str,
    resolved_conf: &str,
    configured: impl IntoIterator<Item = IpAddr>,
) -> Vec<IpAddr> {
    let mut servers: Vec<_> = name_servers(resolv_conf).chain(configured).collect();
    if servers.iter().any(|server| RESOLVED_STUBS.contains(server)) {
        servers.extend(name_servers(resolved_conf));
    }
    servers
}

/// Addresses on which systemd-resolved serves the machine itself.
const RESOLVED_STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

fn list<T: for<'a> Deserialize<'a>>(json: &str) -> Vec<T> {
    let values: Vec<serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect()
}
