//! Connections that `egret doctor` announces before it makes them. Their flows can be asked about, also after their end, and
//! are left out of a candidate's figures; all else counts them like clients' flows.

use super::entry::FlowEntry;
use crate::addr::ClientAddr;
use crate::clock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most announcements; a new one takes the place of the oldest.
const MOST: usize = 256;
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
    client: ClientAddr,
    until: Instant,
    /// The last flow from there.
    flow: Option<Arc<FlowEntry>>,
}

impl AnnouncedProbes {
    /// Announces a connection from this address and port. Returns true if no other from the address is announced.
    pub fn announce(&self, client: ClientAddr) -> bool {
        let mut all = self.holding();
        let is_first = all.iter().all(|one| one.client.ip() != client.ip());
        all.retain(|one| one.client != client);
        if all.len() == MOST {
            all.remove(0);
        }
        all.push(ProbeAnnouncement { client, until: clock::now() + HOLDS, flow: None });
        self.any.store(true, Ordering::Relaxed);
        is_first
    }

    /// The last flow from an announced address and port, alive or ended; `None` if none came or the announcement does not
    /// hold any more.
    pub fn find(&self, client: ClientAddr) -> Option<Arc<FlowEntry>> {
        self.holding().iter().find(|one| one.client == client)?.flow.clone()
    }

    /// Opens a client's flow by `open`, which is told if it was announced, and keeps the entry if so.
    pub(super) fn opened(&self, client: ClientAddr, open: impl FnOnce(bool) -> FlowEntry) -> Arc<FlowEntry> {
        if !self.any.load(Ordering::Relaxed) {
            return Arc::new(open(false));
        }
        let mut all = self.holding();
        let announced = all.iter_mut().find(|one| one.client == client);
        let entry = Arc::new(open(announced.is_some()));
        if let Some(announced) = announced {
            announced.flow = Some(Arc::clone(&entry));
        }
        entry
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

    fn client(client: &str) -> ClientAddr {
        ClientAddr::new(client.parse().unwrap())
    }

    #[test]
    fn announced_flows_are_found_after_their_end() {
        let table = Arc::new(FlowTable::default());
        let opener = FlowOpener::new(Arc::clone(&table));
        let find = |from: &str| table.probes().find(client(from)).map(|entry| entry.id().number);
        table.probes().announce(client("[::ffff:10.0.1.7]:61008"));
        assert_eq!(find("10.0.1.7:61008"), None);
        for (number, from, is_probe) in [
            (1, "10.0.1.7:61008", true),
            (2, "10.0.1.7:61007", false),
            (3, "10.0.1.7:61009", false),
            (4, "10.0.1.8:61008", false),
        ] {
            let flow = accepted(&opener, number, from, "192.0.2.1:443");
            assert_eq!(flow.entry().is_probe(), is_probe, "{from}");
            drop(flow);
            assert_eq!(find(from), is_probe.then_some(number));
        }
        drop(accepted(&opener, 5, "10.0.1.7:61008", "192.0.2.1:443"));
        assert_eq!(find("10.0.1.7:61008"), Some(5), "the last one");
        table.probes().announce(client("10.0.1.7:61008"));
        assert_eq!(find("10.0.1.7:61008"), None, "of the connection that was announced last");
    }

    #[test]
    fn announcements_are_bounded() {
        let probes = AnnouncedProbes::default();
        let from = |number: usize| client(&format!("10.0.1.7:{}", 10_000 + number));
        let first = (0..=MOST).filter(|number| probes.announce(from(*number))).count();
        assert_eq!(first, 1, "of one address");
        let all = probes.holding();
        assert_eq!((all.len(), all[0].client), (MOST, from(1)));
    }
}
