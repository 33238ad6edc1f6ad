//! Faults of steering, each with its part and its remedy.

use crate::interface::Interface;
use crate::steering::{REMEDY, are_absent, overtaking};
use crate::sys::routing::RoutingRule;
use std::collections::BTreeSet;
use std::fmt;

/// A part of the steering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The rules that intercept and refuse.
    PacketRules,
    /// The rule that looks marked packets up in the steering table.
    MarkRule,
    /// The rules by which intercepted ports are not routed on.
    PortRules,
    /// The steering table's one route.
    SteeringTable,
    /// The routes that make the pools' addresses local.
    LocalRoutes,
    /// The interfaces of `[steering]`.
    Interfaces,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::PacketRules,
        Self::MarkRule,
        Self::PortRules,
        Self::SteeringTable,
        Self::LocalRoutes,
        Self::Interfaces,
    ];

    /// As the metric's label has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PacketRules => "packet_rules",
            Self::MarkRule => "mark_rule",
            Self::PortRules => "port_rules",
            Self::SteeringTable => "steering_table",
            Self::LocalRoutes => "local_routes",
            Self::Interfaces => "interfaces",
        }
    }
}

/// The remedy of a fault. Of several faults' remedies, the smallest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
    /// Delete another program's route from the steering table; until then steering refuses to be put in place.
    DeleteRoute,
    /// Delete another program's `ip rule` that uses Egret's mark or table; until then steering refuses to be put in place.
    DeleteRule,
    /// Take another program's `ip rule` from among Egret's; until then steering refuses to be put in place.
    ClearPlace,
    /// Restart steering and gateway, so that both have the listener's port from the same configuration.
    RestartBoth,
    /// Correct `[steering] interfaces`.
    Interfaces,
    /// Correct `[steering] interfaces` in the files, if they name the interfaces that rules are for; else put steering in
    /// place anew.
    CorrectFiles,
    /// Put steering in place anew.
    Renew,
    /// Give another program's `ip rule` a later priority.
    MoveRule,
    /// Turn `src_valid_mark` off.
    SourceValidation,
    /// Turn IPv6 on for the loopback interface.
    Loopback,
    /// Put the files in force that steering was made from, or steering in place anew.
    Reload,
}

impl Remedy {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::DeleteRoute,
        Self::DeleteRule,
        Self::ClearPlace,
        Self::RestartBoth,
        Self::Interfaces,
        Self::CorrectFiles,
        Self::Renew,
        Self::MoveRule,
        Self::SourceValidation,
        Self::Loopback,
        Self::Reload,
    ];

    /// True if putting steering in place anew may do, which the gateway can request.
    pub fn can_be_requested(self) -> bool {
        match self {
            Self::RestartBoth | Self::CorrectFiles | Self::Renew => true,
            Self::DeleteRoute
            | Self::DeleteRule
            | Self::ClearPlace
            | Self::Interfaces
            | Self::MoveRule
            | Self::SourceValidation
            | Self::Loopback
            | Self::Reload => false,
        }
    }

    /// True if steering cannot be put in place before this is done.
    pub fn comes_first(self) -> bool {
        matches!(self, Self::DeleteRoute | Self::DeleteRule | Self::ClearPlace)
    }

    /// The instruction for an operator.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeleteRoute => {
                "`ip route del` that route from the table, or choose another [steering] table and restart steering"
            }
            Self::RestartBoth => "`systemctl restart egret-steering egret` (both together)",
            Self::Renew => REMEDY,
            Self::ClearPlace => {
                "give that `ip rule` a priority above 107 (below 101 only if it names both `from` and `to`); steering \
                 cannot be put in place before"
            }
            Self::DeleteRule => {
                "`ip rule del` that rule, or choose another [steering] mark or table and restart steering"
            }
            Self::MoveRule => "give that `ip rule` a priority after 107",
            Self::SourceValidation => {
                "`sysctl -w net.ipv4.conf.all.src_valid_mark=0`, and the same for that interface instead of `all`"
            }
            Self::Loopback => {
                "`sysctl -w net.ipv6.conf.lo.disable_ipv6=0`, then `systemctl restart egret-steering`"
            }
            Self::Reload => {
                "`egret reload`, or if the files are in force, `systemctl restart egret-steering`"
            }
            Self::Interfaces => "correct [steering] interfaces, then `egret reload`",
            Self::CorrectFiles => {
                "if the files name that interface, correct [steering] interfaces, then `egret reload`; if not, \
                 `systemctl restart egret-steering`"
            }
        }
    }
}

