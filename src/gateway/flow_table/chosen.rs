//! Operations on some of the flows, by their numbers. Flows that have ended meanwhile are left out.

use super::{FlowTable, LiveFlow, Proof, Revoked, mark};

impl FlowTable {
    /// Calls `look` for a copy of each of these flows, without a lock.
    pub(in crate::gateway) fn each_of(&self, numbers: &[u64], mut look: impl FnMut(&LiveFlow)) {
        let copy = |number: &u64| self.shard(*number).lock().get(number).map(|entry| entry.flow.clone());
        numbers.iter().filter_map(copy).for_each(|flow| look(&flow));
    }

    /// Revokes those of these flows for which there is a reason, and returns their number.
    pub(in crate::gateway) fn revoke_of(
        &self,
        numbers: &[u64],
        why: impl Fn(&LiveFlow) -> Option<Revoked>,
    ) -> u64 {
        let mut revoked = 0;
        let mut wakers = Vec::new();
        self.each_of(numbers, |flow| {
            if let Some(why) = why(flow) {
                let number = flow.id.number;
                revoked += mark(&mut self.shard(number).lock(), number, why, &mut wakers);
            }
        });
        if revoked > 0 {
            self.wake(&wakers);
        }
        revoked
    }

    /// Notes checks that succeeded for these flows.
    pub(in crate::gateway) fn prove(&self, numbers: &[u64], proof: Proof) {
        for &number in numbers {
            if let Some(entry) = self.shard(number).lock().get_mut(&number) {
                entry.flow.proof.address |= proof.address;
                entry.flow.proof.certificate |= proof.certificate;
            }
        }
    }
}
