//! Interfaces of `[steering]` by which nothing arrives.

use super::packets::{NetworkDevice, devices};
use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::interface::Interface;

const CHECK: &str = "interface";
const WHY: &str = "nothing arrives by it, and no client's connection does";

/// Findings on interfaces that are down or have no carrier. One that is not there is told by what steering finds.
pub(super) fn dead(interfaces: &[Interface]) -> Vec<CheckFinding> {
    let devices = devices();
    interfaces.iter().filter_map(|interface| of_interface(interface, &devices)).collect()
}

/// A pattern is for interfaces that come and go: one of them that works is enough.
fn of_interface(interface: &Interface, devices: &[NetworkDevice]) -> Option<CheckFinding> {
    let covered: Vec<_> = devices.iter().filter(|device| interface.covers(&device.name)).collect();
    if covered.iter().any(|device| device.is_up() && device.has_carrier()) {
        return None;
    }
    if let Some(device) = covered.iter().find(|device| device.is_up()) {
        let name = &device.name;
        return Some(CheckFinding::warn(
            CHECK,
            format!("interface {name} of [steering] has no carrier"),
            WHY,
            Mend::run(format!("ip -d link show dev {name}"))
                .and("look at the cable, at the link's other end, and at what it is built on"),
        ));
    }
    let name = &covered.first()?.name;
    let found = format!("interface {name} of [steering] is down");
    Some(CheckFinding::fail(CHECK, found, WHY, Mend::run(format!("ip link set {name} up"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::findings::FindingLevel;

    #[test]
    fn dead_interfaces_are_told() {
        let device = |name: &str, flags: &str| -> NetworkDevice {
            let told = format!(r#"{{"ifname":"{name}","flags":[{flags}],"mtu":1500,"link_type":"ether"}}"#);
            serde_json::from_str(&told).unwrap()
        };
        let devices = [
            device("down", r#""BROADCAST""#),
            device("ens5", r#""UP","LOWER_UP""#),
            device("ens6", r#""NO-CARRIER","UP""#),
            device("ens7", r#""BROADCAST""#),
        ];
        for (interface, level) in [
            ("down", Some(FindingLevel::Fail)),
            ("ens5", None),
            ("ens6", Some(FindingLevel::Warn)),
            ("ens*", None),
            ("do*", Some(FindingLevel::Fail)),
            ("none", None),
        ] {
            let found = of_interface(&Interface::parse(interface).unwrap(), &devices);
            assert_eq!(found.as_ref().map(|finding| finding.level), level, "{interface}: {found:?}");
        }
    }
}
