//! Programs whose packet rules stand in the way, and how a rule for Egret gets into them.

use super::trace::TraceLine;
use crate::steering::is_own_chain;

/// Program that a rule belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuleOwner {
    Egret,
    Ufw,
    Firewalld,
    Docker,
    Kubernetes,
    Libvirt,
    Fail2ban,
    CloudImage,
    /// The table of /etc/nftables.conf, as Debian's service loads it.
    NftablesService,
    Administrator,
}

impl RuleOwner {
    /// By the names of table and chain; `chains`: those that the packet passed in the same table.
    pub(super) fn of(family: &str, table: &str, chain: &str, chains: &[&TraceLine]) -> Self {
        let named = |prefix: &str| {
            chain.starts_with(prefix)
                || chains.iter().any(|event| event.table == table && event.chain.starts_with(prefix))
        };
        if is_own_chain(family, table, chain) {
            return Self::Egret;
        }
        if table == "firewalld"
            || ["IN_", "INPUT_ZONES", "FWD_"].iter().any(|prefix| chain.starts_with(prefix))
        {
            return Self::Firewalld;
        }
        for (prefix, owner) in [
            ("ufw", Self::Ufw),
            ("DOCKER", Self::Docker),
            ("KUBE-", Self::Kubernetes),
            ("cali-", Self::Kubernetes),
            ("CILIUM_", Self::Kubernetes),
            ("LIBVIRT_", Self::Libvirt),
            ("f2b-", Self::Fail2ban),
            ("InstanceServices", Self::CloudImage),
        ] {
            if named(prefix) {
                return owner;
            }
        }
        if (family, table) == ("inet", "filter") { Self::NftablesService } else { Self::Administrator }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Egret => "Egret's own",
            Self::Ufw => "ufw's",
            Self::Firewalld => "firewalld's",
            Self::Docker => "Docker's",
            Self::Kubernetes => "Kubernetes'",
            Self::Libvirt => "libvirt's",
            Self::Fail2ban => "fail2ban's",
            Self::CloudImage => "the cloud image's",
            Self::NftablesService => "nftables.service's, /etc/nftables.conf",
            Self::Administrator => "not of a program that doctor knows",
        }
    }

    /// Makes rules last that were given to iptables or nft.
    pub(super) fn lasting(self) -> &'static str {
        match self {
            Self::Ufw => {
                "to make them last, put them into /etc/ufw/before.rules (IPv6: before6.rules) after the line \"# End required lines\", \
                 with -A ufw-before-input in place of -I INPUT"
            }
            Self::CloudImage | Self::Docker | Self::Administrator | Self::Libvirt | Self::Fail2ban => {
                "to make them last, run `netfilter-persistent save`, or write them in your firewall's own files"
            }
            Self::NftablesService => "to make them last, put them into /etc/nftables.conf",
            Self::Kubernetes => "to make them last, add them where the network plug-in is configured",
            Self::Firewalld => "to make them last, run `firewall-cmd --runtime-to-permanent`",
            Self::Egret => "to make them last, leave egret-steering.service enabled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_known_by_their_names() {
        for (family, table, chain, owner) in [
            ("inet", "egret", "steer", RuleOwner::Egret),
            ("ip", "mangle", "EGRET_STEER", RuleOwner::Egret),
            ("ip", "filter", "ufw-not-local", RuleOwner::Ufw),
            ("ip6", "filter", "ufw6-not-local", RuleOwner::Ufw),
            ("inet", "firewalld", "filter_INPUT", RuleOwner::Firewalld),
            ("ip", "filter", "DOCKER-USER", RuleOwner::Docker),
            ("inet", "filter", "input", RuleOwner::NftablesService),
            ("ip", "filter", "INPUT", RuleOwner::Administrator),
        ] {
            assert_eq!(RuleOwner::of(family, table, chain, &[]), owner, "{table} {chain}");
        }
    }
}
