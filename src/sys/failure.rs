//! Classification of errno, in one place.

use std::io;
use std::net::IpAddr;

/// Meaning of a failed socket call: about the peer, the network, or this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The peer answered our SYN with RST.
    Refused,
    /// The peer reset an established connection, or is gone while we write.
    Reset,
    /// There is no route (ICMP, or our own routing table).
    Unreachable,
    /// A route or routing rule of this machine discards packets to the peer (error of `connect`).
    Discarded,
    /// A route, routing rule or security module of this machine, or an ICMPv6 error, prohibits packets to the peer (error of
    /// `connect`).
    Prohibited,
    /// SYN, data or keepalive probes stayed unacknowledged, maybe with an ICMP error about one of them.
    TimedOut,
    /// An administrator ended the socket (`SOCK_DESTROY`, `ss -K`).
    Aborted,
    /// The source address and port are in use towards this destination.
    PortTaken,
    /// The source address is not local (error of `bind`).
    NotOurAddress,
    /// Out of descriptors or memory.
    NoResources,
    /// Not permitted: a missing capability, or a local packet rule.
    NotPermitted,
    /// Any other error.
    Other,
}

impl Failure {
    /// Classifies an error of `bind` or of registering a socket.
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Self::Refused,
            Some(libc::ECONNRESET | libc::EPIPE) => Self::Reset,
            Some(
                libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN | libc::ENONET,
            ) => Self::Unreachable,
            Some(libc::ETIMEDOUT) => Self::TimedOut,
            Some(libc::ECONNABORTED) => Self::Aborted,
            Some(libc::EADDRINUSE) => Self::PortTaken,
            Some(libc::EADDRNOTAVAIL) => Self::NotOurAddress,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Self::NoResources,
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted,
            // An error without an errno: its socket error was consumed by an earlier call.
            None if error.kind() == io::ErrorKind::ConnectionReset => Self::Reset,
            _ => Self::Other,
        }
    }

    /// Classifies an error of `connect` to an address on a bound socket: there EADDRNOTAVAIL means that the 4-tuple is taken
    /// (`__inet_check_established` in net/ipv4/inet_hashtables.c), not that the address is not local. EINVAL and EACCES
    /// are what routes of type blackhole and prohibit give in both families (`fib_props` in net/ipv4/fib_semantics.c), and
    /// EACCES is ICMPv6 "administratively prohibited" too (`tab_unreach` in net/ipv6/icmp.c), and the answer of SELinux and
    /// AppArmor. EINVAL also is that of a link-local IPv6 address without an interface (`tcp_v6_connect`).
    pub fn of_connect(error: &io::Error, to: IpAddr) -> Self {
        let is_link_local = matches!(to, IpAddr::V6(to) if to.is_unicast_link_local());
        match error.raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => Self::PortTaken,
            Some(libc::EINVAL) if !is_link_local => Self::Discarded,
            Some(libc::EACCES) => Self::Prohibited,
            // ICMP "protocol unreachable", "source route failed" and "parameter problem".
            Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::EPROTO) => Self::Unreachable,
            _ => Self::of(error),
        }
    }

    /// Classifies an error of `recv`, `send`, `splice` or `SO_ERROR` on a connected socket. When nothing was acknowledged for too
    /// long, the kernel reports the last ICMP error in place of ETIMEDOUT (`sk_err_soft` in `tcp_write_err()`,
    /// net/ipv4/tcp_timer.c; `icmp_err_convert` in net/ipv4/icmp.c, `tab_unreach` in net/ipv6/icmp.c): "port unreachable" is no
    /// reset there, nor "prohibited" a refusal of this machine.
    pub fn of_connected(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED | libc::EACCES | libc::EPROTO | libc::ENOPROTOOPT | libc::EOPNOTSUPP) => {
                Self::TimedOut
            }
            _ => Self::of(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_meaning_depends_on_the_call() {
        for (errno, of, of_connect) in [
            (libc::EADDRNOTAVAIL, Failure::NotOurAddress, Failure::PortTaken),
            (libc::EINVAL, Failure::Other, Failure::Discarded),
            (libc::EACCES, Failure::NotPermitted, Failure::Prohibited),
            (libc::EPERM, Failure::NotPermitted, Failure::NotPermitted),
            (libc::EHOSTUNREACH, Failure::Unreachable, Failure::Unreachable),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            let to = "2001:db8::1".parse().unwrap();
            assert_eq!((Failure::of(&error), Failure::of_connect(&error, to)), (of, of_connect));
        }
        let without_interface = io::Error::from_raw_os_error(libc::EINVAL);
        assert_eq!(Failure::of_connect(&without_interface, "fe80::1".parse().unwrap()), Failure::Other);
    }

    #[test]
    fn non_socket_reset_is_recognised() {
        assert_eq!(Failure::of_connected(&io::ErrorKind::ConnectionReset.into()), Failure::Reset);
    }

    #[test]
    fn icmp_errors_blame_the_peer() {
        use Failure::*;
        // By phase: dialling (of_connect), relaying (of_connected).
        for (errno, dialling, relaying) in [
            (libc::ECONNRESET, Reset, Reset),
            (libc::EPIPE, Reset, Reset),
            (libc::ETIMEDOUT, TimedOut, TimedOut),
            (libc::ECONNREFUSED, Refused, TimedOut),
            (libc::EHOSTUNREACH, Unreachable, Unreachable),
            (libc::ENETUNREACH, Unreachable, Unreachable),
            (libc::EHOSTDOWN, Unreachable, Unreachable),
            (libc::ENONET, Unreachable, Unreachable),
            (libc::EACCES, Prohibited, TimedOut),
            (libc::ENOPROTOOPT, Unreachable, TimedOut),
            (libc::EPROTO, Unreachable, TimedOut),
            (libc::EOPNOTSUPP, Unreachable, TimedOut),
            (libc::ECONNABORTED, Aborted, Aborted),
            (libc::EPERM, NotPermitted, NotPermitted),
            (libc::ENOMEM, NoResources, NoResources),
            (libc::EBADF, Other, Other),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            let to = "2001:db8::1".parse().unwrap();
            let found = (Failure::of_connect(&error, to), Failure::of_connected(&error));
            assert_eq!(found, (dialling, relaying), "{error}");
        }
    }
}
