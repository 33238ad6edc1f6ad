//! Kinds of addresses, ports and paths.

use super::diagnostic::{Diagnostics, FileKind};
use super::repeats::{self, Repeat};
use super::schema::Describe;
use super::value::Value;
use super::value_types::{ListItem, ValueType};
use super::{AuditTarget as Audited, FlowLogTarget};
use crate::addr::PortRange;
use crate::interface::Interface as Named;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
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

/// A word (read as `None`), or the contents of a file: one or more entries.
pub(super) struct WordOrFileType<T: 'static> {
    pub(super) word: &'static str,
    /// Description: "PEM file".
    pub(super) file: &'static str,
    /// Parses the file's contents, which must have an entry; else the error.
    pub(super) read: fn(&[u8]) -> Result<Vec<T>, String>,
}

impl<T> Describe for WordOrFileType<T> {
    fn describe(&self) -> String {
        format!("`\"{}\"` or the absolute path of a {}", self.word, self.file)
    }
}

impl<T> ValueType for WordOrFileType<T> {
    type Value = Option<Vec<T>>;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Self::Value> {
        let path = match value.text() {
            Some(word) if word == self.word => return Some(None),
            Some(path) if is_a_file(path) => path,
            _ => {
                let why = format!("neither \"{}\" nor an absolute path", self.word);
                return value.wrong(out, &why, format!("it takes {}", self.describe()));
            }
        };
        match out.bytes(Path::new(path), FileKind::Keys).map(|content| (self.read)(&content)) {
            Ok(Ok(found)) => Some(Some(found)),
            Ok(Err(why)) => value.wrong(out, &format!("no {}", self.file), why),
            Err(error) => value.wrong(out, "a file that cannot be read", error.to_string()),
        }
    }
}

impl<T: PartialEq> ListItem for WordOrFileType<T> {
    fn repeats(list: &[&Option<Vec<T>>]) -> Vec<Repeat> {
        repeats::covered(list, |outer, inner| outer == inner)
    }
}

/// A Unix socket.
pub(super) struct ControlSocketType;

impl Describe for ControlSocketType {
    fn describe(&self) -> String {
        "`unix:` and an absolute path".to_owned()
    }
}

impl ValueType for ControlSocketType {
    type Value = PathBuf;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<PathBuf> {
        let help = "write it as in \"unix:/run/egret/admin.sock\", with at most 107 bytes of path";
        // unix(7): sun_path has 108 bytes with the NUL.
        let fits = |path: &&str| Path::new(path).is_absolute() && !path.contains('\0') && path.len() <= 107;
        match value.text().and_then(|text| text.strip_prefix("unix:")).filter(fits) {
            Some(path) => Some(path.into()),
            None => value.wrong(out, "not a unix socket", help),
        }
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

/// Path of a file beside the configuration.
pub(super) struct FileNameType;

impl Describe for FileNameType {
    fn describe(&self) -> String {
        "path, from the folder of the main file".to_owned()
    }
}

impl ValueType for FileNameType {
    type Value = PathBuf;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<PathBuf> {
        match value.text() {
            Some(text) if !text.is_empty() && !text.contains('\0') => Some(text.into()),
            _ => value.wrong(out, "not a path", "write it as in \"allow/acme.txt\""),
        }
    }
}

/// Destination of the flow log.
pub(super) struct LogTargetType;

impl Describe for LogTargetType {
    fn describe(&self) -> String {
        "\"stdout\", \"off\" or an absolute path".to_owned()
    }
}

impl ValueType for LogTargetType {
    type Value = FlowLogTarget;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<FlowLogTarget> {
        match value.text().unwrap_or_default() {
            "stdout" => Some(FlowLogTarget::Stdout),
            "off" => Some(FlowLogTarget::Off),
            "journald" => value.unsupported(out, "under systemd \"stdout\" goes to the journal"),
            path if is_a_file(path) => Some(FlowLogTarget::File(path.into())),
            _ => value.wrong(
                out,
                "not a place for the log",
                format!("it takes {}, as in \"/var/log/egret/flows.jsonl\"", self.describe()),
            ),
        }
    }
}

/// A file whose creation requests an action.
pub(super) struct RequestFileType;

impl Describe for RequestFileType {
    fn describe(&self) -> String {
        "absolute path".to_owned()
    }
}

impl ValueType for RequestFileType {
    type Value = PathBuf;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<PathBuf> {
        match value.text().filter(|path| is_a_file(path)) {
            Some(path) => Some(path.into()),
            None => value.wrong(out, "not an absolute path", "write it as in \"/run/egret/repair-steering\""),
        }
    }
}

/// Destination of the audit log. It cannot be turned off.
pub(super) struct AuditTargetType;

impl Describe for AuditTargetType {
    fn describe(&self) -> String {
        "\"stderr\" or an absolute path".to_owned()
    }
}

impl ValueType for AuditTargetType {
    type Value = Audited;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Audited> {
        match value.text().unwrap_or_default() {
            "stderr" => Some(Audited::Stderr),
            path if is_a_file(path) => Some(Audited::File(path.into())),
            _ => value.wrong(
                out,
                "not a place for the log",
                format!("it takes {}, as in \"/var/log/egret/audit.jsonl\"", self.describe()),
            ),
        }
    }
}

fn is_a_file(path: &str) -> bool {
    Path::new(path).is_absolute() && !path.contains('\0')
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
