//! Operations on some of the flows, by their numbers. Flows that have ended meanwhile are left out.

use super::{CheckSet, FlowTable, LiveFlow, RevocationReason};

impl FlowTable {
    /// Calls `look` for a copy of each of these flows, without a lock.
    pub(in crate::gateway) fn each_of(&self, numbers: &[u64], mut look: impl FnMut(&LiveFlow)) {
        let listed = numbers.iter().filter_map(|number| self.find(*number));
        listed.for_each(|entry| look(&entry.flow()));
    }

    /// Revokes those of these flows for which there is a reason, and returns their number.
    pub(in crate::gateway) fn revoke_of(
        &self,
        numbers: &[u64],
        why: impl Fn(&LiveFlow) -> Option<RevocationReason>,
    ) -> u64 {
        let mut revoked = 0;
        let mut wakers = Vec::new();
        for entry in numbers.iter().filter_map(|number| self.find(*number)) {
            if let Some(why) = why(&entry.flow()) {
                revoked += entry.mark(why, &mut wakers);
            }
        }
        if revoked > 0 {
            self.wake(&wakers);
        }
        revoked
    }

    /// Notes checks that succeeded for these flows.
    pub(in crate::gateway) fn prove(&self, numbers: &[u64], proof: CheckSet) {
        for &number in numbers {
            if let Some(entry) = self.find(number) {
                let known = &mut entry.lock().flow.proof;
                known.address |= proof.address;
                known.certificate |= proof.certificate;
            }
        }
    }
}
