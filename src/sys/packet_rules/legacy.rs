//! The legacy iptables. A table is one block of entries, which `getsockopt` copies (`net/ipv4/netfilter/ip_tables.c`).

use super::rule::{listener_of_target, untracks};
use super::{Ahead, PacketChain, PacketEffect, PacketRule, TableFamily};
use crate::sys::netlink::{array_at, malformed, text, u32_at};
use socket2::{Domain, Socket, Type};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`; IPv6's have the same numbers.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// `struct ipt_getinfo`: name, valid hooks, five hook entries, five underflows, number and size of entries.
const INFO: usize = 84;
/// `struct ipt_get_entries` before the entries: name and size, padded for the counters' sake.
const ENTRIES: usize = 40;
/// Bound on the size of a table.
const MOST: u32 = 64 * 1024 * 1024;
/// The names of the hooks by their numbers.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// Verdicts of the standard target: `-NF_DROP - 1` and `XT_RETURN`.
const DROPS: i32 = -1;
const RETURNS: i32 = -5;
/// `struct xt_entry_target`: size, then name and revision; its data after it.
const TARGET: usize = 32;

/// Layout of an entry: `struct ipt_entry`, `struct ip6t_entry`.
#[derive(Clone, Copy)]
struct Form {
    /// Size of the part that matches addresses and interfaces, which comes first.
    addresses: usize,
    /// Offset of the masks of source and destination, which are zero where any address matches.
    masks: usize,
    /// Offset of the name of the input interface, which comes behind the masks.
    comes_by: usize,
    /// Offset of the flags that invert matches.
    inverted: usize,
    /// Offset of matches and target, behind the counters.
    matches: usize,
}

const V4: Form = Form { addresses: 84, masks: 8, comes_by: 16, inverted: 83, matches: 112 };
const V6: Form = Form { addresses: 136, masks: 32, comes_by: 64, inverted: 132, matches: 168 };
/// `IPT_INV_VIA_IN`, `IP6T_INV_VIA_IN`
const NOT_BY_INTERFACE: u8 = 1;
/// `IPT_INV_SRCIP`, `IPT_INV_DSTIP`, and the same of IPv6.
const NOT_BY_ADDRESS: u8 = 0x18;

/// True if the legacy iptables are loaded for the family.
pub fn is_loaded(family: TableFamily) -> bool {
    let list = match family {
        TableFamily::Ip => "/proc/net/ip_tables_names",
        TableFamily::Ip6 => "/proc/net/ip6_tables_names",
        TableFamily::Inet => return false,
    };
    Path::new(list).exists()
}

pub(super) fn chain(family: TableFamily, table: &str, chain: &str) -> io::Result<Option<PacketChain>> {
    let (domain, level, form) = match family {
        TableFamily::Ip => (Domain::IPV4, libc::IPPROTO_IP, V4),
        TableFamily::Ip6 => (Domain::IPV6, libc::IPPROTO_IPV6, V6),
        TableFamily::Inet => return Ok(None),
    };
    let socket: OwnedFd = match Socket::new(domain, Type::DGRAM, None) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(None),
        other => other?.into(),
    };
    let mut name = [0; 32];
    let room = name.get_mut(..table.len()).filter(|room| room.len() < 32).ok_or_else(malformed)?;
    room.copy_from_slice(table.as_bytes());
    let mut info = vec![0; INFO];
    info[..32].copy_from_slice(&name);
    match get(&socket, level, GET_INFO, &mut info) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => {
            return Ok(None);
        }
        other => other?,
    }
    let size = u32_at(&info, 80).filter(|size| *size <= MOST).ok_or_else(malformed)?;
    let mut entries = vec![0; ENTRIES + size as usize];
    entries[..32].copy_from_slice(&name);
    entries[32..36].copy_from_slice(&size.to_ne_bytes());
    get(&socket, level, GET_ENTRIES, &mut entries)?;
    let hooks: [Option<usize>; 5] = std::array::from_fn(|hook| {
        let is_there = u32_at(&info, 32).is_some_and(|valid| valid >> hook & 1 == 1);
        u32_at(&info, 36 + 4 * hook).filter(|_| is_there).map(|at| at as usize)
    });
    Ok(LegacyTable { entries: &entries[ENTRIES..], form, hooks }.chain(chain))
}

struct LegacyTable<'a> {
    entries: &'a [u8],
    form: Form,
    /// Offsets of the built-in chains.
    hooks: [Option<usize>; 5],
}

/// An entry of a table.
struct LegacyEntry<'a> {
    at: usize,
    bytes: &'a [u8],
    target: &'a [u8],
}

impl LegacyTable<'_> {
    fn entries(&self) -> impl Iterator<Item = LegacyEntry<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = self.entries.get(at..)?;
            // after the addresses: cache bits, offset of the target, offset of the next entry
            let target: [u8; 2] = array_at(rest, self.form.addresses + 4)?;
            let next: [u8; 2] = array_at(rest, self.form.addresses + 6)?;
            let (target, next) = (u16::from_ne_bytes(target).into(), usize::from(u16::from_ne_bytes(next)));
            let bytes = rest.get(..next).filter(|bytes| !bytes.is_empty())?;
            let entry = LegacyEntry { at, bytes, target: bytes.get(target..)? };
            at += next;
            Some(entry)
        })
    }

    /// Offset of a chain's first rule. A user-defined chain begins behind an entry that holds its name.
    fn start(&self, chain: &str) -> Option<usize> {
        match HOOKS.iter().position(|hook| *hook == chain) {
            Some(hook) => self.hooks[hook],
            None => self
                .entries()
                .find(|entry| entry.chain().as_deref() == Some(chain))
                .map(|entry| entry.at + entry.bytes.len()),
        }
    }

    /// The rules of a chain, without the last entry, which is the policy or the implicit return.
    fn chain(&self, chain: &str) -> Option<PacketChain> {
        let start = self.start(chain)?;
        let ends = |entry: &LegacyEntry<'_>| {
            entry.chain().is_some() || self.hooks.contains(&Some(entry.at)) && entry.at != start
        };
        let body = self.entries().skip_while(|entry| entry.at < start).take_while(|entry| !ends(entry));
        let mut rules: Vec<_> = body.map(|entry| self.rule(&entry)).collect();
        rules.pop();
        Some(PacketChain { hook: None, rules })
    }

    fn rule(&self, entry: &LegacyEntry<'_>) -> PacketRule {
        let mut digest = DefaultHasher::new();
        // without the counters and the mask of hooks, which the kernel writes
        (entry.bytes.get(..self.form.addresses), entry.bytes.get(self.form.matches..)).hash(&mut digest);
        let jump = entry.jump().and_then(|to| {
            let before = self.entries().find(|entry| entry.at + entry.bytes.len() == to)?;
            before.chain()
        });
        let effect = jump.clone().map_or_else(|| entry.effect(), PacketEffect::Jump);
        let ahead = Ahead { comes_by: self.comes_by(entry), is_narrow: true, effect, ..Ahead::taking() };
        let by_address = self.is_by_address(entry);
        PacketRule { id: digest.finish(), target: jump, ahead, by_address, listener: entry.listener() }
    }

    fn is_by_address(&self, entry: &LegacyEntry<'_>) -> bool {
        let masks = entry.bytes.get(self.form.masks..self.form.comes_by).unwrap_or_default();
        let is_negated = entry.bytes.get(self.form.inverted).is_none_or(|flags| flags & NOT_BY_ADDRESS != 0);
        masks.iter().any(|byte| *byte != 0) && !is_negated
    }

    /// The interface that the rule is about, or the pattern as iptables writes it.
    fn comes_by(&self, entry: &LegacyEntry<'_>) -> Option<String> {
        let name =
            entry.bytes.get(self.form.comes_by..).and_then(|rest| rest.get(..libc::IFNAMSIZ)).map(text)?;
        let inverted = entry.bytes.get(self.form.inverted)? & NOT_BY_INTERFACE != 0;
        (!name.is_empty() && !inverted).then_some(name)
    }
}

impl LegacyEntry<'_> {
    /// The name of the chain that begins behind this entry, if one does.
    fn chain(&self) -> Option<String> {
        (self.target_name() == "ERROR").then(|| text(self.target.get(TARGET..).unwrap_or_default()))
    }

    /// The offset that the standard target jumps to, unless it is a verdict, which is negative.
    fn jump(&self) -> Option<usize> {
        let verdict = i32::from_ne_bytes(array_at(self.target, TARGET)?);
        self.target_name().is_empty().then(|| usize::try_from(verdict).ok())?
    }

    /// Its effect, unless it jumps.
    fn effect(&self) -> PacketEffect {
        let name = self.target_name();
        let info = self.target.get(TARGET..).unwrap_or_default();
        if !name.is_empty() {
            return PacketEffect::of_target(&name, untracks(info));
        }
        match array_at(info, 0).map(i32::from_ne_bytes) {
            Some(DROPS) => PacketEffect::Drop,
            // A rule without a target leads to the next one.
            Some(to) if usize::try_from(to) == Ok(self.at + self.bytes.len()) => PacketEffect::None,
            Some(RETURNS) => PacketEffect::Return,
            Some(_) | None => PacketEffect::Take,
        }
    }

    fn listener(&self) -> Option<u16> {
        let revision = u32::from(*self.target.get(TARGET - 1)?);
        let info = self.target.get(TARGET..).filter(|_| self.target_name() == "TPROXY")?;
        listener_of_target(revision, info)
    }

    fn target_name(&self) -> String {
        text(self.target.get(2..TARGET - 1).unwrap_or_default())
    }
}

fn get(socket: &OwnedFd, level: i32, option: i32, value: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes, which is what `value` has; both outlive the call.
    #[expect(unsafe_code, reason = "no crate has these options")]
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
