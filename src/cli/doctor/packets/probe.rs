//! A host of our own behind a device of the machine: a namespace whose frames the device receives as from its own wire,
//! and that gets what the device sends to its address.
//!
//! `tc` redirects both ways, so packets meet every hook, route and setting of the real device. All that stays on the
//! device meanwhile are filters for the one address, which a [`SetUp`] takes away.

use super::namespace::Namespace;
use super::path::{self, NetworkDevice};
use super::set_up::SetUp;
use crate::cli::tool::{feed, output};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Where a host is, seen from the machine.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub(super) address: IpAddr,
    /// The device that receives its packets.
    pub(super) enters: NetworkDevice,
    /// The device that sends to it.
    pub(super) leaves: NetworkDevice,
    /// The link address that packets to it go to; `None` if nobody has the address.
    pub(super) mac: Option<String>,
    /// The machine's address on the host's own network, which the host has to resolve.
    pub(super) gateway: Option<IpAddr>,
    /// A real host may have the address: only TCP packets to the probe's ports are taken from it.
    pub(super) shared: bool,
}

/// Ports of a probe: those that equal `base` in the bits of `mask`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProbePorts {
    pub(super) base: u16,
    pub(super) mask: u16,
}

/// A host of our own, until dropped.
#[derive(Debug)]
pub(super) struct ProbeHost {
    namespace: Namespace,
    set_up: Option<SetUp>,
}

impl Drop for ProbeHost {
    fn drop(&mut self) {
        let _turn = turn();
        self.set_up = None;
    }
}

/// Devices that got a clsact qdisc from us: it goes with the last filter. Filters come and go one probe at a time.
static EQUIPPED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static NEXT: AtomicU32 = AtomicU32::new(0);

impl ProbeHost {
    pub(super) fn attach(spot: &Spot, ports: ProbePorts) -> Result<Self, String> {
        let namespace = Namespace::new().map_err(|error| format!("unshare(CLONE_NEWNET): {error}"))?;
        let (inject, catch) = (wire(&spot.enters, spot)?, wire(&spot.leaves, spot)?);
        let name = format!("egp{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut turn = turn();
        let equip = equip(&catch, &mut turn)?;
        let filters = catching(spot, ports, &catch, &name)?;
        let mut set_up = SetUp::new(&undo(spot, &name, &catch, turn.contains(&catch), &filters))?;
        add_link(&mut set_up, spot, &name, &namespace)?;
        add_filters(&mut set_up, &name, &injecting(spot, &inject), &catch, equip, &filters)?;
        drop(turn);
        let probe = Self { namespace, set_up: Some(set_up) };
        probe.namespace.run(|| furnish(spot)).map_err(|error| error.to_string())?;
        wait_until_up(&name);
        Ok(probe)
    }

    /// Runs `work` on a thread of the probe's host.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        self.namespace.run(work)
    }

    /// True if the host has found the machine's link address, or needs none.
    pub(super) fn found_gateway(&self, spot: &Spot) -> bool {
        let Some(gateway) = spot.gateway else { return true };
        let command = format!("ip neigh show to {gateway}");
        let seen = self.run(|| output(&command).map_err(io::Error::other));
        seen.is_ok_and(|text| text.contains("lladdr"))
    }
}

/// Adds the veth pair.
fn add_link(set_up: &mut SetUp, spot: &Spot, name: &str, namespace: &Namespace) -> Result<(), String> {
    // The same link address as the device's: frames to it count as the machine's own.
    let peer = spot.mac.clone().unwrap_or_else(|| vacant_mac(name));
    let (mac, mtu, path) = (&spot.enters.mac, spot.enters.mtu, namespace.path());
    set_up.run(
        "ip -batch -",
        &format!(
            "link add {name} address {mac} mtu {mtu} type veth peer name probe address {peer} mtu {mtu} index 1000003 netns {path}\n\
             link set {name} addrgenmode none\nlink set {name} up\n"
        ),
    )
}

/// Adds the filters of both directions.
fn add_filters(
    set_up: &mut SetUp,
    name: &str,
    injecting: &[String],
    catch: &str,
    equip: Option<String>,
    catching: &[Filter],
) -> Result<(), String> {
    let mut commands = format!("qdisc add dev {name} clsact\n");
    for (pref, filter) in (1..).zip(injecting) {
        let _ = writeln!(commands, "filter add dev {name} ingress pref {pref} {filter}");
    }
    commands.extend(equip);
    for Filter { pref, protocol, rest } in catching {
        let _ = writeln!(commands, "filter add dev {catch} egress pref {pref} protocol {protocol} {rest}");
    }
    set_up.run("tc -batch -", &commands)
}

/// The device on whose wire frames are seen: the device itself, or a bridge's port.
fn wire(link: &NetworkDevice, spot: &Spot) -> Result<String, String> {
    if !link.is_bridge() {
        return Ok(link.name.clone());
    }
    path::bridge_port(&link.name, spot.mac.as_deref())
        .ok_or_else(|| format!("the bridge {} has no port that is up", link.name))
}

fn turn() -> MutexGuard<'static, BTreeSet<String>> {
    EQUIPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The command that gives the device room for filters, unless it has it.
fn equip(device: &str, equipped: &mut BTreeSet<String>) -> Result<Option<String>, String> {
    let qdiscs = output(&format!("tc qdisc show dev {device}"))?;
    if qdiscs.contains("qdisc clsact") {
        return Ok(None);
    }
    if qdiscs.contains("qdisc ingress") {
        return Err(format!("{device} has an ingress qdisc, which leaves no place for egress filters"));
    }
    equipped.insert(device.to_owned());
    Ok(Some(format!("qdisc add dev {device} clsact\n")))
}

