//! Connections that `egret doctor` announces before it makes them: their flows can be asked about, also after their end,
//! and do not count as clients'.

use super::entry::FlowEntry;
use crate::addr::ClientAddr;
use crate::clock;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Client ports of one announcement, from the first.
pub const PROBE_PORTS: u16 = 16;
/// Most announcements; a new one takes the place of the oldest.
const MOST: usize = 64;
/// Time for which an announcement holds.
const HOLDS: Duration = Duration::from_secs(30);

/// The announcements that hold, oldest first. Costs a new flow one load while there are none.
#[derive(Debug, Default)]
pub struct AnnouncedProbes {
    any: AtomicBool,
    all: Mutex<Vec<ProbeAnnouncement>>,
}

#[derive(Debug)]
struct ProbeAnnouncement {
    client: IpAddr,
    first_port: u16,
    until: Instant,
    /// The last flow of each port; at most [`PROBE_PORTS`].
    flows: Vec<(u16, Arc<FlowEntry>)>,
}

impl ProbeAnnouncement {
    fn covers(&self, client: SocketAddr) -> bool {
        let offset = client.port().checked_sub(self.first_port);
        self.client == client.ip() && offset.is_some_and(|offset| offset < PROBE_PORTS)
    }
}

impl AnnouncedProbes {
    /// Announces connections of a client from [`PROBE_PORTS`] ports.
    pub fn announce(&self, client: IpAddr, first_port: u16) {
        let mut all = self.holding();
        all.retain(|one| (one.client, one.first_port) != (client, first_port));
        if all.len() == MOST {
            all.remove(0);
        }
        let until = clock::now() + HOLDS;
        all.push(ProbeAnnouncement { client, first_port, until, flows: Vec::new() });
        self.any.store(true, Ordering::Relaxed);
    }

    /// The last flow from an announced address and port, alive or ended; `None` if none came or the announcement does not
    /// hold any more.
    pub fn find(&self, client: SocketAddr) -> Option<Arc<FlowEntry>> {
        let all = self.holding();
        let announced = all.iter().rev().find(|one| one.covers(client))?;
        let (_, entry) = announced.flows.iter().find(|(port, _)| *port == client.port())?;
        Some(Arc::clone(entry))
    }

    /// True if a client's connection was announced.
    pub(super) fn expects(&self, client: ClientAddr) -> bool {
        self.any.load(Ordering::Relaxed) && self.holding().iter().any(|one| one.covers(client.socket()))
    }

    /// Keeps the entry of a flow that was announced.
    pub(super) fn keep(&self, client: ClientAddr, entry: &Arc<FlowEntry>) {
        let client = client.socket();
        if let Some(announced) = self.holding().iter_mut().rev().find(|one| one.covers(client)) {
            announced.flows.retain(|(port, _)| *port != client.port());
            announced.flows.push((client.port(), Arc::clone(entry)));
        }
    }

    /// Those that hold. Ignores poisoning: nothing panics while holding the lock.
    fn holding(&self) -> MutexGuard<'_, Vec<ProbeAnnouncement>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        all.retain(|one| one.until > now);
        self.any.store(!all.is_empty(), Ordering::Relaxed);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::accepted;
    use super::super::{FlowOpener, FlowTable};
    use super::*;

    #[test]
    fn announced_flows_are_found_after_their_end() {
        let table = Arc::new(FlowTable::default());
        let opener = FlowOpener::new(Arc::clone(&table));
        let find = |client: &str| table.probes().find(client.parse().unwrap()).map(|entry| entry.id().number);
        table.probes().announce("10.0.1.7".parse().unwrap(), 61008);
        assert_eq!(find("10.0.1.7:61008"), None);
        for (number, client, is_probe) in [
            (1, "10.0.1.7:61008", true),
            (2, "10.0.1.7:61023", true),
            (3, "10.0.1.7:61007", false),
            (4, "10.0.1.7:61024", false),
            (5, "10.0.1.8:61008", false),
        ] {
            let flow = accepted(&opener, number, client, "192.0.2.1:443");
            assert_eq!(flow.entry().is_probe(), is_probe, "{client}");
            drop(flow);
            assert_eq!(find(client), is_probe.then_some(number));
        }
        assert_eq!(find("10.0.1.7:61009"), None);
        drop(accepted(&opener, 6, "10.0.1.7:61008", "192.0.2.1:443"));
        assert_eq!(find("10.0.1.7:61008"), Some(6), "the last one");
    }

    #[test]
    fn announcements_are_bounded() {
        let probes = AnnouncedProbes::default();
        for last in 0..=u8::try_from(MOST).unwrap() {
            probes.announce([10, 0, 1, last].into(), 61008);
        }
        let expects = |last| probes.expects(ClientAddr::new(([10, 0, 1, last], 61008).into()));
        assert!(!expects(0) && expects(1) && probes.holding().len() == MOST);
    }
}
