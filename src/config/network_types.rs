//! Kinds of names, addresses and ports.

use super::diagnostic::Diagnostics;
use super::repeats::{self, Repeat};
use super::schema::Describe;
use super::value::Value;
use super::value_types::{ListItem, ValueType};
use crate::addr::PortRange;
use crate::interface::Interface as Named;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A name; a metric label, so its characters are restricted.
pub(super) struct NameType;

impl Describe for NameType {
    fn describe(&self) -> String {
        "name: 1 to 64 of `a-z`, `0-9`, `_`, `-`".to_owned()
    }
}

impl ValueType for NameType {
    type Value = Arc<str>;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Arc<str>> {
        let text = value.text().unwrap_or_default();
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
        if !(1..=64).contains(&text.len()) || !text.bytes().all(fits) {
            return value.wrong(out, "not a name", "write 1 to 64 of a-z, 0-9, \"_\" and \"-\"");
        }
        if text == "unknown" {
            return value.wrong(
                out,
                "taken",
                "metrics call clients without a tenant so; choose another name",
            );
        }
        Some(text.into())
    }
}

/// A line of text for users.
pub(super) struct LineType;

/// Maximum length of a [`LineType`], in bytes: it is part of every refusal.
const LONGEST_LINE: usize = 200;

impl Describe for LineType {
    fn describe(&self) -> String {
        format!("one line of text, at most {LONGEST_LINE} bytes")
    }
}

impl ValueType for LineType {
    type Value = Arc<str>;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Arc<str>> {
        let text = value.text().unwrap_or_default();
        if text.trim().is_empty() || text.len() > LONGEST_LINE || text.chars().any(char::is_control) {
            let help = format!("write 1 to {LONGEST_LINE} bytes, without line breaks and control characters");
            return value.wrong(out, "not a line of text", help);
        }
        Some(text.trim().into())
    }
}

/// An address and port to listen on.
pub(super) struct ListenAddressType;

impl Describe for ListenAddressType {
    fn describe(&self) -> String {
        "address and port".to_owned()
    }
}

impl ValueType for ListenAddressType {
    type Value = SocketAddr;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<SocketAddr> {
        let help = "write them as in \"127.0.0.1:9915\" or \"[::1]:9915\"";
        match value.text().and_then(|text| text.parse::<SocketAddr>().ok()) {
            Some(address) if address.port() != 0 => Some(address),
            Some(_) => value.wrong(out, "without a port", "choose a port, 1 to 65535"),
            None => value.wrong(out, "not an address and port", help),
        }
    }
}

/// A DNS server.
pub(super) struct DnsServerType;

/// RFC 1035 §4.2
const DNS_PORT: u16 = 53;

impl Describe for DnsServerType {
    fn describe(&self) -> String {
        "address, or address and port: `\"10.0.0.2\"`, `\"[2001:db8::53]:5353\"`".to_owned()
    }
}

impl ValueType for DnsServerType {
    type Value = SocketAddr;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<SocketAddr> {
        let text = value.text().unwrap_or_default();
        let alone = || text.parse().ok().map(|address: IpAddr| SocketAddr::new(address, DNS_PORT));
        match text.parse().ok().or_else(alone) {
            Some(SocketAddr::V6(server)) if server.ip().is_unicast_link_local() && server.scope_id() == 0 => {
                let help = "write its interface's number too, as in \"[fe80::1%3]:53\", or take those of `/etc/resolv.conf`";
                value.wrong(out, "a link-local address without its interface", help)
            }
            Some(server) if server.port() != 0 && !server.ip().is_unspecified() => Some(server),
            _ => value.wrong(out, "not a DNS server", format!("it takes an {}", self.describe())),
        }
    }
}

impl ListItem for DnsServerType {
    fn repeats(list: &[&SocketAddr]) -> Vec<Repeat> {
        repeats::equal(list)
    }
}

/// A network interface, or a pattern of interfaces.
pub(super) struct InterfaceType;

impl Describe for InterfaceType {
    fn describe(&self) -> String {
        "interface name, or pattern: `\"ens6\"`, `\"veth*\"`".to_owned()
    }
}

