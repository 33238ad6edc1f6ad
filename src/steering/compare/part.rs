//! The parts of a plan, as they are compared one by one.

use crate::family::Family;

/// A part of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanPart {
    /// The packet rules of nftables, for both families.
    PacketRules,
    /// The packet rules of iptables for one family.
    PacketRulesOf(Family),
    /// Rules of the operator's that let packets pass by.
    Exemptions,
    /// Rules of Egret's in another format or backend.
    LeftOver,
    /// The rule that looks marked packets up in the steering table.
    MarkRule(Family),
    /// The steering table's route, and those that make the pools' addresses local.
    LocalRoutes(Family),
    /// The rules by which intercepted ports are not routed on.
    PortRules(Family),
    /// The pools' ports among those that the kernel gives to nobody.
    ReservedPorts,
}

impl PlanPart {
    /// The name in findings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PacketRules => "packet rules",
            Self::PacketRulesOf(Family::V4) => "IPv4 packet rules",
            Self::PacketRulesOf(Family::V6) => "IPv6 packet rules",
            Self::Exemptions => "exemptions",
            Self::LeftOver => "left-over rules",
            Self::MarkRule(Family::V4) => "IPv4 mark rule",
            Self::MarkRule(Family::V6) => "IPv6 mark rule",
            Self::LocalRoutes(Family::V4) => "IPv4 local routes",
            Self::LocalRoutes(Family::V6) => "IPv6 local routes",
            Self::PortRules(Family::V4) => "IPv4 rules against forwarding",
            Self::PortRules(Family::V6) => "IPv6 rules against forwarding",
            Self::ReservedPorts => "reserved ports",
        }
    }

    /// The consequence if it is not in place.
    pub fn consequence(self) -> &'static str {
        match self {
            Self::ReservedPorts => "other programs may be given ports that the pools need",
            Self::LocalRoutes(_) => "packets for the gateway are not received",
            Self::MarkRule(_) => "intercepted packets are dropped, so connections hang",
            Self::PortRules(_) => {
                "intercepted ports can leave uninspected if packet rules are lost too and this machine forwards"
            }
            Self::PacketRules | Self::PacketRulesOf(_) | Self::Exemptions | Self::LeftOver => {
                "connections hang; they can leave uninspected only if this machine forwards and its rules against \
                 forwarding are lost too"
            }
        }
    }

    /// True if only root can list it.
    pub fn needs_root(self) -> bool {
        match self {
            Self::PacketRules | Self::PacketRulesOf(_) => true,
            Self::Exemptions
            | Self::LeftOver
            | Self::MarkRule(_)
            | Self::LocalRoutes(_)
            | Self::PortRules(_)
            | Self::ReservedPorts => false,
        }
    }

    /// True if it is IPv6's alone.
    pub fn is_of_ipv6(self) -> bool {
        match self {
            Self::PacketRulesOf(family)
            | Self::MarkRule(family)
            | Self::LocalRoutes(family)
            | Self::PortRules(family) => family == Family::V6,
            Self::PacketRules | Self::Exemptions | Self::LeftOver | Self::ReservedPorts => false,
        }
    }

    /// True if it is left out where IPv6 is off on the loopback interface.
    pub fn needs_loopback_ipv6(self) -> bool {
        match self {
            Self::MarkRule(family) | Self::LocalRoutes(family) => family == Family::V6,
            Self::PacketRules
            | Self::PacketRulesOf(_)
            | Self::Exemptions
            | Self::LeftOver
            | Self::PortRules(_)
            | Self::ReservedPorts => false,
        }
    }
}
