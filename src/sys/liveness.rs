//! Detection of peers that are gone.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// Timeouts for a silent or unresponsive peer. The same on both legs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    /// Silence before the first keepalive probe (`TCP_KEEPIDLE`), whole seconds.
    pub idle: Duration,
    /// Time between probes (`TCP_KEEPINTVL`), whole seconds.
    pub interval: Duration,
    /// Number of unanswered probes before the peer counts as gone (`TCP_KEEPCNT`), 1 to 127.
    pub probes: u32,
    /// Time that sent data may stay unacknowledged, or the peer's window closed (`TCP_USER_TIMEOUT`); it also replaces
    /// `probes`. `None`: the kernel's limits (tcp_retries2; a closed window never ends a flow).
    pub user_timeout: Option<Duration>,
}

impl Liveness {
    /// Sets keepalive on a socket, or on a listener whose accepted sockets inherit it.
    pub fn keep_alive(&self, socket: impl AsFd) -> io::Result<()> {
        let keepalive =
            TcpKeepalive::new().with_time(self.idle).with_interval(self.interval).with_retries(self.probes);
        SockRef::from(&socket).set_tcp_keepalive(&keepalive)
    }
}
