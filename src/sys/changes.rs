//! Notifications of changes in this network namespace: links, addresses, routes, policy routing, packet rules.

use super::netlink::Netlink;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::SockProtocol;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// `RTMGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`, and the bit of
/// `RTNLGRP_IPV6_RULE`, which has no such name.
const NETWORK: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x4_0000;
/// The bit of `NFNLGRP_NFTABLES`. It takes `CAP_NET_ADMIN`.
const PACKET_RULES: u32 = 0x40;

/// A subscription to such notifications.
#[derive(Debug)]
pub struct ChangeListener {
    epoll: Epoll,
    network: Netlink,
    /// `None` where the kernel has no nf_tables, or the capability is missing.
    packet_rules: Option<Netlink>,
    waker: ChangeWaker,
}

/// Wakes a thread that waits in [`ChangeListener::wait`].
#[derive(Debug, Clone)]
pub struct ChangeWaker(Arc<EventFd>);

impl ChangeWaker {
    /// Ends the current wait, or the next one if nobody waits now.
    pub fn wake(&self) {
        // The counter cannot overflow: each wait resets it.
        let _ = self.0.write(1);
    }
}

impl ChangeListener {
    /// Subscribes. Where the kernel has no nf_tables, or the capability is missing, changes of packet rules go unnoticed.
    pub fn listen() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let waker = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&waker, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        let network = Netlink::listen(SockProtocol::NetlinkRoute, NETWORK)?;
        let packet_rules = Netlink::listen(SockProtocol::NetlinkNetFilter, PACKET_RULES).ok();
        for socket in [&network].into_iter().chain(&packet_rules) {
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        }
        Ok(Self { epoll, network, packet_rules, waker: ChangeWaker(Arc::new(waker)) })
    }

    /// A handle that ends a wait from another thread.
    pub fn waker(&self) -> ChangeWaker {
        self.waker.clone()
    }

    /// Waits for a change of any kind, for a wake-up, or for the time-out. True if anything but packet rules may have
    /// changed since the last call. Changes from here on end the next wait.
    pub fn wait(&self, patience: Duration) -> io::Result<bool> {
        let patience = EpollTimeout::try_from(patience).unwrap_or(EpollTimeout::MAX);
        match self.epoll.wait(&mut [EpollEvent::empty()], patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let _ = self.waker.0.read();
        if let Some(packet_rules) = &self.packet_rules {
            packet_rules.discard_pending()?;
        }
        self.network.discard_pending()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn wakeup_or_timeout_ends_wait() {
        let changes = ChangeListener::listen().unwrap();
        let waker = changes.waker();
        let start = clock::now();
        waker.wake();
        changes.wait(Duration::from_secs(60)).unwrap();
        std::thread::spawn(move || waker.wake());
        changes.wait(Duration::from_secs(60)).unwrap();
        changes.wait(Duration::from_millis(1)).unwrap();
        assert!(clock::now() - start < Duration::from_secs(30));
    }
}
