//! Intercepted ports that are tried.

use crate::steering::InterceptedPorts;

/// Ports that are tried; a packet filter tells the usual ones from others, and rarely more of them apart.
const MOST: usize = 4;
/// Ports that clients use most.
const USUAL: [u16; 4] = [80, 443, 8080, 8443];

/// The ports to try, at least one: the usual ones that are intercepted, then the first of each range.
pub(super) fn probed(ports: &InterceptedPorts) -> Vec<u16> {
    let mut chosen = Vec::new();
    match ports {
        InterceptedPorts::All => chosen.extend(&USUAL[..2]),
        InterceptedPorts::List(ranges) => {
            chosen.extend(USUAL.iter().filter(|port| ranges.iter().any(|range| range.contains(**port))));
            for first in ranges.iter().map(|range| range.first()) {
                if !chosen.contains(&first) {
                    chosen.push(first);
                }
            }
            chosen.truncate(MOST);
        }
    }
    if chosen.is_empty() { vec![USUAL[0]] } else { chosen }
}

/// In words.
pub(super) fn listed(ports: &[u16]) -> String {
    let word = if ports.len() == 1 { "port" } else { "ports" };
    let numbers: Vec<_> = ports.iter().map(ToString::to_string).collect();
    format!("{word} {}", numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortRange;

    #[test]
    fn every_range_has_a_probed_port() {
        let list = |ports: &[(u16, u16)]| {
            InterceptedPorts::List(ports.iter().map(|(a, b)| PortRange::new(*a, *b).unwrap()).collect())
        };
        assert_eq!(probed(&InterceptedPorts::All), [80, 443]);
        assert_eq!(probed(&list(&[(443, 443), (80, 80)])), [80, 443]);
        assert_eq!(probed(&list(&[(400, 500)])), [443, 400]);
        assert_eq!(probed(&list(&[(7000, 7010), (443, 443)])), [443, 7000]);
        assert_eq!(probed(&list(&[(1, 1), (2, 2), (3, 3), (4, 4), (80, 80)])), [80, 1, 2, 3]);
        assert_eq!(probed(&list(&[])), [80]);
        assert_eq!(listed(&[80, 443]), "ports 80, 443");
    }
}
