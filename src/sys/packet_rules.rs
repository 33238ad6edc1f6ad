//! Reads the packet rules of this network namespace, chain by chain: those of nf_tables (nft, and iptables with the nft
//! backend) over netlink, those of the legacy iptables by socket options.
//!
//! Needs `CAP_NET_ADMIN` alone. With nf_tables the cost does not depend on the number of other programs' rules.

mod ahead;
pub mod counts;
mod legacy;
mod rule;

pub use rule::{Ahead, ListedChain, PacketChain, PacketEffect, PacketRule, TableFamily};

use ahead::ahead;
use rule::be32;

use super::netlink::{Netlink, Want, array_at, attribute, attribute_of, attributes, malformed, text};
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

/// The packet filter that holds the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// nf_tables.
    NfTables,
    /// The legacy iptables.
    Legacy,
}

/// The ruleset's generation, which each change of nf_tables increments; `None` where the kernel has no nf_tables.
pub fn generation() -> io::Result<Option<u32>> {
    let mut generation = 0;
    let asked = ask(GET_GENERATION, Want::One, 0, &[], |body| {
        generation = be32(attribute(body, 1).ok_or_else(malformed)?)?;
        Ok(())
    });
    Ok(unless_absent(asked)?.map(|()| generation))
}

/// Turns an error of a kernel without nf_tables into `None`: without that service of nfnetlink, or without nfnetlink.
fn unless_absent(asked: io::Result<()>) -> io::Result<Option<()>> {
    match asked {
        Ok(()) => Ok(Some(())),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::EPROTONOSUPPORT | libc::EOPNOTSUPP)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// True if nf_tables has the table.
pub fn has_table(family: TableFamily, table: &str) -> io::Result<bool> {
    Ok(found(ask(GET_TABLE, Want::One, family as u8, &name(1, table), |_| Ok(())))?.is_some())
}

/// True if nf_tables has the table switched off, so that no packet meets its rules.
pub fn is_dormant(family: TableFamily, table: &str) -> io::Result<bool> {
    /// `NFT_TABLE_F_DORMANT`
    const DORMANT: u32 = 1;
    let mut flags = 0;
    let asked = ask(GET_TABLE, Want::One, family as u8, &name(1, table), |body| {
        // NFTA_TABLE_FLAGS
        flags = attribute(body, 2).map_or(Ok(0), be32)?;
        Ok(())
    });
    Ok(found(asked)?.is_some() && flags & DORMANT != 0)
}

/// Lists the chains of a table of nf_tables, at a cost that grows with the number of the family's chains.
pub fn chains(family: TableFamily, table: &str) -> io::Result<Vec<ListedChain>> {
    /// `NF_DROP`
    const DROP: u32 = 0;
    let mut found = Vec::new();
    ask(GET_CHAIN, Want::List, family as u8, &name(1, table), |body| {
        // NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY: kernels list the chains of other tables, too
        if attribute(body, 1).map(text).as_deref() == Some(table) {
            let drops = attribute(body, 5).map(be32).transpose()? == Some(DROP);
            found.push(ListedChain { name: attribute(body, 3).map(text).unwrap_or_default(), drops });
        }
        Ok(())
    })?;
    Ok(found)
}

/// Reads a chain; `None` if it does not exist.
pub fn chain(
    backend: Backend,
    family: TableFamily,
    table: &str,
    chain: &str,
) -> io::Result<Option<PacketChain>> {
    match backend {
        Backend::NfTables => chain_of_nf_tables(family, table, chain),
        Backend::Legacy => legacy::chain(family, table, chain),
    }
}

/// True if the legacy iptables are loaded. Otherwise their chains must not be read: reading a table creates it.
pub use legacy::is_loaded as legacy_is_loaded;

fn chain_of_nf_tables(family: TableFamily, table: &str, chain: &str) -> io::Result<Option<PacketChain>> {
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
    let Some(table_handle) = table_handle(family, table)? else { return Ok(None) };
    let mut rules = Vec::new();
    let request = [name(1, table), name(2, chain)].concat();
    let listed = ask(GET_RULE, Want::List, family as u8, &request, |body| {
        // Kernels list the chain that was asked for; one that lists more is not misread.
        if attribute(body, 2).map(text) == Some(chain.to_owned()) {
            let ahead = ahead(body);
            let target = match &ahead.effect {
                PacketEffect::Jump(chain) => Some(chain.clone()),
                PacketEffect::None | PacketEffect::Return | PacketEffect::Drop | PacketEffect::Take => None,
            };
            rules.push(PacketRule {
                id: identity(&table_handle, body),
                target,
                by_address: ahead::is_by_address(body),
                ahead,
                listener: listener(body),
            });
        }
        Ok(())
    });
    Ok(found(listed)?.map(|()| PacketChain { hook, rules }))
}

/// Expressions with a state that packets change, which is excluded from the digest.
const COUNTING: [&str; 5] = ["counter", "quota", "limit", "connlimit", "last"];

/// The number of a table, which no later one of its name has.
fn table_handle(family: TableFamily, table: &str) -> io::Result<Option<Vec<u8>>> {
    let mut handle = Vec::new();
    let asked = ask(GET_TABLE, Want::One, family as u8, &name(1, table), |body| {
        // NFTA_TABLE_HANDLE
        handle = attribute(body, 4).unwrap_or_default().to_vec();
        Ok(())
    });
    Ok(found(asked)?.map(|()| handle))
}

/// Digest of the table's handle, the rule's handle and its expressions. Handles of rules begin anew in each table, and a
/// replacement inherits its rule's.
fn identity(table_handle: &[u8], rule: &[u8]) -> u64 {
    let mut digest = DefaultHasher::new();
    table_handle.hash(&mut digest);
    attribute(rule, 3).hash(&mut digest);
    for (_, expression) in attributes(attribute(rule, 4).unwrap_or_default()) {
        let kind = attribute(expression, 1).map(text).unwrap_or_default();
        let says = attribute(expression, 2).filter(|_| !COUNTING.contains(&&*kind));
        (kind, says).hash(&mut digest);
    }
    digest.finish()
}

/// The port of the listener that a rule hands packets to: by `tproxy`, from a register, or by iptables' target.
fn listener(rule: &[u8]) -> Option<u16> {
    let mut loaded: Vec<(u32, u16)> = Vec::new();
    for (_, expression) in attributes(attribute(rule, 4).unwrap_or_default()) {
        let kind = attribute(expression, 1).map(text).unwrap_or_default();
        let data = attribute(expression, 2).unwrap_or_default();
        let number = |kind| attribute(data, kind).and_then(|value| be32(value).ok());
        match &*kind {
            // NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA with NFTA_DATA_VALUE
            "immediate" => {
                let value = attribute(data, 2).and_then(|data| attribute(data, 1));
                let port = value.and_then(|value| array_at(value, 0)).map(u16::from_be_bytes);
                loaded.extend(number(1).zip(port));
            }
            // NFTA_TPROXY_REG_PORT
            "tproxy" => {
                let register = number(3)?;
                return loaded.iter().rev().find(|(loaded, _)| *loaded == register).map(|(_, port)| *port);
            }
            // NFTA_TARGET_NAME, NFTA_TARGET_REV, NFTA_TARGET_INFO
            "target" if attribute(data, 1).map(text).as_deref() == Some("TPROXY") => {
                return rule::listener_of_target(number(2)?, attribute(data, 3)?);
            }
            _ => {}
        }
    }
    None
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unanswered_question_is_not_absence() {
        for (errno, absent) in [
            (libc::EINVAL, true),
            (libc::EPROTONOSUPPORT, true),
            (libc::EPERM, false),
            (libc::ENOBUFS, false),
        ] {
            let asked = unless_absent(Err(io::Error::from_raw_os_error(errno)));
            assert_eq!(asked.is_ok_and(|found| found.is_none()), absent, "{errno}");
        }
        assert!(unless_absent(Err(io::ErrorKind::TimedOut.into())).is_err());
    }
}
