//! Counters that say where packets went: of iptables' rules, and the kernel's own.

use crate::cli::tool::output;
use std::collections::BTreeMap;

/// A rule or a policy that ends packets, with the packets that it has ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndingRule {
    pub(super) table: String,
    pub(super) chain: String,
    /// As `iptables-save` prints it.
    pub(super) rule: String,
}

/// Counters at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters {
    rules: BTreeMap<EndingRule, u64>,
    kernel: BTreeMap<String, u64>,
}

impl Counters {
    /// `traced`: only those of the legacy backend's rules, which a trace does not show.
    pub(super) fn read(v4: bool, traced: bool) -> Self {
        let family = if v4 { "iptables" } else { "ip6tables" };
        let rules = ["-legacy-save -c", "-save -c"]
            .into_iter()
            .take(if traced { 1 } else { 2 })
            .filter_map(|save| output(&format!("{family}{save}")).ok())
            .flat_map(|text| ending_rules(&text))
            .collect();
        let file = |name| std::fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
        let mut kernel = paired(&file("netstat"));
        kernel.extend(paired(&file("snmp")));
        let snmp6 = file("snmp6");
        kernel.extend(snmp6.lines().filter_map(|line| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        }));
        Self { rules, kernel }
    }

    /// True if the kernel has counted this up since.
    pub(super) fn rose(&self, since: &Self, name: &str) -> bool {
        let count = |counters: &Self| counters.kernel.get(name).copied().unwrap_or_default();
        count(self) > count(since)
    }

    /// The rule that ended the most packets since, of any traffic.
    pub(super) fn ended(&self, since: &Self) -> Option<&EndingRule> {
        let rose = |(rule, count): &(&EndingRule, &u64)| {
            **count > since.rules.get(*rule).copied().unwrap_or(**count)
        };
        self.rules
            .iter()
            .filter(rose)
            .max_by_key(|(rule, count)| *count - since.rules[*rule])
            .map(|(rule, _)| rule)
    }
}

/// The rules of `iptables-save -c` that drop or reject, and such policies.
fn ending_rules(text: &str) -> Vec<(EndingRule, u64)> {
    let mut table = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if let Some(policy) = line.strip_prefix(':') {
            let mut words = policy.split(' ');
            if let (Some(chain), Some("DROP"), Some(count)) = (words.next(), words.next(), words.next()) {
                let rule = EndingRule {
                    table: table.clone(),
                    chain: chain.to_owned(),
                    rule: "policy DROP".to_owned(),
                };
                found.extend(packets(count).map(|count| (rule, count)));
            }
        } else if let Some((count, rule)) = line.split_once(" -A ") {
            let ends = ["-j DROP", "-j REJECT"].iter().any(|target| rule.contains(target));
            if let Some(chain) = rule.split(' ').next().filter(|_| ends) {
                let rule =
                    EndingRule { table: table.clone(), chain: chain.to_owned(), rule: format!("-A {rule}") };
                found.extend(packets(count).map(|count| (rule, count)));
            }
        }
    }
    found
}

/// `[PACKETS:BYTES]`
fn packets(counter: &str) -> Option<u64> {
    counter.trim_start_matches('[').split(':').next()?.parse().ok()
}

/// The form of /proc/net/netstat: a line of names, a line of values.
fn paired(text: &str) -> BTreeMap<String, u64> {
    let lines: Vec<_> = text.lines().collect();
    let pairs = lines.chunks_exact(2).flat_map(|pair| {
        let prefix = pair[0].split(':').next().unwrap_or_default();
        let prefix = prefix.strip_suffix("Ext").unwrap_or(prefix);
        let (names, values) = (pair[0].split_whitespace().skip(1), pair[1].split_whitespace().skip(1));
        names
            .zip(values)
            .filter_map(move |(name, value)| Some((format!("{prefix}{name}"), value.parse().ok()?)))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "*filter\n:INPUT DROP [1:60]\n:FORWARD ACCEPT [0:0]\n\
        [5:300] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n[2:120] -A INPUT -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n";

    #[test]
    fn rule_that_counted_up_is_found() {
        let counters =
            |text: &str| Counters { rules: ending_rules(text).into_iter().collect(), ..Counters::default() };
        let (before, after) = (counters(SAVED), counters(&SAVED.replace("[2:120]", "[4:240]")));
        let rule = after.ended(&before).unwrap();
        assert_eq!((&*rule.table, &*rule.chain), ("filter", "INPUT"));
        assert_eq!(rule.rule, "-A INPUT -j REJECT --reject-with icmp-host-prohibited");
        assert_eq!(before.ended(&before), None);
        let by_policy = counters(&SAVED.replace("[1:60]", "[3:180]"));
        assert_eq!(by_policy.ended(&before).unwrap().rule, "policy DROP");
    }

    #[test]
    fn kernels_counters_are_read() {
        let text = "TcpExt: SyncookiesSent IPReversePathFilter\nTcpExt: 0 3\nIpExt: InNoRoutes\nIpExt: 7\n";
        let read = paired(text);
        assert_eq!(read.get("TcpIPReversePathFilter"), Some(&3));
        assert_eq!(read.get("IpInNoRoutes"), Some(&7));
    }
}
