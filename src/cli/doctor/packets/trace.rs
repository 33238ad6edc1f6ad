//! The way of a probe's packets through the packet filter, as `nft monitor trace` tells it.
//!
//! Covers everything that nf_tables runs: native tables and those of iptables-nft. Tables of iptables-legacy do not
//! trace; [`super::counters`] looks at them.

use super::set_up::SetUp;
use crate::cli::tool::{output, tool};
use crate::steering::is_own_chain;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// One line of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TraceLine {
    /// Of the packet.
    pub(super) id: String,
    pub(super) family: String,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) kind: TraceLineKind,
    pub(super) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TraceLineKind {
    /// The packet enters a base chain.
    Packet,
    /// A rule matched.
    Rule,
    /// The policy of a base chain decided.
    Policy,
    /// A verdict without a rule.
    Verdict,
}

impl TraceLine {
    fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("trace id ")?;
        let mut words = rest.splitn(6, ' ');
        let mut next = || words.next().map(str::to_owned);
        let (id, family, table, chain, kind, text) = (next()?, next()?, next()?, next()?, next()?, next()?);
        let kind = match kind.as_str() {
            "packet:" => TraceLineKind::Packet,
            "rule" => TraceLineKind::Rule,
            "policy" => TraceLineKind::Policy,
            _ => TraceLineKind::Verdict,
        };
        Some(Self { id, family, table, chain, kind, text: text.trim().to_owned() })
    }

    /// True where the packet ends: dropped, rejected, or in the hands of a program.
    pub(super) fn is_end(&self) -> bool {
        let ends = |verdict: &str| self.text.contains(&format!("(verdict {verdict}"));
        match self.kind {
            TraceLineKind::Policy => self.text.starts_with("drop"),
            TraceLineKind::Rule => ends("drop") || ends("stolen") || ends("queue"),
            TraceLineKind::Packet | TraceLineKind::Verdict => false,
        }
    }

    /// True for Egret's own packet rules.
    pub(super) fn is_of_steering(&self) -> bool {
        is_own_chain(&self.family, &self.table, &self.chain)
    }

    /// True where Egret gives packets their mark.
    pub(super) fn is_of_mangle(&self) -> bool {
        self.table == "mangle" || self.chain == "steer"
    }

    /// The packet's mark after a verdict or a policy.
    pub(super) fn mark(&self) -> Option<u32> {
        let decides = matches!(self.kind, TraceLineKind::Policy | TraceLineKind::Verdict);
        let text = self.text.split("meta mark ").nth(1).unwrap_or("0x0");
        let digits = text.split_whitespace().next()?.strip_prefix("0x")?;
        decides.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    }

    /// The rule without its verdict and counters, or the policy.
    pub(super) fn rule(&self) -> String {
        let rule = self.text.split(" (verdict").next().unwrap_or_default();
        match self.kind {
            TraceLineKind::Policy => format!("policy {}", rule.split(' ').next().unwrap_or_default()),
            TraceLineKind::Rule | TraceLineKind::Packet | TraceLineKind::Verdict => without_counters(rule),
        }
    }
}

/// Those of packets whose lines name all of the addresses wherever they name addresses of IP.
pub(super) fn of_addresses(events: &[TraceLine], addresses: &[IpAddr]) -> Vec<TraceLine> {
    let names = |event: &TraceLine, address: &IpAddr| {
        ["saddr", "daddr"].iter().any(|side| event.text.contains(&format!("{side} {address} ")))
    };
    let others: BTreeSet<&str> = events
        .iter()
        .filter(|event| event.kind == TraceLineKind::Packet)
        .filter(|event| event.text.contains("ip saddr ") || event.text.contains("ip6 saddr "))
        .filter(|event| !addresses.iter().all(|one| names(event, one)))
        .map(|event| &*event.id)
        .collect();
    events.iter().filter(|event| !others.contains(&*event.id)).cloned().collect()
}

