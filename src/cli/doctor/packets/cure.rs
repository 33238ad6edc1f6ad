//! The commands that let Egret's packets pass where somebody's rule ends them.

use super::owner::RuleOwner;
use crate::addr::{PortRange, listed};
use crate::cli::mend::Mend;
use crate::cli::tool::output;
use crate::steering::{InterceptedPorts, SteeringParams};
use ipnet::IpNet;

/// Where in the packet filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Ingress,
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Egress,
}

impl Hook {
    const ALL: [Self; 7] = [
        Self::Ingress,
        Self::Prerouting,
        Self::Input,
        Self::Forward,
        Self::Output,
        Self::Postrouting,
        Self::Egress,
    ];

    /// That of a base chain.
    pub(super) fn of(family: &str, table: &str, chain: &str) -> Self {
        let builtin = Self::ALL.into_iter().find(|hook| hook.builtin() == chain);
        builtin.unwrap_or_else(|| {
            let text = output(&format!("nft list chain {family} {table} {chain}")).unwrap_or_default();
            Self::ALL
                .into_iter()
                .find(|hook| text.contains(&format!("hook {} ", hook.as_str())))
                .unwrap_or(Self::Input)
        })
    }

    /// That of a chain of iptables; chains of an administrator's are mostly INPUT's.
    pub(super) fn of_iptables(table: &str, chain: &str) -> Self {
        let builtin = Self::ALL.into_iter().find(|hook| hook.builtin() == chain);
        let by_table = if table == "filter" { Self::Input } else { Self::Prerouting };
        builtin.unwrap_or(by_table)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Egress => "egress",
        }
    }

    /// The name of iptables' chain.
    pub(super) fn builtin(self) -> &'static str {
        match self {
            Self::Ingress => "INGRESS",
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
            Self::Egress => "EGRESS",
        }
    }
}

/// Which connections are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leg {
    /// Of clients to the gateway.
    Client,
    /// Of the gateway to servers, from pool addresses.
    Pool,
}

/// Where packets end.
#[derive(Debug)]
pub(super) struct PacketEnd<'a> {
    pub(super) family: &'a str,
    pub(super) table: &'a str,
    /// The base chain, or for iptables the builtin one.
    pub(super) chain: &'a str,
    pub(super) hook: Hook,
    pub(super) owner: RuleOwner,
    /// True if the packet had Egret's mark by then.
    pub(super) marked: bool,
}

/// Facts that cures depend on.
#[derive(Debug)]
pub(super) struct Cure<'a> {
    pub(super) params: &'a SteeringParams,
    pub(super) leg: Leg,
    pub(super) v4: bool,
    /// The device that tenants' or servers' packets come in by.
    pub(super) device: &'a str,
    /// Of tenants.
    pub(super) sources: &'a [IpNet],
}

