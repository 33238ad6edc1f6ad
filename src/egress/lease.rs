//! Lease of one source address and port, for one flow.

use super::book::SourceBook;
use super::destination_key::DestinationKey;
use super::hold::PortHold;
use super::lease_error::LeaseError;
use super::lingering::LingeringPort;
use super::pool::Pool;
use super::share::Share;
use crate::addr::{ClientAddr, DialAddr, LeasedSource};
use crate::family::Family;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lease of one port of one source address towards one destination, for its own lifetime.
///
/// Drop returns the port, to be free at once unless [`Lease::set_hold`] was called: a connection that is reset before a
/// FIN was sent, or was never made, leaves no state in the kernel. Drop it after the socket is closed, not before.
pub struct Lease {
    pool: Arc<Pool>,
    book: Arc<SourceBook>,
    to: DestinationKey,
    port: u16,
    hold: PortHold,
    share: Share,
    connected: bool,
    /// True if the port has been returned.
    ended: bool,
}

impl Lease {
    pub(super) fn new(
        pool: Arc<Pool>,
        book: Arc<SourceBook>,
        to: DestinationKey,
        port: u16,
        share: Share,
    ) -> Self {
        Self { pool, book, to, port, hold: PortHold::Free, share, connected: false, ended: false }
    }

    /// Address and port to bind.
    pub fn source(&self) -> LeasedSource {
        LeasedSource::new(SocketAddr::new(self.book.source().ip(), self.port))
    }

    /// Public address that the source address is mapped to, if the pool configures one.
    pub fn public(&self) -> Option<IpAddr> {
        self.pool.public(self.book.source())
    }

    /// Destination that it is for.
    pub fn destination(&self) -> DialAddr {
        self.to.into()
    }

    /// True if the connection was established.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Records that the connection is established; the pool's own `rest` is then the minimum.
    pub fn connected(&mut self) {
        self.connected = true;
    }

    /// Sets how the port is held when the lease ends.
    pub fn set_hold(&mut self, hold: PortHold) {
        self.hold = hold;
    }

    /// Handles a port that the kernel reports as taken (EADDRINUSE at bind, EADDRNOTAVAIL at connect). Counts it, holds
    /// the port for `at_least` and until the conflicting socket is gone, and leases another for the same client's flow.
    /// Callers must limit their retries.
    pub fn collided(
        mut self,
        client: ClientAddr,
        at_least: Duration,
        now: Instant,
    ) -> Result<Self, LeaseError> {
        self.pool.ledger().count_collision(self.source(), self.to.into());
        self.hold = PortHold::UntilGone { first_look: at_least, timestamps: false };
        let share = self.share.clone();
        self.end(now);
        self.pool.lease_towards(client, self.to, Family::of(self.source().ip()), &share, now)
    }

    /// Returns the port at a given time; otherwise as Drop does.
    pub fn give_back(mut self, now: Instant) {
        self.end(now);
    }

    fn end(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.ended, true) {
            let share = std::mem::take(&mut self.share);
            let own = if self.connected { PortHold::For(self.pool.rest).least() } else { Duration::ZERO };
            let least = self.hold.least().max(own);
            match self.hold {
                PortHold::Free | PortHold::For(_) => {
                    self.book.give_back(self.to, self.port, least, share, now);
                }
                PortHold::UntilGone { timestamps, .. } => {
                    self.book.linger(LingeringPort::new((self.to, self.port), least, timestamps, share, now));
                }
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end(crate::clock::now());
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("pool", self.pool.name())
            .field("source", &self.source())
            .finish_non_exhaustive()
    }
}
