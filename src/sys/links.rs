//! Interfaces that belong to others, such as the ports of a bridge, as rtnetlink lists them. No capability is needed.

use super::netlink::{attribute, text, u32_at};
use super::routing::list;
use std::collections::HashMap;
use std::io;

/// `struct ifinfomsg`: the interface's number is its second word.
const HEADER: usize = 16;
/// `IFLA_IFNAME`, `IFLA_MASTER`, `IFLA_LINKINFO`, `IFLA_INFO_SLAVE_KIND` of linux/if_link.h
const NAME: u16 = 3;
const MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const KIND_OF_MASTER: u16 = 4;

/// An interface whose packets come in by another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The other one.
    pub master: String,
    /// The kind of the other one: `bridge`, `bond`, `team`, `vrf` and so on.
    pub kind: String,
}

/// Lists the interfaces of this network namespace that belong to another one of it.
pub fn ports() -> io::Result<Vec<Port>> {
    let mut names = HashMap::new();
    let mut found = Vec::new();
    list(libc::RTM_GETLINK, &[0; HEADER], |body| {
        let value = |kind| attribute(body.get(HEADER..).unwrap_or_default(), kind);
        let (Some(index), Some(name)) = (u32_at(body, 4), value(NAME).map(text)) else { return Ok(()) };
        let kind = value(LINK_INFO).and_then(|info| attribute(info, KIND_OF_MASTER)).map(text);
        if let (Some(master), Some(kind)) = (value(MASTER).and_then(|master| u32_at(master, 0)), kind) {
            found.push((name.clone(), master, kind));
        }
        names.insert(index, name);
        Ok(())
    })?;
    let port = |(name, master, kind): (String, u32, String)| {
        Some(Port { name, master: names.get(&master)?.clone(), kind })
    };
    Ok(found.into_iter().filter_map(port).collect())
}

/// The number of the interface of this name, if there is one.
pub fn index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_lists_links() {
        assert!(ports().unwrap().iter().all(|port| port.name != port.master && !port.kind.is_empty()));
    }
}