impl Cure<'_> {
    /// Accepts all kinds of Egret's packets in input, for one is of no use without the others; else what is needed.
    pub(super) fn accept(&self, end: &PacketEnd<'_>) -> Mend {
        let builtin = ["ip", "ip6"].contains(&end.family) && end.chain == end.hook.builtin();
        let rules = if end.owner == RuleOwner::Firewalld {
            self.firewalld(end)
        } else if builtin {
            self.iptables(end)
        } else {
            self.nft(end)
        };
        Mend::run(rules.join("; ")).and(end.owner.lasting())
    }

    fn pools(&self, both: bool) -> impl Iterator<Item = IpNet> {
        let all = self.params.pools.iter().map(|pool| pool.network.trunc());
        all.filter(move |network| both || network.addr().is_ipv4() == self.v4)
    }

    fn iptables(&self, end: &PacketEnd<'_>) -> Vec<String> {
        let (tool, too_big) = if self.v4 {
            ("iptables", "-p icmp -m icmp --icmp-type fragmentation-needed")
        } else {
            ("ip6tables", "-p ipv6-icmp -m icmp6 --icmpv6-type packet-too-big")
        };
        let table = if end.table == "filter" { String::new() } else { format!(" -t {}", end.table) };
        let (mut rules, place) = match end.table {
            "filter" => (Vec::new(), ""),
            table => behind_ours(tool, table, end.hook.builtin()),
        };
        let insert = format!("{tool}{table} -I {}{place}", end.hook.builtin());
        let (mark, device) = (self.params.mark, self.device);
        let untracked = "-m conntrack --ctstate UNTRACKED -j ACCEPT";
        let input = end.hook == Hook::Input;
        if self.leg == Leg::Client || input {
            match end.hook {
                Hook::Output | Hook::Postrouting | Hook::Egress => {
                    rules.push(format!("{insert} -o {device} -p tcp {untracked}"));
                }
                Hook::Prerouting if !end.marked => {
                    let intercepted = self.intercepted_by_iptables().into_iter();
                    rules.extend(intercepted.map(|what| format!("{insert} -i {device} {what} -j ACCEPT")));
                }
                Hook::Prerouting | Hook::Input | Hook::Forward | Hook::Ingress => {
                    rules.push(format!("{insert} -m mark --mark {mark:#x}/{mark:#x} -j ACCEPT"));
                }
            }
        }
        if self.leg == Leg::Pool || input {
            for pool in self.pools(false) {
                rules.push(match end.hook {
                    Hook::Output | Hook::Postrouting | Hook::Egress => {
                        format!("{insert} -s {pool} -p tcp {untracked}")
                    }
                    Hook::Prerouting => format!("{insert} -d {pool} -p tcp -j ACCEPT"),
                    Hook::Input | Hook::Forward | Hook::Ingress => {
                        format!("{insert} -d {pool} -p tcp ! --syn {untracked}")
                    }
                });
                if input {
                    rules.push(format!("{insert} -d {pool} {too_big} -j ACCEPT"));
                }
            }
        }
        if !self.v4 && end.hook != Hook::Forward {
            rules.extend(neighbour_discovery(&insert));
        }
        rules
    }

    fn nft(&self, end: &PacketEnd<'_>) -> Vec<String> {
        let insert = format!("nft insert rule {} {} {}", end.family, end.table, end.chain);
        let both = !["ip", "ip6"].contains(&end.family);
        let (mark, device) = (self.params.mark, self.device);
        let input = end.hook == Hook::Input;
        let marked = format!("meta mark and {mark:#x} == {mark:#x}");
        let client = match end.hook {
            Hook::Output | Hook::Postrouting => {
                vec![format!("oifname {device} meta l4proto tcp ct state untracked")]
            }
            Hook::Ingress => self.intercepted_by_nft("dport", "saddr"),
            Hook::Egress => self.intercepted_by_nft("sport", "daddr"),
            Hook::Prerouting if !end.marked => {
                let intercepted = self.intercepted_by_nft("dport", "saddr").into_iter();
                intercepted.map(|what| format!("iifname {device} {what}")).collect()
            }
            Hook::Prerouting | Hook::Input | Hook::Forward => vec![marked],
        };
        let mut rules = Vec::new();
        if self.leg == Leg::Client || input {
            rules.extend(client.iter().map(|client| format!("{insert} '{client} accept'")));
        }
        if self.leg == Leg::Pool || input {
            for pool in self.pools(both) {
                let (ip, too_big) = if pool.addr().is_ipv4() {
                    ("ip", "icmp type destination-unreachable icmp code frag-needed")
                } else {
                    ("ip6", "icmpv6 type packet-too-big")
                };
                let pool = listed(pool);
                rules.push(match end.hook {
                    Hook::Output | Hook::Postrouting => {
                        format!("{insert} {ip} saddr {pool} meta l4proto tcp ct state untracked accept")
                    }
                    Hook::Egress => format!("{insert} {ip} saddr {pool} meta l4proto tcp accept"),
                    Hook::Ingress | Hook::Prerouting => {
                        format!("{insert} {ip} daddr {pool} meta l4proto tcp accept")
                    }
                    Hook::Input | Hook::Forward => {
                        format!("{insert} '{ip} daddr {pool} {NOT_SYN} ct state untracked accept'")
                    }
                });
                if input {
                    rules.push(format!("{insert} {ip} daddr {pool} {too_big} accept"));
                }
            }
        }
        let v6 = end.family != "ip" && (!self.v4 || self.pools(both).any(|pool| pool.addr().is_ipv6()));
        if v6 && end.hook != Hook::Forward {
            let types = NEIGHBOUR_DISCOVERY.map(|(_, nft)| nft).join(", ");
            rules.push(format!("{insert} 'icmpv6 type {{ {types} }} accept'"));
        }
        rules
    }

    /// Clients' packets to the intercepted ports; where those are all, packets of the tenant's networks.
    fn intercepted_by_iptables(&self) -> Vec<String> {
        let ports = self
            .ports()
            .into_iter()
            .map(|range| format!("-p tcp --dport {}:{}", range.first(), range.last()));
        let ports: Vec<_> = ports.collect();
        if ports.is_empty() {
            return self.own_sources().map(|source| format!("-s {source} -p tcp")).collect();
        }
        ports
    }

    /// The same for nft. `port` and `client` are the fields that have the server's port and the client's address.
    fn intercepted_by_nft(&self, port: &str, client: &str) -> Vec<String> {
        let ports: Vec<_> = self.ports().iter().map(ToString::to_string).collect();
        if ports.is_empty() {
            let ip = if self.v4 { "ip" } else { "ip6" };
            return self
                .own_sources()
                .map(|source| format!("{ip} {client} {source} meta l4proto tcp"))
                .collect();
        }
        vec![format!("tcp {port} {{ {} }}", ports.join(", "))]
    }

    /// The intercepted ports; none where they are all.
    fn ports(&self) -> Vec<PortRange> {
        match &self.params.ports {
            InterceptedPorts::All => Vec::new(),
            InterceptedPorts::List(ranges) => PortRange::merged(ranges),
        }
    }

    /// The tenant's networks of the family that is tried; those of all tenants for a client of none.
    fn own_sources(&self) -> impl Iterator<Item = &IpNet> {
        let sources = if self.sources.is_empty() { &self.params.sources } else { self.sources };
        sources.iter().filter(|source| source.addr().is_ipv4() == self.v4)
    }

    /// Its table is its own: rules come by its command.
    fn firewalld(&self, end: &PacketEnd<'_>) -> Vec<String> {
        if end.hook == Hook::Prerouting {
            let file = "/etc/firewalld/firewalld.conf";
            return vec![
                format!("sed -i s/^IPv6_rpfilter=.*/IPv6_rpfilter=no/ {file}"),
                "firewall-cmd --reload".to_owned(),
            ];
        }
        let device = self.device;
        let zone = format!(
            "--zone=$(firewall-cmd --get-zone-of-interface={device} 2>/dev/null || firewall-cmd --get-default-zone)"
        );
        let family = |net: &IpNet| if net.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        let mut rules = Vec::new();
        // Each leg has the zone of its own device.
        for source in self.sources.iter().filter(|_| self.leg == Leg::Client) {
            let family = family(source);
            for ports in self.rich_ports() {
                rules.push(format!("firewall-cmd {zone} --add-rich-rule='rule family={family} source address={source} {ports} accept'"));
            }
        }
        for pool in self.pools(true).filter(|_| self.leg == Leg::Pool) {
            let too_big = if pool.addr().is_ipv4() { "fragmentation-needed" } else { "packet-too-big" };
            let to = format!("rule family={} destination address={pool}", family(&pool));
            for what in ["protocol value=tcp", &format!("icmp-type name={too_big}")] {
                rules.push(format!("firewall-cmd {zone} --add-rich-rule='{to} {what} accept'"));
            }
        }
        // Zones accept ICMP, except those with the target DROP.
        for (name, _) in NEIGHBOUR_DISCOVERY.into_iter().filter(|_| !self.v4) {
            rules.push(format!(
                "firewall-cmd {zone} --add-rich-rule='rule family=ipv6 icmp-type name={name} accept'"
            ));
        }
        rules
    }

    fn rich_ports(&self) -> Vec<String> {
        let ports = self.ports();
        if ports.is_empty() {
            return vec!["protocol value=tcp".to_owned()];
        }
        ports.iter().map(|range| format!("port port={range} protocol=tcp")).collect()
    }
}

