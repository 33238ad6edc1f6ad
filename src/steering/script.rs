//! A plan as a shell script that a person can read and run.

use super::{PacketRules, Routing, SteeringPlan};
use crate::addr::{PortRange, listed};
use crate::sys::routing::LOCAL_TABLE;
use ipnet::IpNet;
use std::fmt;

const PRELUDE: &str = include_str!("prelude.sh");

/// Minimum for net.core.somaxconn, which caps each listener's accept queue. Long queues cost nothing until they fill.
pub const SOMAXCONN: u32 = 16384;

/// Last line of each script. `steer.sh` runs none without it: a file that was cut short may succeed.
const END: &str = "# egret steering: end\n";

/// Displays as the script that puts everything in place. The script is idempotent.
impl fmt::Display for SteeringPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tool, package) = match self.packet_rules {
            PacketRules::Iptables { .. } => ("iptables-restore", "iptables"),
            PacketRules::Nftables(_) => ("nft", "nftables"),
        };
        header(f, "brings traffic to Egret; run as root; `egret steering print --down` undoes it")?;
        writeln!(f, "need ip iproute2\nneed {tool} {package}")?;
        f.write_str("\n# Nothing is changed if others use what is to be Egret's.\n")?;
        for Routing { family, mark, table, .. } in &self.routing {
            writeln!(f, "must_be_free {family} {mark:#x} {table}\nmust_be_together {family}")?;
        }
        writeln!(f, "no_rule_marks {:#x}", self.routing[0].mark)?;
        let interfaces: Vec<_> = self.interfaces.iter().map(|name| format!("'{name}'")).collect();
        f.write_str("must_be_removable\n")?;
        let reserved: Vec<_> = self.reserved_ports.iter().map(PortRange::to_string).collect();
        let reserved = reserved.join(",");
        if !reserved.is_empty() {
            writeln!(f, "must_be_reservable {reserved}")?;
        }
        writeln!(f, "interfaces_exist {}", interfaces.join(" "))?;
        f.write_str("recover_record\n")?;
        f.write_str(
            "\n# Packet rules come first: if a later step fails, traffic is refused, not let out.\n",
        )?;
        self.packet_rules.fmt(f)?;
        f.write_str("\n# Marked packets are delivered locally, and so are answers to pool addresses.\n")?;
        for routing in &self.routing {
            routing.fmt(f)?;
        }
        f.write_str("\n# Kernel settings.\n")?;
        if !reserved.is_empty() {
            writeln!(f, "reserve_ports {reserved}")?;
        }
        writeln!(f, "at_least net.ipv4.tcp_timestamps 1 'source ports are free again at once'")?;
        writeln!(
            f,
            "at_least net.ipv4.tcp_migrate_req 1 'queued connections pass to another worker when one stops'"
        )?;
        writeln!(
            f,
            "at_least net.core.somaxconn {SOMAXCONN} 'bursts of new connections wait and are not dropped'"
        )?;
        f.write_str(END)
    }
}

/// Returns the script that removes everything and restores the previous settings. It needs no configuration.
pub fn down() -> String {
    Down.to_string()
}

struct Down;

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        header(f, "no longer brings traffic to Egret; run as root")?;
        f.write_str(
            "need ip iproute2\n\nmust_be_removable\nrecover_record\nremove_every_backend iptables ip\n",
        )?;
        f.write_str("if has_ipv6; then remove_every_backend ip6tables ip6; fi\n")?;
        f.write_str("remove_nftables\nremove_routing\nrestore_sysctls\n")?;
        f.write_str(END)
    }
}

fn header(f: &mut fmt::Formatter<'_>, what: &str) -> fmt::Result {
    writeln!(f, "#!/bin/sh\n# Steering: {what}.\nset -eu\numask 077\nexport LC_ALL=C\n\n{PRELUDE}")
}

impl fmt::Display for PacketRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iptables { v4, v6 } => {
                write!(f, "load_iptables iptables ip <<'RULES'\n{v4}RULES\n")?;
                write!(f, "if has_ipv6; then load_iptables ip6tables ip6 <<'RULES'\n{v6}RULES\nfi\n")?;
                f.write_str("remove_nftables # of the other format, if it was in use\n")
            }
            Self::Nftables(table) => {
                write!(f, "load_nftables <<'RULES'\n{table}RULES\n")?;
                f.write_str("remove_every_backend iptables ip # of the other format, if it was in use\n")?;
                f.write_str("if has_ipv6; then remove_every_backend ip6tables ip6; fi\n")
            }
        }
    }
}

impl fmt::Display for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, mark, table, everything, pools, port_rules } = self;
        writeln!(f, "if can_route {family}; then")?;
        writeln!(f, "    mark_rule {family} {mark:#x} {table}")?;
        writeln!(f, "    local_route {family} {table} {everything}")?;
        for pool in pools {
            writeln!(f, "    local_route {family} {LOCAL_TABLE} {pool}")?;
        }
        write!(f, "    keep_routes {family} default@{table}")?;
        for pool in pools {
            write!(f, " {}@{LOCAL_TABLE}", as_shown(*pool))?;
        }
        // Other interfaces may forward a family that the loopback interface is closed to.
        let closed = "IPv6 is off on the loopback interface (net.ipv6.conf.lo.disable_ipv6): intercepted IPv6 is dropped";
        writeln!(f, "\nelif has_rules {family}; then\n    say '{closed}'\nfi")?;
        writeln!(f, "if has_rules {family}; then\n    port_rules {family} <<'RULES'")?;
        for rule in port_rules {
            writeln!(f, "{rule}")?;
        }
        f.write_str("RULES\nfi\n")
    }
}

/// A network as `ip route` shows it: a single address has no prefix length.
pub(super) fn as_shown(network: IpNet) -> String {
    if network.prefix_len() == 0 { "default".to_owned() } else { listed(network) }
}

#[cfg(test)]
mod tests {
    use super::super::{iptables, tests::params};
    use super::{END, down};

    #[test]
    fn scripts_end_as_steer_sh_expects() {
        let steer = include_str!("../../scripts/steer.sh");
        assert!(steer.contains(&format!("\nend='{}' #", END.trim_end())));
        assert!(iptables(&params()).to_string().ends_with(END) && down().ends_with(END));
    }

    #[test]
    fn script_installs_packet_rules_first() {
        let script = iptables(&params()).to_string();
        let at = |text: &str| script.find(text).unwrap_or_else(|| panic!("no {text} in\n{script}"));
        assert!(at("load_iptables iptables ip <<") < at("load_iptables ip6tables ip6 <<"));
        assert!(at("load_iptables ip6tables ip6 <<") < at("    mark_rule -4 0x1 100"));
        assert!(at("    local_route -4 255 203.0.113.16/28\n") < at("reserve_ports 1024-56903,61000-65535"));
        assert!(script.contains("    keep_routes -4 default@100 203.0.113.16/28@255 203.0.113.99@255\n"));
    }
}
