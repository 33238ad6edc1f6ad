//! Compact digests of a configuration, to find its differences from another.

use super::Config;
use super::settings::TenantLimits;
use super::version::digest;
use crate::audit::{ConfigDifference, ItemCounts, NamedItems};
use crate::egress::PoolSpec;
use crate::policy::{RuleSpec, TenantSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Digests of a configuration's contents. A million names take eight megabytes.
#[derive(Debug, Clone)]
pub struct ConfigDigest {
    tenants: BTreeMap<Arc<str>, TenantDigest>,
    pools: BTreeMap<Arc<str>, u64>,
    /// The single tables, by their header.
    settings: [(&'static str, u64); 8],
}

/// Digests of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TenantDigest {
    /// Digest of everything except its rules, its limits included.
    itself: u64,
    /// Digests of each rule without its label and hosts; ascending.
    rules: Box<[u64]>,
    /// Digests of each host, with the effect of its rule; ascending.
    names: Box<[u64]>,
}

/// Tables that only a restart can change.
const FIXED: [&str; 4] = ["[gateway]", "[inspect]", "[flow_log]", "[audit]"];

impl Config {
    /// Takes over from `running` what only a restart can change.
    pub fn keep_fixed(&mut self, running: &Self) {
        self.gateway = running.gateway.clone();
        self.inspect = running.inspect;
        self.flow_log = running.flow_log.clone();
        self.audit = running.audit.clone();
    }
}

impl ConfigDigest {
    /// Computes the digests in one pass over all names.
    pub fn of(config: &Config) -> Self {
        let Config {
            gateway,
            steering,
            inspect,
            private_destinations,
            private_networks,
            resolver,
            roots,
            revoke,
            watch,
            help,
            flow_log,
            audit,
            pools,
            tenants,
            limits,
        } = config;
        // Shares of tenants count as the tenants', not as the pool's.
        let pool = |spec: &PoolSpec| digest(&PoolSpec { shares: Vec::new(), ..spec.clone() });
        Self {
            tenants: tenants
                .iter()
                .map(|spec| (Arc::clone(&spec.name), TenantDigest::of(spec, limits.get(&spec.name))))
                .collect(),
            pools: pools.iter().map(|spec| (Arc::clone(&spec.name), pool(spec))).collect(),
            settings: [
                ("[gateway]", digest(gateway)),
                ("[steering]", digest(steering)),
                ("[inspect]", digest(inspect)),
                ("[policy]", digest(&(private_destinations, private_networks, revoke, watch, help))),
                ("[resolver]", digest(resolver)),
                ("[certificates]", digest(roots)),
                ("[flow_log]", digest(flow_log)),
                ("[audit]", digest(audit)),
            ],
        }
    }

    /// Returns the differences of `later`.
    pub fn difference(&self, later: &Self) -> ConfigDifference {
        let mut difference = ConfigDifference {
            tenants: named(&self.tenants, &later.tenants),
            pools: named(&self.pools, &later.pools),
            ..ConfigDifference::default()
        };
        for (name, before) in &self.tenants {
            let Some(after) = later.tenants.get(name) else { continue };
            difference.rules += counted(&before.rules, &after.rules);
            difference.names += counted(&before.names, &after.names);
        }
        for ((header, before), (_, after)) in self.settings.iter().zip(&later.settings) {
            if before != after {
                let list =
                    if FIXED.contains(header) { &mut difference.restart } else { &mut difference.settings };
                list.push((*header).to_owned());
            }
        }
        difference
    }

    /// Takes over from `running` what only a restart can change.
    #[must_use]
    pub fn fixed_as_in(mut self, running: &Self) -> Self {
        for (own, (header, digest)) in self.settings.iter_mut().zip(running.settings) {
            if FIXED.contains(&header) {
                *own = (header, digest);
            }
        }
        self
    }
}

impl TenantDigest {
    fn of(spec: &TenantSpec, limits: Option<&TenantLimits>) -> Self {
        let rule =
            |rule: &RuleSpec| digest(&RuleSpec { label: Arc::default(), hosts: Vec::new(), ..rule.clone() });
        let hosts =
            spec.rules.iter().flat_map(|rule| rule.hosts.iter().map(|host| digest(&(rule.effect, host))));
        let mut names: Vec<_> = hosts.collect();
        names.sort_unstable();
        names.dedup();
        let mut rules: Vec<_> = spec.rules.iter().map(rule).collect();
        rules.sort_unstable();
        let itself = digest(&(TenantSpec { rules: Vec::new(), ..spec.clone() }, limits));
        Self { itself, rules: rules.into(), names: names.into() }
    }
}

fn named<T: PartialEq>(before: &BTreeMap<Arc<str>, T>, after: &BTreeMap<Arc<str>, T>) -> NamedItems {
    let mut named = NamedItems::default();
    let mut note = |mark, name: &str| {
        if named.first.len() < NamedItems::MOST {
            named.first.push(format!("{mark}{name}"));
        }
    };
    for (name, _) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        note('+', name);
        named.added += 1;
    }
    for (name, was) in before {
        match after.get(name) {
            None => {
                note('-', name);
                named.removed += 1;
            }
            Some(is) if is != was => {
                note('~', name);
                named.changed += 1;
            }
            Some(_) => {}
        }
    }
    named
}

/// Counts the elements of two ascending lists that are missing in the other.
fn counted(before: &[u64], after: &[u64]) -> ItemCounts {
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    let mut counted = ItemCounts::default();
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a == b => {
                old.next();
                new.next();
            }
            (Some(a), Some(b)) if a < b => {
                counted.removed += 1;
                old.next();
            }
            (Some(_), None) => {
                counted.removed += 1;
                old.next();
            }
            (_, Some(_)) => {
                counted.added += 1;
                new.next();
            }
            (None, None) => return counted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AuditTarget;

    /// Returns the outline of a configuration file.
    fn outline(gateway: &str, rest: &str) -> ConfigDigest {
        ConfigDigest::of(&config(gateway, rest))
    }

    fn config(gateway: &str, rest: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("egret.toml");
        let text = format!(
            "{gateway}\n[steering]\ninterfaces = [\"ens6\"]\n[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.16\"]\n{rest}"
        );
        std::fs::write(&path, text).unwrap();
        crate::config::load(&path).unwrap_or_else(|report| panic!("{report}")).config
    }

    fn tenant(name: &str, number: u8, rules: &str) -> String {
        format!("[[tenant]]\nname = \"{name}\"\nsources = [\"10.0.{number}.0/24\"]\npool = \"p\"\n{rules}")
    }

    #[test]
    fn renaming_and_reordering_is_no_difference() {
        let rule = "[[tenant.allow]]\nhosts = [\"a.example.com\", \"b.example.com\"]\n";
        let here = outline("", &tenant("acme", 1, rule));
        let same =
            "# moved\n\n[[tenant.allow]]\nname = \"x\"\nhosts = [\"b.example.com\", \"A.example.com.\"]\n";
        let there = outline("", &tenant("acme", 1, same));
        assert_eq!(here.difference(&there), ConfigDifference::default());
    }

    #[test]
    fn difference_counts_each_kind() {
        let before = [
            tenant("acme", 1, "[[tenant.allow]]\nhosts = [\"a.example.com\", \"b.example.com\"]\n"),
            tenant("gone", 2, ""),
            tenant("moved", 3, ""),
            tenant("same", 5, ""),
        ];
        let after = [
            tenant(
                "acme",
                1,
                "[[tenant.allow]]\nhosts = [\"b.example.com\", \"c.example.com\", \"d.example.com\"]\n\
                 [[tenant.deny]]\nports = [25]\n",
            ),
            tenant("moved", 4, ""),
            tenant("new", 2, ""),
            tenant("same", 5, ""),
            "[[pool]]\nname = \"q\"\naddresses = [\"203.0.113.17\"]\n".to_owned(),
        ];
        let before = outline("", &before.concat());
        let after =
            outline("[policy]\nprivate_destinations = \"allow\"\n[gateway]\ndrain = \"1s\"", &after.concat());
        let first = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let expected = ConfigDifference {
            tenants: NamedItems {
                added: 1,
                removed: 1,
                changed: 2,
                first: first(&["+new", "~acme", "-gone", "~moved"]),
            },
            pools: NamedItems { added: 1, first: first(&["+q"]), ..NamedItems::default() },
            rules: ItemCounts { added: 1, removed: 0 },
            names: ItemCounts { added: 2, removed: 1 },
            settings: first(&["[policy]"]),
            restart: first(&["[gateway]"]),
        };
        assert_eq!(before.difference(&after), expected);
        // A change that takes a restart is reported until the restart.
        let in_force = after.clone().fixed_as_in(&before);
        assert_eq!(
            in_force.difference(&after),
            ConfigDifference { restart: expected.restart, ..ConfigDifference::default() }
        );
    }

    type Change = fn(&mut Config);

    #[test]
    fn restart_only_settings_survive_reload() {
        let changes: [(&str, Change); 8] = [
            ("[gateway]", |config| config.gateway.drain *= 2),
            ("[steering]", |config| config.steering.mark += 1),
            ("[inspect]", |config| config.inspect.deadline *= 2),
            ("[policy]", |config| config.revoke = !config.revoke),
            ("[resolver]", |config| config.resolver.grace *= 2),
            ("[certificates]", |config| config.roots.system = !config.roots.system),
            ("[flow_log]", |config| config.flow_log.queue += 1),
            ("[audit]", |config| config.audit = AuditTarget::File("/audit".into())),
        ];
        let running = config("", "");
        let before = ConfigDigest::of(&running);
        assert_eq!(changes.len(), before.settings.len());
        for ((header, change), (known, _)) in changes.into_iter().zip(before.settings) {
            assert_eq!(header, known);
            let mut read = running.clone();
            change(&mut read);
            let after = ConfigDigest::of(&read);
            assert_ne!(before.difference(&after), ConfigDifference::default(), "{header}");
            read.keep_fixed(&running);
            let kept = ConfigDigest::of(&read);
            assert_eq!(after.fixed_as_in(&before).difference(&kept), ConfigDifference::default(), "{header}");
        }
    }
}
