//! Busy slots of one destination, in a compact set with a uniform pick among the free ones in constant time.

use super::bitmap::Bitmap;
use rand::{Rng, RngExt};

/// Slots stored inline, without an allocation. Six keep the set at 16 bytes.
const INLINE: usize = 6;
/// Slots stored in a list. Searching 64 `u16` reads two cache lines; beyond that the bitmap is cheaper.
const LISTED: usize = 64;

/// A set of busy slots in `0..capacity`. Every call on one set must pass the same capacity.
///
/// While few slots are busy, at most a quarter, a free one is found by rejection sampling: 4/3 draws on average. Above
/// that, a bitmap finds the k-th free one. It returns to a list at half the size at which it became a bitmap, so that a
/// set at the limit does not flap.
#[derive(Debug)]
pub(super) enum PortSet {
    Inline(SlotList<INLINE>),
    Listed(Box<SlotList<LISTED>>),
    Dense(Box<Bitmap>),
}

impl Default for PortSet {
    fn default() -> Self {
        Self::Inline(SlotList::default())
    }
}

impl PortSet {
    pub(super) fn len(&self) -> u16 {
        match self {
            Self::Inline(list) => u16::from(list.len),
            Self::Listed(list) => u16::from(list.len),
            Self::Dense(map) => map.len(),
        }
    }

    /// Marks one of the free slots busy, uniformly at random; `None` if all are busy.
    pub(super) fn take(&mut self, capacity: u16, rng: &mut impl Rng) -> Option<u16> {
        let free = capacity.checked_sub(self.len()).filter(|&free| free > 0)?;
        let slot = match self {
            Self::Inline(list) => list.draw(capacity, rng),
            Self::Listed(list) => list.draw(capacity, rng),
            Self::Dense(map) => map.nth_free(rng.random_range(0..free))?,
        };
        self.insert(slot, capacity).then_some(slot)
    }

    /// Marks a slot busy. True if it was free.
    pub(super) fn insert(&mut self, slot: u16, capacity: u16) -> bool {
        self.grow(capacity);
        match self {
            Self::Inline(list) => list.insert(slot),
            Self::Listed(list) => list.insert(slot),
            Self::Dense(map) => map.insert(slot),
        }
    }

    /// Marks a slot free. True if it was busy.
    pub(super) fn remove(&mut self, slot: u16, capacity: u16) -> bool {
        let removed = match self {
            Self::Inline(list) => list.remove(slot),
            Self::Listed(list) => list.remove(slot),
            Self::Dense(map) => map.remove(slot),
        };
        self.shrink(capacity);
        removed
    }

    /// True if a slot is busy.
    pub(super) fn contains(&self, slot: u16) -> bool {
        match self {
            Self::Inline(list) => list.as_slice().contains(&slot),
            Self::Listed(list) => list.as_slice().contains(&slot),
            Self::Dense(map) => map.contains(slot),
        }
    }

    /// Returns the busy slots, in no order.
    pub(super) fn slots(&self, capacity: u16) -> Vec<u16> {
        match self {
            Self::Inline(list) => list.as_slice().to_vec(),
            Self::Listed(list) => list.as_slice().to_vec(),
            Self::Dense(map) => map.iter(capacity).collect(),
        }
    }
}

impl PortSet {
    /// Grows to fit one more slot.
    fn grow(&mut self, capacity: u16) {
        let full = match self {
            Self::Inline(list) => usize::from(list.len) >= INLINE.min(most_listed(capacity)),
            Self::Listed(list) => usize::from(list.len) >= most_listed(capacity),
            Self::Dense(_) => false,
        };
        if full {
            let larger = match self {
                Self::Inline(_) if INLINE < most_listed(capacity) => Self::Listed(Box::default()),
                Self::Inline(_) | Self::Listed(_) | Self::Dense(_) => {
                    Self::Dense(Box::new(Bitmap::new(capacity)))
                }
            };
            self.become_a(larger, capacity);
        }
    }

    /// Shrinks once far less is in use than allocated.
    fn shrink(&mut self, capacity: u16) {
        let len = usize::from(self.len());
        match self {
            Self::Dense(_) if len <= INLINE.min(most_listed(capacity)) / 2 => {
                self.become_a(Self::default(), capacity);
            }
            Self::Dense(_) if len > INLINE && len <= most_listed(capacity) / 2 => {
                self.become_a(Self::Listed(Box::default()), capacity);
            }
            Self::Listed(_) if len <= INLINE / 2 => self.become_a(Self::default(), capacity),
            Self::Inline(_) | Self::Listed(_) | Self::Dense(_) => {}
        }
    }

    fn become_a(&mut self, other: Self, capacity: u16) {
        let slots = self.slots(capacity);
        *self = other;
        for slot in slots {
            match self {
                Self::Inline(list) => list.insert(slot),
                Self::Listed(list) => list.insert(slot),
                Self::Dense(map) => map.insert(slot),
            };
        }
    }
}

/// Maximum length of a list: a quarter of the slots, so that rejection sampling takes 4/3 draws on average.
fn most_listed(capacity: u16) -> usize {
    LISTED.min(usize::from(capacity) / 4)
}

/// Up to `N` busy slots, in no order.
#[derive(Debug)]
pub(super) struct SlotList<const N: usize> {
    /// `<= N`
    len: u8,
    slots: [u16; N],
}

impl<const N: usize> Default for SlotList<N> {
    fn default() -> Self {
        Self { len: 0, slots: [0; N] }
    }
}

impl<const N: usize> SlotList<N> {
    fn as_slice(&self) -> &[u16] {
        &self.slots[..usize::from(self.len)]
    }