/// Something that is not in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The part that is not.
    pub part: Part,
    /// Description of the fault.
    pub what: String,
    /// The way to end it.
    pub remedy: Remedy,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// The remedy where rules are for these interfaces, which the configuration in force does not name. Those of `former`
/// interfaces are older than it, as after an interface was renamed; others were made from files that are not in force, and go by
/// names with errors where no such interface is there.
pub(super) fn remedy_of_others(
    others: &BTreeSet<String>,
    former: &BTreeSet<String>,
    names: &[String],
) -> Remedy {
    let all: Vec<_> = others.iter().filter_map(|name| Interface::parse(name).ok()).collect();
    if !others.is_subset(former) && are_absent(&all, names) { Remedy::CorrectFiles } else { Remedy::Renew }
}

/// The remedy of a rule that comes before the one for the mark, and may take its packets.
pub(in crate::steering) fn remedy_before_mark_rule(rule: &RoutingRule, mark: u32, table: u32) -> Remedy {
    if overtaking::is_in_the_way(rule, mark, table) {
        Remedy::DeleteRule
    } else if rule.priority == 0 {
        // Egret's own is put before others, but nothing comes before the rules at 0.
        Remedy::MoveRule
    } else {
        Remedy::Renew
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_rules_for_absent_interfaces_blame_files() {
        let names = ["lo", "ens5", "ens6", "veth7"].map(str::to_owned);
        let former = BTreeSet::from(["ens9".to_owned()]);
        for (others, remedy) in [
            (&[][..], Remedy::Renew),
            (&["ens9"], Remedy::Renew),
            (&["ens7", "ens9"], Remedy::CorrectFiles),
            (&["ens5"], Remedy::Renew),
            (&["veth*"], Remedy::Renew),
            (&["ens5", "ens7"], Remedy::Renew),
            (&["ens7"], Remedy::CorrectFiles),
            (&["enp*", "ens7"], Remedy::CorrectFiles),
        ] {
            let others_named = others.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(remedy_of_others(&others_named, &former, &names), remedy, "{others:?}");
        }
    }

    /// As `must_be_free` in prelude.sh has it.
    #[test]
    fn rule_before_mark_rule_has_its_remedy() {
        for (rule, remedy) in [
            ("50:\tfrom all lookup 7", Remedy::Renew),
            ("0:\tfrom all lookup 7", Remedy::MoveRule),
            ("50:\tfrom all fwmark 0x100/0x100 lookup 7", Remedy::DeleteRule),
            ("0:\tfrom all fwmark 0x300/0xff00 lookup 7", Remedy::DeleteRule),
            ("50:\tfrom all fwmark 0/0x200 lookup 7", Remedy::Renew),
            ("50:\tnot from all fwmark 0x100 lookup 7", Remedy::Renew),
            ("50:\tfrom 10.0.1.0/24 lookup 99", Remedy::DeleteRule),
            ("50:\tfrom all fwmark 0x100 lookup 99", Remedy::Renew),
            ("50:\tfrom 10.0.1.0/24 fwmark 0x100 lookup 99", Remedy::DeleteRule),
            ("50:\tfrom all fwmark 0x100/0x100 lookup 99 proto 230", Remedy::Renew),
        ] {
            assert_eq!(
                remedy_before_mark_rule(&overtaking::parse(rule).unwrap(), 0x100, 99),
                remedy,
                "{rule}"
            );
        }
    }
}