/// Gives each packet an ID of its own: the kernel's IDs are of buffers, which are used again. A packet begins where it enters
/// one of our chains, `incoming` once in each family of tables.
fn by_packet(events: Vec<TraceLine>, table: &str) -> Vec<TraceLine> {
    let mut packets: BTreeMap<String, (usize, BTreeSet<String>)> = BTreeMap::new();
    let renamed = events.into_iter().map(|event| {
        let (number, entered) = packets.entry(event.id.clone()).or_default();
        if event.table == table && event.kind == TraceLineKind::Packet {
            let again = !entered.insert(event.family.clone());
            if event.chain == OUTGOING || again {
                *number += 1;
                *entered = BTreeSet::from([event.family.clone()]);
            }
        }
        TraceLine { id: format!("{}#{number}", event.id), ..event }
    });
    renamed.collect()
}

fn without_counters(rule: &str) -> String {
    let words: Vec<_> = rule.split(' ').collect();
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        // counter packets N bytes M
        if *word == "counter" && words.get(at + 1) == Some(&"packets") {
            at += 5;
        } else {
            kept.push(*word);
            at += 1;
        }
    }
    kept.join(" ")
}

/// Our chains.
const INCOMING: &str = "incoming";
const OUTGOING: &str = "outgoing";
/// Before every chain of others.
const FIRST: i32 = -2_000_000_000;

/// Traces that were started.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A trace that runs.
#[derive(Debug)]
pub(super) struct Trace {
    table: String,
    monitor: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    set_up: Option<SetUp>,
}