struct Filter {
    pref: u32,
    protocol: &'static str,
    rest: String,
}

/// Filters that take what the device sends to the probe.
fn catching(spot: &Spot, ports: ProbePorts, device: &str, probe: &str) -> Result<Vec<Filter>, String> {
    let taken = output(&format!("tc filter show dev {device} egress"))?;
    let taken: BTreeSet<u32> = taken
        .split("pref ")
        .skip(1)
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect();
    let mut free = (1..).filter(|pref| !taken.contains(pref));
    let action = format!("action mirred egress redirect dev {probe}");
    let address = spot.address;
    let (ip, protocol) = if address.is_ipv4() { ("ip", "ip") } else { ("ip6", "ipv6") };
    let length = if address.is_ipv4() { 32 } else { 128 };
    let ours = if spot.shared {
        format!(" match {ip} protocol 6 0xff match {ip} dport {} {:#x}", ports.base, ports.mask)
    } else {
        String::new()
    };
    let mut filters = vec![(protocol, format!("u32 match {ip} dst {address}/{length}{ours} {action}"))];
    if spot.mac.is_none() {
        // Who has the address? ARP's target is at 24; that of a neighbour solicitation behind the IPv6 header and 8 bytes.
        filters.push(match address {
            IpAddr::V4(v4) => {
                let target = u32::from(v4);
                ("arp", format!("u32 match u32 {target:#010x} 0xffffffff at 24 {action}"))
            }
            IpAddr::V6(v6) => {
                let mut matches = String::from("match u8 58 0xff at 6");
                for (word, offset) in v6.octets().chunks(4).zip((48..).step_by(4)) {
                    let word = word.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
                    let _ = write!(matches, " match u32 {word:#010x} 0xffffffff at {offset}");
                }
                ("ipv6", format!("u32 {matches} {action}"))
            }
        });
    }
    let filters = filters.into_iter().map(|(protocol, rest)| Filter {
        pref: free.next().unwrap_or(u32::MAX),
        protocol,
        rest,
    });
    Ok(filters.collect())
}

/// Filters that let the device receive what the probe sends, and nothing that its namespace says by itself.
fn injecting(spot: &Spot, device: &str) -> Vec<String> {
    let action = format!("action mirred ingress redirect dev {device}");
    let address = spot.address;
    if address.is_ipv4() {
        let mut filters = vec![format!("protocol ip u32 match ip src {address}/32 {action}")];
        if spot.mac.is_none() {
            filters.push(format!("protocol arp u32 match u32 0 0 {action}"));
        }
        filters
    } else {
        vec![format!("protocol ipv6 u32 match ip6 src {address}/128 {action}")]
    }
}

fn undo(spot: &Spot, name: &str, device: &str, equipped: bool, filters: &[Filter]) -> String {
    let mut script = format!("ip link del {name}\n");
    for Filter { pref, protocol, .. } in filters {
        let _ = writeln!(script, "tc filter del dev {device} egress pref {pref} protocol {protocol}");
    }
    if equipped {
        let _ = writeln!(
            script,
            "[ -n \"$(tc filter show dev {device} egress; tc filter show dev {device} ingress)\" ] || tc qdisc del dev {device} clsact"
        );
    }
    if spot.mac.is_none() {
        let _ = writeln!(script, "ip neigh del {} dev {}", spot.address, spot.leaves.name);
    }
    script
}

/// A link address that no manufacturer gives out.
fn vacant_mac(name: &str) -> String {
    let number = name.bytes().fold(std::process::id(), |sum, byte| sum.rotate_left(5) ^ u32::from(byte));
    let [a, b, c, d] = number.to_be_bytes();
    format!("0a:e6:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Addresses and routes of the probe's host.
fn furnish(spot: &Spot) -> io::Result<()> {
    for name in ["accept_dad", "dad_transmits", "autoconf"] {
        // Without IPv6 there is nothing to set.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/all/{name}"), "0");
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/probe/{name}"), "0");
    }
    let (address, mac) = (spot.address, &spot.enters.mac);
    let mut commands = String::from("link set lo up\nlink set probe up\n");
    let single = if address.is_ipv4() { format!("{address}/32") } else { format!("{address}/128") };
    let _ =
        writeln!(commands, "addr add {single} dev probe{}", if address.is_ipv4() { "" } else { " nodad" });
    let next = spot.gateway.unwrap_or_else(|| {
        if address.is_ipv4() { [169, 254, 1, 1].into() } else { [0xfe80, 0, 0, 0, 0, 0, 0, 1].into() }
    });
    if spot.gateway.is_none() {
        let _ = writeln!(commands, "neigh add {next} lladdr {mac} dev probe nud permanent");
    }
    let _ = writeln!(commands, "route add default via {next} dev probe onlink src {address}");
    feed("ip -batch -", &commands).map(drop).map_err(io::Error::other)
}

/// A link that is set up still drops packets for a moment.
fn wait_until_up(name: &str) {
    for _ in 0..40 {
        if output(&format!("ip -br link show dev {name}"))
            .is_ok_and(|line| line.split_whitespace().nth(1) == Some("UP"))
        {
            return;
        }
        thread::sleep(Duration::from_millis(25));
    }
}
