//! Which packets this machine forwards.

use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = "/proc/sys";
const CHECK: &str = "ip_forward";

/// A family's switches: the one for all interfaces, and the file of each interface by which it alone forwards what comes in.
struct Switches {
    family: &'static str,
    all: &'static str,
    folder: &'static str,
    single: &'static str,
}

const SWITCHES: [Switches; 2] = [
    // ip_route_input_slow() asks the interface; `ip_forward` sets them all when it changes, and `default` those to come.
    Switches { family: "IPv4", all: "net/ipv4/ip_forward", folder: "net/ipv4/conf", single: "forwarding" },
    // ip6_forward() asks `all`, and since Linux 6.17 the interface's `force_forwarding`.
    Switches {
        family: "IPv6",
        all: "net/ipv6/conf/all/forwarding",
        folder: "net/ipv6/conf",
        single: "force_forwarding",
    },
];

pub(super) fn forwarding() -> CheckFinding {
    judge(Path::new(ROOT))
}

fn judge(root: &Path) -> CheckFinding {
    let is_on = |name: &str| fs::read_to_string(root.join(name)).is_ok_and(|value| value.trim() != "0");
    let (mut places, mut cures) = (Vec::new(), Vec::new());
    for Switches { family, all, folder, single } in SWITCHES {
        if is_on(all) {
            places.push(family.to_owned());
            cures.push(format!("sysctl -w {}=0", all.replace('/', ".")));
            continue;
        }
        let folders = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
        let names: BTreeSet<_> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        for name in names.iter().filter(|name| !["all", "lo"].contains(&name.as_str())) {
            // With slashes, since a name may have dots.
            let switch = format!("{folder}/{name}/{single}");
            if is_on(&switch) {
                let place =
                    if name == "default" { "on interfaces that come later" } else { &format!("on {name}") };
                places.push(format!("{family} {place}"));
                cures.push(format!("sysctl -w {switch}=0"));
            }
        }
    }
    if places.is_empty() {
        return CheckFinding::ok(CHECK, "off: only what Egret lets out leaves");
    }
    CheckFinding::warn(
        CHECK,
        format!(
            "on for {}: what comes in there and is not intercepted is forwarded uninspected",
            places.join(", ")
        ),
        "Egret does not need it, and without it nothing passes by even if the packet rules are lost",
        Mend::run(cures.join("; ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::findings::FindingLevel;

    fn finding(on: &[&str]) -> CheckFinding {
        let root = tempfile::tempdir().unwrap();
        for Switches { all, folder, single, .. } in SWITCHES {
            let singles =
                ["all", "default", "lo", "ens5", "ens5.7"].map(|name| format!("{folder}/{name}/{single}"));
            for switch in singles.into_iter().chain([all.to_owned()]) {
                let file = root.path().join(&switch);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, if on.contains(&switch.as_str()) { "1\n" } else { "0\n" }).unwrap();
            }
        }
        judge(root.path())
    }

    #[test]
    fn each_interface_that_forwards_is_named() {
        assert_eq!(finding(&[]).level, FindingLevel::Ok);
        assert_eq!(finding(&["net/ipv4/conf/lo/forwarding"]).level, FindingLevel::Ok);
        for (on, place, cure) in [
            ("net/ipv4/ip_forward", "on for IPv4:", "sysctl -w net.ipv4.ip_forward=0"),
            ("net/ipv6/conf/all/forwarding", "on for IPv6:", "sysctl -w net.ipv6.conf.all.forwarding=0"),
            ("net/ipv4/conf/ens5/forwarding", "IPv4 on ens5:", "sysctl -w net/ipv4/conf/ens5/forwarding=0"),
            (
                "net/ipv4/conf/ens5.7/forwarding",
                "IPv4 on ens5.7:",
                "sysctl -w net/ipv4/conf/ens5.7/forwarding=0",
            ),
            (
                "net/ipv4/conf/default/forwarding",
                "that come later:",
                "sysctl -w net/ipv4/conf/default/forwarding=0",
            ),
            (
                "net/ipv6/conf/ens5/force_forwarding",
                "IPv6 on ens5:",
                "sysctl -w net/ipv6/conf/ens5/force_forwarding=0",
            ),
        ] {
            let found = finding(&[on]);
            assert_eq!(found.level, FindingLevel::Warn, "{on}");
            assert!(found.found.contains(place), "{on}: {found:?}");
            assert_eq!(found.mend.unwrap().commands(), cure);
        }
        let both = finding(&["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"]);
        assert!(both.found.starts_with("on for IPv4, IPv6: "), "{both:?}");
        assert!(
            both.mend.unwrap().commands().ends_with("ip_forward=0; sysctl -w net.ipv6.conf.all.forwarding=0")
        );
    }
}
