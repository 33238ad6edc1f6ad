//! Names by which packet rules are known for Egret's own.

/// Prefix of Egret's chains in the tables of iptables, which others use too.
pub(super) const CHAIN_PREFIX: &str = "EGRET_";

/// Our own table of nftables, of the family `inet`.
pub const NFT_TABLE: &str = "egret";

/// True for a chain of steering's packet rules. `family` as nft spells it.
pub fn is_own_chain(family: &str, table: &str, chain: &str) -> bool {
    (family, table) == ("inet", NFT_TABLE) || chain.starts_with(CHAIN_PREFIX)
}
