//! Routes, links and neighbours, as `ip -json` tells them.

use crate::cli::tool::output;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::Duration;

/// The way to an address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct DeviceRoute {
    /// The device that packets leave by; `lo` for the machine's own addresses.
    pub(super) dev: String,
    /// The next hop, unless the address is on the device's own network.
    pub(super) gateway: Option<IpAddr>,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::cli::doctor) struct NetworkDevice {
    #[serde(rename = "ifname")]
    pub(in crate::cli::doctor) name: String,
    #[serde(default, rename = "address")]
    pub(super) mac: String,
    pub(super) mtu: u32,
    #[serde(rename = "link_type")]
    medium: String,
    flags: Vec<String>,
    #[serde(default)]
    linkinfo: DeviceInfo,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct DeviceInfo {
    info_kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Addresses {
    addr_info: Vec<DeviceAddress>,
}

#[derive(Debug, Deserialize)]
struct DeviceAddress {
    local: IpAddr,
    prefixlen: u8,
    scope: String,
}

#[derive(Debug, Deserialize)]
struct DeviceNeighbour {
    lladdr: Option<String>,
    #[serde(default)]
    state: Vec<String>,
}

impl NetworkDevice {
    pub(super) fn is_ethernet(&self) -> bool {
        self.medium == "ether" && !self.mac.is_empty()
    }
    pub(super) fn is_bridge(&self) -> bool {
        self.linkinfo.info_kind.as_deref() == Some("bridge")
    }
    pub(in crate::cli::doctor) fn is_up(&self) -> bool {
        self.has("UP")
    }
    /// False where its other end is missing or down.
    pub(in crate::cli::doctor) fn has_carrier(&self) -> bool {
        !self.has("NO-CARRIER")
    }
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|one| one == flag)
    }
}

/// The entries of an `ip -json` command; `ip` prints empty objects for what it filtered out.
fn listed<T: DeserializeOwned>(command: &str) -> Result<Vec<T>, String> {
    let text = output(command)?;
    let entries: Vec<serde_json::Value> = if text.trim().is_empty() {
        Vec::new()
    } else {
        serde_json::from_str(&text).map_err(|e| e.to_string())?
    };
    Ok(entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect())
}

fn first<T: DeserializeOwned>(command: &str) -> Result<T, String> {
    listed(command)?.into_iter().next().ok_or_else(|| format!("{command}: no answer"))
}

/// The way to an address, for packets from `from` if given.
pub(super) fn route(to: IpAddr, from: Option<IpAddr>) -> Result<DeviceRoute, String> {
    let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
    first(&format!("ip -j route get {to}{from}"))
}

/// The end of "the route to ADDRESS ...", if that route refuses packets.
pub(super) fn refusal(to: IpAddr) -> Option<&'static str> {
    let error = output(&format!("ip route get {to}")).err()?;
    // What the kernel answers for such routes and rules (`fib_props` in fib_semantics.c, `fib6_rule_action`).
    let kinds = [
        ("Invalid argument", "is a blackhole"),
        ("Permission denied", "is prohibited"),
        ("No route to host", "is unreachable"),
        ("Network is unreachable", "does not exist"),
    ];
    kinds.iter().find(|(answer, _)| error.contains(answer)).map(|(_, kind)| *kind)
}

pub(super) fn link(name: &str) -> Result<NetworkDevice, String> {
    first(&format!("ip -j -d link show dev {name}"))
}

/// All devices of this namespace.
pub(in crate::cli::doctor) fn devices() -> Vec<NetworkDevice> {
    listed("ip -j -d link show").unwrap_or_default()
}

/// The addresses of a device that others can use.
pub(super) fn addresses(device: &str) -> Vec<IpNet> {
    let all = listed::<Addresses>(&format!("ip -j addr show dev {device}")).unwrap_or_default();
    let all = all.into_iter().flat_map(|link| link.addr_info).filter(|address| address.scope == "global");
    all.filter_map(|DeviceAddress { local, prefixlen, .. }| IpNet::new(local, prefixlen).ok()).collect()
}

/// The port of a bridge where this link address was seen, else its first port that is up.
pub(super) fn bridge_port(bridge: &str, mac: Option<&str>) -> Option<String> {
    let seen = mac.and_then(|mac| {
        let table = output(&format!("bridge fdb show br {bridge}")).ok()?;
        let line = table.lines().find(|line| line.starts_with(mac))?;
        line.split_whitespace().skip_while(|word| *word != "dev").nth(1).map(str::to_owned)
    });
    seen.filter(|port| port != bridge).or_else(|| {
        let ports = listed::<NetworkDevice>(&format!("ip -j -d link show master {bridge}")).ok()?;
        ports.into_iter().find(NetworkDevice::is_up).map(|port| port.name)
    })
}

/// The link address of a neighbour, asked for if it is not known; `None` if nobody answers.
pub(super) fn link_address(of: IpAddr, device: &str) -> Option<String> {
    /// The kernel asks again after a second; a machine that is loaded is slow to answer.
    const WAITS: [u64; 9] = [0, 20, 40, 80, 160, 200, 200, 250, 250];
    let command = format!("ip -j neigh show to {of} dev {device}");
    for (poll, wait) in WAITS.into_iter().enumerate() {
        thread::sleep(Duration::from_millis(wait));
        let known = first::<DeviceNeighbour>(&command).ok();
        let failed = known.as_ref().is_some_and(|entry| entry.state.iter().any(|state| state == "FAILED"));
        if let Some(mac) = known.and_then(|entry| entry.lladdr).filter(|_| !failed) {
            return Some(mac);
        }
        if poll == 0 {
            provoke(of);
        } else if failed {
            break;
        }
    }
    // A question that is still asked would tell the probe, which answers it, what it has to find out itself.
    let _ = output(&format!("ip neigh del {of} dev {device}"));
    None
}

/// Has the kernel look for a neighbour: by a packet to the discard port (RFC 863).
fn provoke(address: IpAddr) {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    if let Ok(socket) = UdpSocket::bind(any) {
        let _ = socket.send_to(&[], (address, 9));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_ip_is_parsed() {
        let text = r#"[{"dst":"192.0.2.80","gateway":"198.51.100.10","dev":"s0","prefsrc":"198.51.100.1","flags":[],"uid":0,"cache":[]}]"#;
        let routes: Vec<DeviceRoute> = serde_json::from_str(text).unwrap();
        assert_eq!(routes, [DeviceRoute { dev: "s0".into(), gateway: "198.51.100.10".parse().ok() }]);
        let text = r#"{"ifname":"br0","flags":["UP"],"mtu":1500,"link_type":"ether","address":"02:00:00:00:00:01","linkinfo":{"info_kind":"bridge"}}"#;
        let link: NetworkDevice = serde_json::from_str(text).unwrap();
        assert!(link.is_bridge() && link.is_up() && link.is_ethernet());
        let text = r#"{"ifname":"wg0","flags":[],"mtu":1420,"link_type":"none"}"#;
        assert!(!serde_json::from_str::<NetworkDevice>(text).unwrap().is_ethernet());
    }
}