impl Trace {
    /// Traces packets that match, to and from the probe: nft expressions. `None` without nft.
    pub(super) fn start(from: &str, to: &str, device: &str) -> Option<Self> {
        output("nft --version").ok()?;
        let table = format!("egret_doctor_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut trace = Self::listen(&table)?;
        let chain = |name, hook: &str, matches: &str| {
            format!(
                "chain {name} {{ type filter hook {hook} priority {FIRST}; {matches} meta nftrace set 1; }}"
            )
        };
        let (incoming, outgoing) = (chain(INCOMING, "prerouting", from), chain(OUTGOING, "output", to));
        let both = format!("table inet {table} {{\n{incoming}\n{outgoing}\n}}\n");
        trace.add(&both)?;
        // Hooks before those of IP; kernels without them have nothing there that could drop.
        let early = chain(INCOMING, &format!("ingress device \"{device}\""), from);
        trace.add(&format!("table netdev {table} {{\n{early}\n}}\n"));
        trace.add(&format!("table bridge {table} {{\n{incoming}\n}}\n"));
        Some(trace)
    }

    /// Adds a table; `None` where the kernel refuses it.
    fn add(&mut self, table: &str) -> Option<()> {
        self.set_up.as_mut()?.run("nft -f -", table).ok()
    }

    /// Starts to listen, and what ends it and removes the tables, also if this process is killed.
    fn listen(table: &str) -> Option<Self> {
        let mut command = tool("nft");
        command.args(["monitor", "trace"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut monitor = command.spawn().ok()?;
        let mut script = format!("kill {}\n", monitor.id());
        for family in ["inet", "netdev", "bridge"] {
            let _ = writeln!(script, "nft delete table {family} {table}");
        }
        let set_up = SetUp::new(&script);
        let (Ok(set_up), Some(stdout)) = (set_up, monitor.stdout.take()) else {
            let _ = monitor.kill();
            let _ = monitor.wait();
            return None;
        };
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        for _ in 0..40 {
            if listens(monitor.id()) {
                break;
            }
            thread::sleep(Duration::from_millis(25));
        }
        Some(Self { table: table.to_owned(), monitor, lines, reader: Some(reader), set_up: Some(set_up) })
    }

    /// Events so far of packets with these addresses, when no more come; other traces may run beside this one.
    pub(super) fn finish(mut self, addresses: &[IpAddr]) -> Vec<TraceLine> {
        let count = || self.lines.lock().unwrap_or_else(PoisonError::into_inner).len();
        for _ in 0..20 {
            let before = count();
            thread::sleep(Duration::from_millis(100));
            if count() == before {
                break;
            }
        }
        self.stop();
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let events = lines.iter().filter_map(|line| TraceLine::parse(line)).collect();
        let events = by_packet(events, &self.table).into_iter();
        let events: Vec<_> = events.filter(|event| !event.table.starts_with("egret_doctor_")).collect();
        of_addresses(&events, addresses)
    }

    fn stop(&mut self) {
        drop(self.set_up.take());
        let _ = self.monitor.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.stop();
    }
}

/// True if the process has a netfilter socket that has joined a group. The kernel calls a process's first socket by the
/// number of the process.
fn listens(process: u32) -> bool {
    const NETFILTER: &str = "12";
    let sockets = std::fs::read_to_string("/proc/net/netlink").unwrap_or_default();
    let process = process.to_string();
    sockets.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.get(1) == Some(&NETFILTER)
            && words.get(2) == Some(&&*process)
            && words.get(3).is_some_and(|groups| *groups != "00000000")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_packets_are_left_out() {
        let lines = [
            "trace id 1 ip t c packet: iif \"c0\" ip saddr 10.0.1.254 ip daddr 192.0.2.80 tcp flags == syn",
            "trace id 1 ip t c policy drop ",
            "trace id 2 ip t c packet: iif \"c0\" ip saddr 10.0.1.25 ip daddr 192.0.2.80 tcp flags == syn",
            "trace id 3 netdev t c packet: oif \"c0\" @nh,0,160 0x4500003c",
        ];
        let events: Vec<_> = lines.iter().filter_map(|line| TraceLine::parse(line)).collect();
        let ids = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|one| one.parse().unwrap()).collect();
            of_addresses(&events, &addresses).iter().map(|event| event.id.clone()).collect::<String>()
        };
        assert_eq!(ids(&["10.0.1.254"]), "113");
        assert_eq!(ids(&["10.0.1.25", "192.0.2.80"]), "23");
    }

    #[test]
    fn reused_buffers_are_different_packets() {
        let lines = [
            "trace id 7 netdev ours incoming packet: iif \"c0\" @nh,0,160 0x4500003c",
            "trace id 7 inet ours incoming packet: iif \"c0\" tcp flags == syn",
            "trace id 7 ip raw PREROUTING packet: iif \"c0\" tcp flags == syn",
            "trace id 7 netdev ours incoming packet: iif \"c0\" @nh,0,160 0x4500003c",
            "trace id 7 inet ours incoming packet: iif \"c0\" tcp flags == ack",
            "trace id 7 inet ours outgoing packet: oif \"c0\" tcp flags == 0x12",
            "trace id 7 ip filter OUTPUT policy drop ",
            "trace id 8 ip filter OUTPUT policy drop ",
        ];
        let events = lines.iter().filter_map(|line| TraceLine::parse(line)).collect();
        let ids: Vec<_> = by_packet(events, "ours").into_iter().map(|event| event.id).collect();
        assert_eq!(ids, ["7#0", "7#0", "7#0", "7#1", "7#1", "7#2", "7#2", "8#0"]);
    }

    #[test]
    fn marks_are_read_after_decisions() {
        let mark = |line: &str| TraceLine::parse(line).unwrap().mark();
        assert_eq!(mark("trace id 1 inet x i policy accept meta mark 0x00000020 "), Some(0x20));
        assert_eq!(mark("trace id 1 inet x i policy accept "), Some(0));
        assert_eq!(mark("trace id 1 inet x i rule meta mark set 0x00000020 (verdict continue)"), None);
    }

    #[test]
    fn trace_lines_are_parsed() {
        let rule = "trace id b1a3be0f ip filter INPUT rule counter packets 0 bytes 0 reject with icmp type host-prohibited (verdict drop)";
        let event = TraceLine::parse(rule).unwrap();
        assert_eq!((&*event.family, &*event.table, &*event.chain), ("ip", "filter", "INPUT"));
        assert!(event.is_end());
        assert_eq!(event.rule(), "reject with icmp type host-prohibited");
        let event =
            TraceLine::parse("trace id 1 inet filter input policy drop meta mark 0x00000001 ").unwrap();
        assert!(event.is_end());
        assert_eq!(event.rule(), "policy drop");
        for passes in [
            "trace id 1 ip raw PREROUTING policy accept ",
            "trace id 1 inet t c rule tcp dport 22 accept (verdict accept)",
            "trace id 1 inet t c packet: iif \"c0\" tcp flags == syn",
            "trace id 1 inet t c verdict continue ",
        ] {
            assert!(!TraceLine::parse(passes).unwrap().is_end(), "{passes}");
        }
        assert_eq!(TraceLine::parse("something else"), None);
    }
}