impl ValueType for InterfaceType {
    type Value = Named;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Named> {
        match Named::parse(value.text().unwrap_or_default()) {
            Ok(interface) => Some(interface),
            Err(why) => value.wrong(out, "not an interface name", why.to_string()),
        }
    }
}

impl ListItem for InterfaceType {
    fn repeats(list: &[&Named]) -> Vec<Repeat> {
        repeats::covered(list, Named::covers_all_of)
    }
}

/// A port or a range of ports.
pub(super) struct PortType;

impl Describe for PortType {
    fn describe(&self) -> String {
        "port or range: `443` or `\"8000-8100\"`".to_owned()
    }
}

impl ValueType for PortType {
    type Value = PortRange;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<PortRange> {
        let help = "write a port, 1 to 65535, or a range as in \"8000-8100\"";
        let one = |number: u64| u16::try_from(number).ok().and_then(|port| PortRange::new(port, port));
        if value.node().is_integer() {
            return value.number().and_then(one).or_else(|| value.wrong(out, "not a port", help));
        }
        let text = value.text().unwrap_or_default();
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first > last => {
                value.wrong(out, "an empty range", format!("did you mean \"{last}-{first}\"?"))
            }
            (Some(first), Some(last)) => {
                PortRange::new(first, last).or_else(|| value.wrong(out, "a range with port 0", help))
            }
            _ => value.wrong(out, "not a port or range", help),
        }
    }
}

impl ListItem for PortType {
    fn repeats(list: &[&PortRange]) -> Vec<Repeat> {
        repeats::ranges(list)
    }
}

/// Parses digits only: `parse` alone would accept a plus sign.
fn port(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A network, or a single address.
pub(super) struct NetworkType;

impl Describe for NetworkType {
    fn describe(&self) -> String {
        "network or address: `\"10.0.0.0/8\"`, `\"2001:db8::1\"`".to_owned()
    }
}

impl ValueType for NetworkType {
    type Value = IpNet;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<IpNet> {
        let text = value.text().unwrap_or_default();
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        let parsed = if text.contains('/') { text.parse().ok() } else { address() };
        let Some(network) = parsed else {
            let help = "write it as in \"10.0.0.0/8\", \"192.0.2.7\" or \"2001:db8::/32\"";
            return value.wrong(out, "not a network or address", help);
        };
        if let IpAddr::V6(address) = network.addr()
            && let Some(mapped) = address.to_ipv4_mapped()
            && network.prefix_len() >= 96
        {
            let meant = format!("write it as IPv4: \"{mapped}/{}\"", network.prefix_len() - 96);
            return value.wrong(out, "an IPv4-mapped network, which no packet has", meant);
        }
        if network.trunc() != network {
            let help =
                format!("the network is \"{}\", the address alone \"{}\"", network.trunc(), network.addr());
            return value.wrong(out, "an address inside a network", help);
        }
        Some(network)
    }
}

impl ListItem for NetworkType {
    fn repeats(list: &[&IpNet]) -> Vec<Repeat> {
        repeats::networks(list)
    }
}

/// A network of a pool or of a tenant's clients. Those of all pools and tenants are compared with each other elsewhere.
pub(super) struct OwnedNetworkType;

impl Describe for OwnedNetworkType {
    fn describe(&self) -> String {
        NetworkType.describe()
    }
}

impl ValueType for OwnedNetworkType {
    type Value = IpNet;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<IpNet> {
        NetworkType.read(value, out)
    }
}

impl ListItem for OwnedNetworkType {
    fn repeats(_: &[&IpNet]) -> Vec<Repeat> {
        Vec::new()
    }
}

/// Number of a routing table.
pub(super) struct RoutingTableType;

impl Describe for RoutingTableType {
    fn describe(&self) -> String {
        "number, 1 to 4294967295, but not 253 to 255".to_owned()
    }
}

impl ValueType for RoutingTableType {
    type Value = u32;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<u32> {
        let number = value.number().and_then(|number| u32::try_from(number).ok());
        match number {
            None | Some(0) => {
                value.wrong(out, "not a routing table", format!("it takes a {}", self.describe()))
            }
            // linux/rtnetlink.h: default, main, local.
            Some(253..=255) => {
                value.wrong(out, "one of Linux's own routing tables", "choose another, 100 say")
            }
            Some(table) => Some(table),
        }
    }
}
