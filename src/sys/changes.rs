//! Hears when something changes in this network namespace: rules, routes, links, addresses, packet rules.

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

/// Where changes are heard.
#[derive(Debug)]
pub struct Changes {
    epoll: Epoll,
    sockets: Vec<Netlink>,
    waker: Waker,
}

/// Ends somebody's wait.
#[derive(Debug, Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// Has a wait end, or the next one.
    pub fn wake(&self) {
        // It cannot be full: the one who waits empties it.
        let _ = self.0.write(1);
    }
}

impl Changes {
    /// Begins to listen. Where the kernel has no nf_tables, or the capability is missing, packet rules are not heard of.
    pub fn listen() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let waker = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&waker, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        let mut sockets = vec![Netlink::listen(SockProtocol::NetlinkRoute, NETWORK)?];
        sockets.extend(Netlink::listen(SockProtocol::NetlinkNetFilter, PACKET_RULES).ok());
        for socket in &sockets {
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        }
        Ok(Self { epoll, sockets, waker: Waker(Arc::new(waker)) })
    }

    /// By which others end a wait.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits for a change, or for this long. All that was heard is behind then; what comes later ends the next wait.
    pub fn wait(&self, patience: Duration) -> io::Result<()> {
        let patience = EpollTimeout::try_from(patience).unwrap_or(EpollTimeout::MAX);
        match self.epoll.wait(&mut [EpollEvent::empty()], patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let _ = self.waker.0.read();
        for socket in &self.sockets {
            socket.forget_what_was_said()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_wait_ends_when_it_is_woken_and_when_it_is_over() {
        let changes = Changes::listen().unwrap();
        let waker = changes.waker();
        let start = clock::now();
        waker.wake();
        changes.wait(Duration::from_mins(1)).unwrap();
        std::thread::spawn(move || waker.wake());
        changes.wait(Duration::from_mins(1)).unwrap();
        changes.wait(Duration::from_millis(1)).unwrap();
        assert!(clock::now() - start < Duration::from_secs(30));
    }
}