/// The place behind the jump to Egret's own rules, and the command that brings that to the beginning if it is not there.
fn behind_ours(tool: &str, table: &str, builtin: &str) -> (Vec<String>, &'static str) {
    let saved = output(&format!("{tool}-save -t {table}")).unwrap_or_default();
    let start = format!("-A {builtin} ");
    match saved.lines().filter(|line| line.starts_with(&start)).position(|line| line.contains(" -j EGRET_")) {
        None => (Vec::new(), ""),
        Some(0) => (Vec::new(), " 2"),
        Some(_) => (vec!["systemctl restart egret-steering".to_owned()], " 2"),
    }
}

/// Types of ICMPv6 without which IPv6 finds no neighbour and no router (RFC 4890, section 4.4.1), as ip6tables and firewalld
/// call them, and as nft does.
const NEIGHBOUR_DISCOVERY: [(&str, &str); 4] = [
    ("router-solicitation", "nd-router-solicit"),
    ("router-advertisement", "nd-router-advert"),
    ("neighbour-solicitation", "nd-neighbor-solicit"),
    ("neighbour-advertisement", "nd-neighbor-advert"),
];

/// Rules of ip6tables that accept them; `insert` is the command without the match.
pub(super) fn neighbour_discovery(insert: &str) -> impl Iterator<Item = String> {
    let rule = move |(name, _)| format!("{insert} -p ipv6-icmp -m icmp6 --icmpv6-type {name} -j ACCEPT");
    NEIGHBOUR_DISCOVERY.into_iter().map(rule)
}

/// A pool is for answers, not for new connections.
const NOT_SYN: &str = "tcp flags & (fin | syn | rst | ack) != syn";

#[cfg(test)]
mod tests;
