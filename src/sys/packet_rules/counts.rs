//! Packet counters of nf_tables, which nft and iptables with the nft backend fill.

use super::{GET_RULE, NF_TABLES, TableFamily, ask, name, text};
use crate::sys::netlink::{Want, attribute, attributes};
use std::io;

/// `NFT_MSG_GETOBJ`
const GET_OBJECT: u16 = NF_TABLES | 0x13;

/// Returns the named counters of a table, with their packets.
pub fn of_table(family: TableFamily, table: &str) -> io::Result<Vec<(String, u64)>> {
    let mut counters = Vec::new();
    ask(GET_OBJECT, Want::List, family as u8, &name(1, table), |body| {
        counters.extend(named_counter(body));
        Ok(())
    })?;
    Ok(counters)
}

/// Returns comment and packets of each rule of a chain with a comment, which several rules may share.
pub fn of_chain(family: TableFamily, table: &str, chain: &str) -> io::Result<Vec<(String, u64)>> {
    let mut counters = Vec::new();
    each_rule(family, table, chain, |expressions| counters.extend(counted_comment(expressions)))?;
    Ok(counters)
}

/// Returns the sum of the packet counters of a chain's rules.
pub(in crate::sys) fn total(family: TableFamily, table: &str, chain: &str) -> io::Result<u64> {
    let mut total = 0;
    each_rule(family, table, chain, |expressions| {
        let counters = attributes(expressions).filter_map(|(_, expression)| {
            let is_counter = text(attribute(expression, 1)?) == "counter";
            if is_counter { packets(attribute(expression, 2)?) } else { None }
        });
        total += counters.sum::<u64>();
    })?;
    Ok(total)
}

/// Calls `each` with the expressions of every rule of a chain (`NFTA_RULE_EXPRESSIONS`).
fn each_rule(family: TableFamily, table: &str, chain: &str, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let request = [name(1, table), name(2, chain)].concat();
    ask(GET_RULE, Want::List, family as u8, &request, |body| {
        // Kernels list the chain that was asked for; one that lists more is not misread.
        if attribute(body, 2).is_some_and(|name| text(name) == chain) {
            each(attribute(body, 4).unwrap_or_default());
        }
        Ok(())
    })
}

/// Parses name and packets of a counter: `NFTA_OBJ_NAME`, `NFTA_OBJ_DATA`.
fn named_counter(object: &[u8]) -> Option<(String, u64)> {
    Some((text(attribute(object, 2)?), packets(attribute(object, 4)?)?))
}

/// Parses comment and packets of an iptables rule from its expressions.
fn counted_comment(expressions: &[u8]) -> Option<(String, u64)> {
    let (mut comment, mut count) = (None, None);
    for (_, expression) in attributes(expressions) {
        // NFTA_EXPR_NAME, NFTA_EXPR_DATA
        let (Some(name), Some(data)) = (attribute(expression, 1), attribute(expression, 2)) else { continue };
        match text(name).as_str() {
            "counter" => count = packets(data),
            // NFTA_MATCH_NAME, NFTA_MATCH_INFO: struct xt_comment_info is the text
            "match" if text(attribute(data, 1)?) == "comment" => comment = Some(text(attribute(data, 3)?)),
            _ => {}
        }
    }
    Some((comment?, count?))
}

/// Parses `NFTA_COUNTER_PACKETS`, in network byte order.
fn packets(counter: &[u8]) -> Option<u64> {
    attribute(counter, 2)?.first_chunk().copied().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink::attribute_of;

    fn expression(name: &str, data: &[u8]) -> Vec<u8> {
        attribute_of(
            0x8001,
            &[attribute_of(1, format!("{name}\0").as_bytes()), attribute_of(0x8002, data)].concat(),
        )
    }

    #[test]
    fn rule_is_counted_by_its_comment() {
        let counter = expression(
            "counter",
            &[attribute_of(1, &9u64.to_be_bytes()), attribute_of(2, &7u64.to_be_bytes())].concat(),
        );
        let comment = expression(
            "match",
            &[attribute_of(1, b"comment\0"), attribute_of(3, b"unsteered_dns\0\0\0")].concat(),
        );
        let other = expression("match", &[attribute_of(1, b"udp\0"), attribute_of(3, &[0; 16])].concat());
        let rule = [other.clone(), comment.clone(), counter.clone()].concat();
        assert_eq!(counted_comment(&rule), Some(("unsteered_dns".to_owned(), 7)));
        assert_eq!(counted_comment(&[other, counter].concat()), None);
        assert_eq!(counted_comment(&comment), None);
        for cut in 0..rule.len() {
            let _ = counted_comment(&rule[..cut]);
        }
    }
}