    /// Draws a slot that is not in the list, which holds at most a quarter of the capacity.
    fn draw(&self, capacity: u16, rng: &mut impl Rng) -> u16 {
        loop {
            let slot = rng.random_range(0..capacity);
            if !self.as_slice().contains(&slot) {
                return slot;
            }
        }
    }

    /// Inserts a slot; there must be room.
    fn insert(&mut self, slot: u16) -> bool {
        let fresh = !self.as_slice().contains(&slot);
        if fresh {
            self.slots[usize::from(self.len)] = slot;
            self.len += 1;
        }
        fresh
    }

    fn remove(&mut self, slot: u16) -> bool {
        let found = self.as_slice().iter().position(|&s| s == slot);
        if let Some(at) = found {
            self.len -= 1;
            self.slots[at] = self.slots[usize::from(self.len)];
        }
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use std::collections::HashSet;

    #[test]
    fn small_set_is_sixteen_bytes() {
        assert_eq!(size_of::<PortSet>(), 16);
    }

    #[test]
    fn every_slot_is_picked_once() {
        let mut rng = StdRng::seed_from_u64(1);
        for capacity in [1u16, 2, 3, 4, 16, 24, 25, 64, 255, 256, 257, 65535] {
            let mut set = PortSet::default();
            let mut seen = HashSet::new();
            for n in 0..capacity {
                let slot = set.take(capacity, &mut rng).unwrap();
                assert!(slot < capacity && seen.insert(slot), "{slot} after {n} of {capacity}");
            }
            assert_eq!((set.len(), set.take(capacity, &mut rng)), (capacity, None));
            for slot in seen {
                assert!(set.remove(slot, capacity) && !set.remove(slot, capacity));
            }
            assert!(matches!(set, PortSet::Inline(_)), "the memory was not given back at {capacity}");
        }
    }

    #[test]
    fn form_changes_with_hysteresis() {
        let forms = |set: &PortSet| match set {
            PortSet::Inline(_) => 0,
            PortSet::Listed(_) => 1,
            PortSet::Dense(_) => 2,
        };
        let mut set = PortSet::default();
        let mut up = Vec::new();
        for slot in 0..100 {
            set.insert(slot, 64511);
            up.push(forms(&set));
        }
        assert_eq!([up[5], up[6], up[63], up[64]], [0, 1, 1, 2]);
        let mut down = vec![0; 100];
        for slot in (0..100).rev() {
            set.remove(slot, 64511);
            down[usize::from(slot)] = forms(&set);
        }
        assert_eq!([down[33], down[32], down[4], down[3]], [2, 1, 1, 0]);
    }

    /// Takes many ports from sets filled to `busy`, and compares the frequency of each slot with that of a uniform
    /// pick. The bound is 6 standard deviations of the chi-squared distribution.
    fn chi_squared_is_plausible(capacity: u16, busy: u16, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut set = PortSet::default();
        (0..busy).for_each(|n| assert!(set.insert(n * 2 % capacity + n * 2 / capacity, capacity)));
        let free = capacity - busy;
        let rounds = u32::from(free) * 200;
        let mut times = vec![0u32; usize::from(capacity)];
        for _ in 0..rounds {
            let slot = set.take(capacity, &mut rng).unwrap();
            times[usize::from(slot)] += 1;
            set.remove(slot, capacity);
        }
        let drawn: Vec<_> = (0..capacity).filter(|&s| times[usize::from(s)] > 0).collect();
        assert_eq!(drawn.len(), usize::from(free), "each free slot must come up, and no busy one");
        let chi2: f64 =
            drawn.iter().map(|&s| (f64::from(times[usize::from(s)]) - 200.0).powi(2) / 200.0).sum();
        let degrees = f64::from(free - 1);
        let off = (chi2 - degrees) / (2.0 * degrees).sqrt();
        assert!(off.abs() < 6.0, "chi² {chi2:.0} at {degrees} degrees is {off:.1} deviations off");
    }

    #[test]
    fn picks_are_uniform_in_every_form() {
        chi_squared_is_plausible(1000, 0, 7);
        chi_squared_is_plausible(1000, 5, 8);
        chi_squared_is_plausible(1000, 60, 9);
        chi_squared_is_plausible(1000, 300, 10);
        chi_squared_is_plausible(5000, 4700, 11);
        chi_squared_is_plausible(16, 9, 12);
    }

    #[test]
    fn successive_picks_are_far_apart() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut set = PortSet::default();
        let taken: Vec<u16> = (0..20_000).map(|_| set.take(64511, &mut rng).unwrap()).collect();
        let near = taken.windows(2).filter(|w| w[0].abs_diff(w[1]) < 100).count();
        // 200 of 64,511 neighbours: 62 expected
        assert!(near < 130, "{near} of 20,000 ports lie within 100 of the one before");
    }

    proptest! {
        #[test]
        fn port_set_matches_hash_set(capacity in prop_oneof![Just(1u16), Just(16), Just(300), Just(64511)],
                       steps in proptest::collection::vec((any::<bool>(), 0u16..200), 0..600)) {
            let mut set = PortSet::default();
            let mut model = HashSet::new();
            for (add, slot) in steps {
                let slot = slot % capacity;
                if add {
                    prop_assert_eq!(set.insert(slot, capacity), model.insert(slot));
                } else {
                    prop_assert_eq!(set.remove(slot, capacity), model.remove(&slot));
                }
                prop_assert_eq!(usize::from(set.len()), model.len());
            }
            for slot in 0..capacity.min(200) {
                prop_assert_eq!(set.contains(slot), model.contains(&slot));
            }
            prop_assert_eq!(set.slots(capacity).into_iter().collect::<HashSet<_>>(), model);
        }
    }
}
