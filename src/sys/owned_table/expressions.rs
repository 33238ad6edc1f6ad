//! Builds the expressions of an nf_tables rule (`linux/netfilter/nf_tables.h`).

use crate::family::Family;
use crate::sys::netlink::attribute_of;
use crate::sys::packet_rules::name;

/// The register that every value is loaded into.
const REGISTER: u32 = 1;
/// `NFT_META_IIFNAME`, `NFT_META_NFPROTO`, `NFT_META_L4PROTO`
const META_INTERFACE: u32 = 6;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
/// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `NFT_CMP_EQ` and so on.
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;

/// Matches, and the statements that run if all of them match.
#[derive(Debug, Default)]
pub(in crate::sys) struct NftRule(Vec<u8>);

impl NftRule {
    /// Matches the input interface, by name or prefix.
    pub(in crate::sys) fn arriving_by(self, interface: &str) -> Self {
        let prefix = interface.trim_end_matches(['+', '*']);
        let mut name = prefix.as_bytes().to_vec();
        if prefix.len() == interface.len() {
            name.resize(16, 0); // IFNAMSIZ
        }
        self.meta(META_INTERFACE).compare(EQUAL, &name)
    }

    pub(in crate::sys) fn tcp(self) -> Self {
        self.meta(META_PROTOCOL).compare(EQUAL, &[6])
    }

    /// Matches SYN without FIN, RST and ACK.
    pub(in crate::sys) fn syn(self) -> Self {
        let zero = [0];
        let mask = [number(1, REGISTER), number(2, REGISTER), number(3, 1), data(4, &[0x17]), data(5, &zero)];
        self.payload(TRANSPORT, 13, 1).expression("bitwise", &mask.concat()).compare(EQUAL, &[0x02])
    }

    pub(in crate::sys) fn sent_from_ports(self, first: u16, last: u16) -> Self {
        self.payload(TRANSPORT, 0, 2).within(first, last)
    }

    pub(in crate::sys) fn sent_to_ports(self, first: u16, last: u16) -> Self {
        self.payload(TRANSPORT, 2, 2).within(first, last)
    }

    pub(in crate::sys) fn family(self, family: Family) -> Self {
        let number = match family {
            Family::V4 => 2, // NFPROTO_IPV4
            Family::V6 => 10,
        };
        self.meta(META_FAMILY).compare(EQUAL, &[number])
    }

    /// Matches destinations that are not local to this machine.
    pub(in crate::sys) fn for_others(self) -> Self {
        // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_DADDR; RTN_LOCAL in the machine's byte order
        self.fib(3, 2).compare(UNEQUAL, &2_u32.to_ne_bytes())
    }

    /// Matches destinations without a route.
    pub(in crate::sys) fn without_route(self) -> Self {
        // whether (NFTA_FIB_F_PRESENT) there is an NFT_FIB_RESULT_OIF
        self.fib(1, 2 | 32).compare(EQUAL, &[0])
    }

    /// Matches source addresses in a set.
    pub(in crate::sys) fn sent_by_one_of(self, family: Family, set: &str) -> Self {
        let source = match family {
            Family::V4 => self.payload(NETWORK, 12, 4),
            Family::V6 => self.payload(NETWORK, 8, 16),
        };
        source.lookup(set)
    }

    /// Matches destination addresses in a set.
    pub(in crate::sys) fn sent_to_one_of(self, family: Family, set: &str) -> Self {
        let destination = match family {
            Family::V4 => self.payload(NETWORK, 16, 4),
            Family::V6 => self.payload(NETWORK, 24, 16),
        };
        destination.lookup(set)
    }

    /// Keeps connection tracking off the packet.
    pub(in crate::sys) fn untrack(self) -> Self {
        self.expression("notrack", &[])
    }

    pub(in crate::sys) fn count(self) -> Self {
        self.expression("counter", &[])
    }

    /// Rejects by a TCP reset (`NFT_REJECT_TCP_RST`).
    pub(in crate::sys) fn reset(self) -> Self {
        self.expression("reject", &[number(1, 1), attribute_of(2, &[0])].concat())
    }

    pub(in crate::sys) fn jump(self, chain: &str) -> Self {
        const JUMP: i32 = -3; // NFT_JUMP
        let verdict = attribute_of(2, &[number(1, JUMP.cast_unsigned()), name(2, chain)].concat());
        self.expression("immediate", &[number(1, 0), attribute_of(2, &verdict)].concat())
    }

    pub(in crate::sys) fn expressions(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn meta(self, key: u32) -> Self {
        self.expression("meta", &[number(1, REGISTER), number(2, key)].concat())
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        let body = [number(1, REGISTER), number(2, base), number(3, offset), number(4, length)];
        self.expression("payload", &body.concat())
    }

    fn fib(self, result: u32, flags: u32) -> Self {
        self.expression("fib", &[number(1, REGISTER), number(2, result), number(3, flags)].concat())
    }

    fn lookup(self, set: &str) -> Self {
        self.expression("lookup", &[name(1, set), number(2, REGISTER)].concat())
    }

    fn within(self, first: u16, last: u16) -> Self {
        self.compare(AT_LEAST, &first.to_be_bytes()).compare(AT_MOST, &last.to_be_bytes())
    }

    fn compare(self, how: u32, value: &[u8]) -> Self {
        self.expression("cmp", &[number(1, REGISTER), number(2, how), data(3, value)].concat())
    }

    fn expression(mut self, kind: &str, body: &[u8]) -> Self {
        self.0.extend(attribute_of(1, &[name(1, kind), attribute_of(2, body)].concat()));
        self
    }
}

/// A numeric attribute: nf_tables takes numbers in network byte order.
pub(super) fn number(kind: u16, number: u32) -> Vec<u8> {
    attribute_of(kind, &number.to_be_bytes())
}

/// An attribute with a value to compare with (`NFTA_DATA_VALUE`).
fn data(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute_of(kind, &attribute_of(1, value))
}
