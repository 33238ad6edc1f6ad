//! Rules of others that stand before Egret's in a built-in chain of iptables: they may stay where they do nothing to
//! Egret's packets, as many of Docker's, Kubernetes' and Calico's do.
//!
//! In nftables no rule stands before Egret's, whose chains are its own: an `accept` in another program's chain ends that chain
//! alone, and packets go on to Egret's at the same hook. Only a `drop` is final.

use crate::addr::PortRange;
use crate::interface::Interface;
use crate::sys::packet_rules::{Ahead, PacketEffect};

/// Jumps that are followed.
const DEPTH: u8 = 12;

/// Position of the rule, and the interfaces that Egret's rules are for.
#[derive(Debug, Clone, Copy)]
pub(super) struct RulePosition<'a> {
    pub(super) table: &'a str,
    /// The built-in chain.
    pub(super) builtin: &'a str,
    pub(super) steered: &'a [Interface],
    /// The intercepted ports; `None` for every port.
    pub(super) ports: Option<&'a [PortRange]>,
}

/// True if the rule may take from Egret what is its own. `chain` lists the rules of a chain by its name.
pub(super) fn takes<E>(
    rule: &Ahead,
    place: RulePosition<'_>,
    chain: &mut impl FnMut(&str) -> Result<Vec<Ahead>, E>,
) -> Result<bool, E> {
    taken(rule, place, chain, 0)
}

