//! Counters of the packet rules in nf_tables, which nft and iptables with the nft backend fill. Needs `CAP_NET_ADMIN`.

use super::netlink::{Netlink, Want, array_at};
use nix::sys::socket::SockProtocol;
use std::io;
use std::time::Duration;

/// How long the kernel may take for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type, with `NFT_MSG_GETOBJ` and `NFT_MSG_GETRULE`.
const GET_OBJECTS: u16 = (10 << 8) + 19;
const GET_RULES: u16 = 10 << 8 | 7;
/// `struct nfgenmsg`: family, version, resource.
const HEADER: usize = 4;
/// Bits of an attribute's type that are not its number: `NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`.
const FLAGS: u16 = 0xc000;

/// `NFPROTO_INET`, `NFPROTO_IPV4`, `NFPROTO_IPV6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TableFamily {
    /// Both families.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// IPv6.
    Ip6 = 10,
}

/// The named counters of a table with their packets.
pub fn of_table(family: TableFamily, table: &str) -> io::Result<Vec<(String, u64)>> {
    // NFTA_OBJ_TABLE, NFTA_OBJ_NAME, NFTA_OBJ_DATA
    ask(GET_OBJECTS, family, &[(1, table)], |body| {
        let name = text(attribute(body, 2)?)?;
        Some((name, packets(attribute(body, 4)?)?))
    })
}

/// The packets of each rule of a chain that has a comment, by the comment; a comment may be there more than once.
pub fn of_chain(family: TableFamily, table: &str, chain: &str) -> io::Result<Vec<(String, u64)>> {
    // NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS
    ask(GET_RULES, family, &[(1, table), (2, chain)], |body| {
        let ours = text(attribute(body, 2)?)? == chain;
        counted_comment(attribute(body, 4)?).filter(|_| ours)
    })
}

/// The comment of a rule of iptables and its count, out of the list of its expressions.
fn counted_comment(expressions: &[u8]) -> Option<(String, u64)> {
    let (mut comment, mut count) = (None, None);
    for (_, expression) in attributes(expressions) {
        // NFTA_EXPR_NAME, NFTA_EXPR_DATA
        let (Some(name), Some(data)) = (attribute(expression, 1), attribute(expression, 2)) else { continue };
        match text(name)?.as_str() {
            "counter" => count = packets(data),
            // NFTA_MATCH_NAME, NFTA_MATCH_INFO: struct xt_comment_info is the text
            "match" if text(attribute(data, 1)?)? == "comment" => comment = text(attribute(data, 3)?),
            _ => {}
        }
    }
    Some((comment?, count?))
}

/// `NFTA_COUNTER_PACKETS`, in network byte order.
fn packets(counter: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(array_at(attribute(counter, 2)?, 0)?))
}

fn ask<T>(
    kind: u16,
    family: TableFamily,
    names: &[(u16, &str)],
    read: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Vec<T>> {
    let mut request = vec![family as u8, 0, 0, 0];
    for (kind, name) in names {
        let length = u16::try_from(4 + name.len() + 1).map_err(io::Error::other)?;
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(name.as_bytes());
        request.push(0);
        request.resize(request.len().next_multiple_of(4), 0);
    }
    let mut found = Vec::new();
    let deadline = crate::clock::now() + PATIENCE;
    let netlink = Netlink::open(SockProtocol::NetlinkNetFilter)?;
    netlink.ask(kind, Want::List, &request, deadline, |_, body| {
        found.extend(body.get(HEADER..).and_then(&read));
        Ok(())
    })?;
    Ok(found)
}

/// What stands before the first NUL.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).ok().map(ToOwned::to_owned)
}

/// The value of the first attribute of a kind.
fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Kind and value of each: `struct nlattr` is length, kind, value, and begins at multiples of 4.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(array_at(bytes, 0)?));
        let kind = u16::from_ne_bytes(array_at(bytes, 2)?) & !FLAGS;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut all = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        all.extend(kind.to_ne_bytes());
        all.extend(value);
        all.resize(all.len().next_multiple_of(4), 0);
        all
    }

    fn expression(name: &str, data: &[u8]) -> Vec<u8> {
        attr(0x8001, &[attr(1, format!("{name}\0").as_bytes()), attr(0x8002, data)].concat())
    }

    #[test]
    fn a_rule_is_counted_by_its_comment() {
        let counter =
            expression("counter", &[attr(1, &9u64.to_be_bytes()), attr(2, &7u64.to_be_bytes())].concat());
        let comment = expression("match", &[attr(1, b"comment\0"), attr(3, b"unsteered_dns\0\0\0")].concat());
        let other = expression("match", &[attr(1, b"udp\0"), attr(3, &[0; 16])].concat());
        let rule = [other.clone(), comment.clone(), counter.clone()].concat();
        assert_eq!(counted_comment(&rule), Some(("unsteered_dns".to_owned(), 7)));
        assert_eq!(counted_comment(&[other, counter].concat()), None);
        assert_eq!(counted_comment(&comment), None);
        for cut in 0..rule.len() {
            let _ = counted_comment(&rule[..cut]);
        }
    }

    #[test]
    fn attributes_end_where_their_bytes_do() {
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[attr(1, b"x"), vec![1]].concat()).count(), 1);
    }
}
