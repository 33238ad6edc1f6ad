//! Reads the packet rules of this network namespace, chain by chain: those of nf_tables (nft, and iptables with the nft
//! backend) over netlink, those of the legacy iptables by socket options.
//!
//! Needs `CAP_NET_ADMIN` alone. With nf_tables the cost does not depend on the number of other programs' rules.

pub mod counts;
mod legacy;

use super::netlink::{Netlink, Want, attribute, attribute_of, attributes, malformed};
use nix::sys::socket::SockProtocol;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::time::Duration;

/// Longest wait for one answer of the kernel.
const PATIENCE: Duration = Duration::from_secs(2);
/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
pub(super) const NF_TABLES: u16 = 10 << 8;
/// `NFT_MSG_GETTABLE`, `NFT_MSG_GETCHAIN`, `NFT_MSG_GETRULE`, `NFT_MSG_GETGEN`
const GET_TABLE: u16 = NF_TABLES | 1;
const GET_CHAIN: u16 = NF_TABLES | 4;
const GET_RULE: u16 = NF_TABLES | 7;
const GET_GENERATION: u16 = NF_TABLES | 16;
/// `struct nfgenmsg`: family, version, resource.
const HEADER: usize = 4;

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum TableFamily {
    /// Both families, in one table (`NFPROTO_INET`).
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// IPv6.
    Ip6 = 10,
}

/// The packet filter that holds the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// nf_tables.
    NfTables,
    /// The legacy iptables.
    Legacy,
}

/// The rules of a chain, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Hook and priority, as the kernel numbers them; `None` for a chain that is only jumped to.
    pub hook: Option<(u32, i32)>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// A digest of the rule's content, and of its handle in nf_tables: there, a rule that is loaded again has another digest.
    pub id: u64,
    /// The chain that it jumps or goes to.
    pub target: Option<String>,
}

/// The ruleset's generation, which each change of nf_tables increments. Fails where the kernel has no nf_tables.
pub fn generation() -> io::Result<u32> {
    let mut generation = 0;
    ask(GET_GENERATION, Want::One, 0, &[], |body| {
        generation = be32(attribute(body, 1).ok_or_else(malformed)?)?;
        Ok(())
    })?;
    Ok(generation)
}

/// True if nf_tables has the table.
pub fn has_table(family: TableFamily, table: &str) -> io::Result<bool> {
    Ok(found(ask(GET_TABLE, Want::One, family as u8, &name(1, table), |_| Ok(())))?.is_some())
}

/// Reads a chain; `None` if there is none of that name.
pub fn chain(backend: Backend, family: TableFamily, table: &str, chain: &str) -> io::Result<Option<Chain>> {
    match backend {
        Backend::NfTables => chain_of_nf_tables(family, table, chain),
        Backend::Legacy => legacy::chain(family, table, chain),
    }
}

/// True if the legacy iptables are loaded. Otherwise their chains must not be read: reading a table creates it.
pub use legacy::is_loaded as legacy_is_loaded;

fn chain_of_nf_tables(family: TableFamily, table: &str, chain: &str) -> io::Result<Option<Chain>> {
    let mut hook = None;
    let request = [name(1, table), name(3, chain)].concat();
    let asked = ask(GET_CHAIN, Want::One, family as u8, &request, |body| {
        if let Some(nested) = attribute(body, 4) {
            let number = be32(attribute(nested, 1).ok_or_else(malformed)?)?;
            let priority = be32(attribute(nested, 2).ok_or_else(malformed)?)?;
            hook = Some((number, priority.cast_signed()));
        }
        Ok(())
    });
    if found(asked)?.is_none() {
        return Ok(None);
    }
    let mut rules = Vec::new();
    let request = [name(1, table), name(2, chain)].concat();
    let listed = ask(GET_RULE, Want::List, family as u8, &request, |body| {
        // Kernels list the chain that was asked for; one that lists more is not misread.
        if attribute(body, 2).map(text) == Some(chain.to_owned()) {
            rules.push(Rule { id: identity(body), target: target(body) });
        }
        Ok(())
    });
    Ok(found(listed)?.map(|()| Chain { hook, rules }))
}

/// Expressions with a state that packets change; it is left out of the digest.
const COUNTING: [&str; 5] = ["counter", "quota", "limit", "connlimit", "last"];

/// A digest of handle and expressions. The handle alone does not do: a replacement inherits it.
fn identity(rule: &[u8]) -> u64 {
    let mut digest = DefaultHasher::new();
    attribute(rule, 3).hash(&mut digest);
    for (_, expression) in attributes(attribute(rule, 4).unwrap_or_default()) {
        let kind = attribute(expression, 1).map(text).unwrap_or_default();
        let says = attribute(expression, 2).filter(|_| !COUNTING.contains(&&*kind));
        (kind, says).hash(&mut digest);
    }
    digest.finish()
}

/// The chain that the rule's verdict jumps or goes to.
fn target(rule: &[u8]) -> Option<String> {
    attributes(attribute(rule, 4)?).find_map(|(_, expression)| {
        if text(attribute(expression, 1)?) != "immediate" {
            return None;
        }
        // NFTA_EXPR_DATA, NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CHAIN
        let verdict = attribute(attribute(attribute(expression, 2)?, 2)?, 2)?;
        attribute(verdict, 2).map(text)
    })
}

fn ask(
    kind: u16,
    want: Want,
    family: u8,
    attributes: &[u8],
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let netlink = Netlink::open(SockProtocol::NetlinkNetFilter)?;
    let mut request = vec![family, 0, 0, 0];
    request.extend(attributes);
    let deadline = crate::clock::now() + PATIENCE;
    netlink.ask(kind, want, &request, deadline, |_, body| each(body.get(HEADER..).ok_or_else(malformed)?))
}

/// Turns `ENOENT` into `None`.
fn found(asked: io::Result<()>) -> io::Result<Option<()>> {
    match asked {
        Ok(()) => Ok(Some(())),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn name(kind: u16, name: &str) -> Vec<u8> {
    attribute_of(kind, &[name.as_bytes(), &[0]].concat())
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn be32(value: &[u8]) -> io::Result<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(malformed)
}