fn taken<E>(
    rule: &Ahead,
    place: RulePosition<'_>,
    chain: &mut impl FnMut(&str) -> Result<Vec<Ahead>, E>,
    depth: u8,
) -> Result<bool, E> {
    // The raw table comes before conntrack, and to its rules every packet is invalid.
    // In POSTROUTING Egret's rules are about what conntrack tracks.
    let in_postrouting = place.builtin == "POSTROUTING";
    let known_only = rule.known_only && !(rule.invalid_too && place.table == "raw") && !in_postrouting;
    if known_only || rule.comes_by.as_ref().is_some_and(|name| !overlaps(name, place.steered)) {
        return Ok(false);
    }
    let in_input = place.builtin == "INPUT";
    // Intercepted packets keep their destination there. Egret's rules only accept, so that other accepting rules may stay.
    if in_input && (rule.is_narrow || !is_for(&rule.ports, place.ports)) {
        return Ok(false);
    }
    match &rule.effect {
        PacketEffect::None => Ok(false),
        // In all other chains Egret's rules accept nothing: what is dropped before them would not be saved by them.
        PacketEffect::Drop => Ok(in_input || place.builtin == "PREROUTING"),
        PacketEffect::Return => Ok(depth == 0 && !in_input),
        PacketEffect::Take => Ok(!in_input),
        PacketEffect::Jump(_) if depth == DEPTH => Ok(true),
        PacketEffect::Jump(name) => {
            for rule in chain(name)? {
                if taken(&rule, place, chain, depth + 1)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// True if a rule for these ports, or for all where there are none, is for an intercepted one.
fn is_for(ports: &[(u16, u16)], intercepted: Option<&[PortRange]>) -> bool {
    let Some(intercepted) = intercepted else { return true };
    let is_intercepted = |(first, last): &(u16, u16)| {
        intercepted.iter().any(|range| range.first() <= *last && *first <= range.last())
    };
    ports.is_empty() || ports.iter().any(is_intercepted)
}

/// True if an interface may have both names.
fn overlaps(name: &str, steered: &[Interface]) -> bool {
    steered.iter().any(|one| match name.strip_suffix(['+', '*']) {
        None => one.covers(name),
        Some(stem) => {
            let own = one.to_string();
            let own = own.trim_end_matches('*');
            own.starts_with(stem) || (one.is_pattern() && stem.starts_with(own))
        }
    })
}

/// Reads a line of `iptables-save`; `is_chain` knows the names of chains.
pub(super) fn parse(line: &str, is_chain: impl Fn(&str) -> bool) -> Ahead {
    let words: Vec<_> = line.split(' ').collect();
    let after = |option: &str| {
        let at = words.iter().position(|word| *word == option)?;
        (at == 0 || words[at - 1] != "!").then(|| words.get(at + 1).copied()).flatten()
    };
    let states = after("--ctstate").or_else(|| after("--state"));
    let has = |wanted| states.is_some_and(|states| states.split(',').any(|state| state == wanted));
    let tracked = states.is_some() && !has("UNTRACKED");
    let marked = after("--mark").is_some_and(|mark| !mark.starts_with("0x0"));
    let target = after("-j").or_else(|| after("-g"));
    let effect = match target {
        None => PacketEffect::None,
        Some(target) if is_chain(target) => PacketEffect::Jump(target.to_owned()),
        Some(target) => PacketEffect::of_target(target, words.contains(&"--notrack")),
    };
    let ports = after("--dport").or_else(|| after("--dports")).unwrap_or_default();
    Ahead {
        comes_by: after("-i").map(str::to_owned),
        known_only: tracked || marked,
        invalid_too: has("INVALID"),
        is_narrow: is_narrow(&words),
        ports: ports.split(',').filter_map(port_range).collect(),
        effect,
    }
}

/// True if the rule asks for more than interface, TCP and destination port.
fn is_narrow(words: &[&str]) -> bool {
    let mut words = words.iter().copied();
    let mut is_negated = false;
    while let Some(word) = words.next() {
        match word {
            "!" => {
                is_negated = true;
                continue;
            }
            "-p" => {
                if is_negated || words.next() != Some("tcp") {
                    return true;
                }
            }
            "--comment" => {
                let first = words.next().unwrap_or_default();
                if first.starts_with('"') && !(first.len() > 1 && first.ends_with('"')) {
                    while words.next().is_some_and(|word| !word.ends_with('"')) {}
                }
            }
            // What a target asks for comes behind it.
            "-j" | "-g" => return false,
            "--dport" | "--dports" => {
                if is_negated {
                    return true;
                }
                words.next();
            }
            "-A" | "-i" | "-m" | "--ctstate" | "--state" => drop(words.next()),
            _ => return true,
        }
        is_negated = false;
    }
    false
}

/// A port, or a range as iptables writes it.
fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// [`takes`] for the first rule of a built-in chain, in the format of `iptables-save`.
    fn first_takes(builtin: &str, saved: &[&str]) -> bool {
        takes_in("mangle", builtin, saved)
    }

    fn takes_in(table: &str, builtin: &str, saved: &[&str]) -> bool {
        let steered = ["ens6", "veth*"].map(|name| Interface::parse(name).unwrap());
        let of = |chain: &str| -> Vec<Ahead> {
            let rules = saved.iter().filter(|line| line.starts_with(&format!("-A {chain} ")));
            let is_chain = |name: &str| saved.iter().any(|line| line.starts_with(&format!("-A {name} ")));
            rules.map(|line| parse(line, is_chain)).collect()
        };
        let first = of(builtin).remove(0);
        let ports = [PortRange::new(80, 80).unwrap(), PortRange::new(443, 443).unwrap()];
        let place = RulePosition { table, builtin, steered: &steered, ports: Some(&ports) };
        takes(&first, place, &mut |chain| Ok::<_, Infallible>(of(chain))).unwrap()
    }

    #[test]
    fn harmless_preceding_rules_may_stay() {
        let docker = [
            "-A FORWARD -j DOCKER-FORWARD",
            "-A DOCKER-FORWARD -j DOCKER-CT",
            "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
            "-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A DOCKER-FORWARD -j DOCKER",
            "-A DOCKER ! -i docker0 -o docker0 -j DROP",
            "-A DOCKER-FORWARD -j RETURN",
        ];
        assert!(!first_takes("FORWARD", &docker));
        let kubernetes = [
            "-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD",
            "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
        ];
        assert!(!first_takes("FORWARD", &kubernetes));
        let calico = [
            "-A PREROUTING -m comment --comment \"cali:6gwbT8clXdHdC1b1\" -j cali-PREROUTING",
            "-A cali-PREROUTING -i cali+ -m rpfilter --validmark --invert -j DROP",
            "-A cali-PREROUTING -i cali+ -j MARK --set-xmark 0x40000/0x40000",
            "-A cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ];
        assert!(!first_takes("PREROUTING", &calico));
    }

    #[test]
    fn rules_ahead_in_postrouting_may_only_go_on() {
        let libvirt = [
            "-A POSTROUTING -j LIBVIRT_PRT",
            "-A LIBVIRT_PRT -o virbr0 -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill",
        ];
        let neutron = ["-A POSTROUTING -o tap1 -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill"];
        let returned = ["-A POSTROUTING -j F", "-A F -o eth9 -j RETURN", "-A F -j TOS --set-tos 0x10/0x3f"];
        let dropped = ["-A POSTROUTING -s 203.0.113.16/32 -j DROP"];
        for rules in [&libvirt[..], &neutron, &returned, &dropped] {
            assert!(!first_takes("POSTROUTING", rules), "{rules:?}");
        }
        let accepted = ["-A POSTROUTING -j F", "-A F -o eth0 -j ACCEPT"];
        for rules in [
            &accepted[..],
            &["-A POSTROUTING -j ACCEPT"],
            &["-A POSTROUTING -j RETURN"],
            &["-A POSTROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"],
            &["-A POSTROUTING -j NFQUEUE --queue-num 0"],
        ] {
            assert!(first_takes("POSTROUTING", rules), "{rules:?}");
        }
    }

    #[test]
    fn untracking_rules_ahead_in_raw_may_stay() {
        for (rule, interferes) in [
            ("-A OUTPUT -s 169.254.20.10/32 -p tcp -m tcp --sport 53 -j CT --notrack", false),
            ("-A OUTPUT -j NOTRACK", false),
            ("-A OUTPUT -d 10.0.0.0/8 -j DROP", false),
            ("-A OUTPUT -j CT --zone 5", true),
            ("-A OUTPUT -j ACCEPT", true),
        ] {
            assert_eq!(takes_in("raw", "OUTPUT", &[rule]), interferes, "{rule}");
        }
        assert!(!takes_in("raw", "PREROUTING", &["-A PREROUTING -d 169.254.20.10/32 -j CT --notrack"]));
    }

    #[test]
    fn input_rules_interfere_if_they_drop_intercepted_packets() {
        for (rules, interferes) in [
            (&["-A INPUT -i ens6 -j DROP"][..], true),
            (&["-A INPUT ! -i lo -j DROP"], true),
            (&["-A INPUT -p tcp -m tcp --dport 80 -j DROP"], true),
            (&["-A INPUT -p tcp -m multiport --dports 22,400:500 -j DROP"], true),
            (&["-A INPUT -m comment --comment \"no more\" -j REJECT --reject-with tcp-reset"], true),
            (&["-A INPUT -j FW", "-A FW -i lo -j ACCEPT", "-A FW -j DROP"], true),
            (&["-A INPUT -i eth9 -j DROP"], false),
            (&["-A INPUT -j ACCEPT"], false),
            (&["-A INPUT -p tcp -m tcp --dport 22 -j DROP"], false),
            (&["-A INPUT -p udp -j DROP"], false),
            (&["-A INPUT -s 10.0.1.9/32 -j DROP"], false),
            (&["-A INPUT -p tcp -m tcp --tcp-flags SYN,FIN SYN,FIN -j DROP"], false),
            (&["-A INPUT -m conntrack --ctstate INVALID -j DROP"], false),
            (&["-A INPUT -p tcp -m multiport --dports 22 -j f2b", "-A f2b -j DROP"], false),
            (&["-A INPUT -j KUBE", "-A KUBE ! -s 127.0.0.0/8 -d 127.0.0.0/8 -j DROP"], false),
        ] {
            assert_eq!(takes_in("filter", "INPUT", rules), interferes, "{rules:?}");
        }
    }

    #[test]
    fn interfering_preceding_rules_are_found() {
        for rule in [
            "-A PREROUTING -j ACCEPT",
            "-A PREROUTING -i ens+ -p tcp -j DROP",
            "-A PREROUTING -i veth12 -j RETURN",
            "-A PREROUTING ! -i docker0 -j ACCEPT",
            "-A PREROUTING -m conntrack --ctstate NEW,UNTRACKED -j ACCEPT",
            "-A PREROUTING -m conntrack ! --ctstate ESTABLISHED -j ACCEPT",
            "-A PREROUTING -m mark ! --mark 0x1/0x1 -j ACCEPT",
            "-A PREROUTING -j CT --zone 5",
        ] {
            assert!(first_takes("PREROUTING", &[rule]), "{rule}");
        }
        assert!(first_takes("FORWARD", &["-A FORWARD -j ACCEPT"]));
        let invalid = ["-A PREROUTING -m conntrack --ctstate INVALID -j DROP"];
        assert!(takes_in("raw", "PREROUTING", &invalid) && !takes_in("mangle", "PREROUTING", &invalid));
        assert!(!first_takes("FORWARD", &["-A FORWARD -p tcp -j REJECT"]));
        assert!(first_takes("FORWARD", &["-A FORWARD -j A", "-A A -j B", "-A B -s 10.0.0.0/8 -j ACCEPT"]));
        assert!(first_takes("FORWARD", &["-A FORWARD -j A", "-A A -j A"]));
    }
}
