//! Bitmap of busy slots that finds the k-th free slot in bounded time, however full it is.

/// Words per block: 32 words of 64 bits, so that 65,535 slots are at most 32 blocks and a search reads at most 32 block
/// counts and 32 words.
const BLOCK: usize = 32;

/// Set of busy slots out of `capacity`. 8.3 KiB for 65,535 slots, 18 bytes for 64.
#[derive(Debug)]
pub(super) struct Bitmap {
    /// A set bit is busy. Bits past the capacity are set.
    words: Box<[u64]>,
    /// Free slots per block of words; their sum + `busy` = capacity.
    free: Box<[u16]>,
    busy: u16,
}

impl Bitmap {
    pub(super) fn new(capacity: u16) -> Self {
        let slots = usize::from(capacity);
        let mut words = vec![0u64; slots.div_ceil(64)];
        if !slots.is_multiple_of(64)
            && let Some(last) = words.last_mut()
        {
            *last = u64::MAX << (slots % 64);
        }
        let free =
            words.chunks(BLOCK).map(|block| block.iter().map(|w| narrow(w.count_zeros())).sum()).collect();
        Self { words: words.into(), free, busy: 0 }
    }

    pub(super) fn len(&self) -> u16 {
        self.busy
    }

    /// True if the slot is busy.
    pub(super) fn contains(&self, slot: u16) -> bool {
        let (word, bit) = place(slot);
        self.words[word] & bit != 0
    }

    /// Marks a slot busy. True if it was free.
    pub(super) fn insert(&mut self, slot: u16) -> bool {
        let (word, bit) = place(slot);
        let fresh = self.words[word] & bit == 0;
        if fresh {
            self.words[word] |= bit;
            self.free[word / BLOCK] -= 1;
            self.busy += 1;
        }
        fresh
    }

    /// Marks a slot free. True if it was busy.
    pub(super) fn remove(&mut self, slot: u16) -> bool {
        let (word, bit) = place(slot);
        let busy = self.words[word] & bit != 0;
        if busy {
            self.words[word] &= !bit;
            self.free[word / BLOCK] += 1;
            self.busy -= 1;
        }
        busy
    }

    /// Returns the free slot that `rank` free ones precede; `None` if there are too few.
    pub(super) fn nth_free(&self, mut rank: u16) -> Option<u16> {
        let block = self.free.iter().position(|&free| {
            let here = rank < free;
            if !here {
                rank -= free;
            }
            here
        })?;
        for (word, bits) in self.words.iter().enumerate().skip(block * BLOCK) {
            let free = narrow(bits.count_zeros());
            if rank < free {
                return Some(narrow(nth_set_bit(!bits, u32::from(rank))) + u16::try_from(word * 64).ok()?);
            }
            rank -= free;
        }
        None
    }

    /// Iterates over the busy slots in ascending order; `capacity` as at creation. Words without any are skipped.
    pub(super) fn iter(&self, capacity: u16) -> impl Iterator<Item = u16> {
        let words = self.words.iter().zip((0u16..).step_by(64));
        words
            .flat_map(|(&bits, base)| {
                (0..bits.count_ones()).map(move |n| base + narrow(nth_set_bit(bits, n)))
            })
            .take_while(move |&slot| slot < capacity)
    }
}

fn place(slot: u16) -> (usize, u64) {
    (usize::from(slot) / 64, 1 << (slot % 64))
}

/// Position of the set bit that `rank` set bits precede, by binary search: always six steps. There must be more than
/// `rank` set bits.
fn nth_set_bit(mut word: u64, mut rank: u32) -> u32 {
    let mut position = 0;
    for width in [32, 16, 8, 4, 2, 1] {
        let low = (word & ((1 << width) - 1)).count_ones();
        if rank >= low {
            rank -= low;
            word >>= width;
            position += width;
        }
    }
    position
}

/// Narrows a number of at most 64.
#[expect(clippy::cast_possible_truncation, reason = "bit counts and positions of a word")]
fn narrow(small: u32) -> u16 {
    small as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nth_free_slot_matches_scan() {
        for capacity in [1u16, 2, 63, 64, 65, 2047, 2048, 2049, 4096, 65535] {
            let mut map = Bitmap::new(capacity);
            for slot in (0..capacity).filter(|s| s % 3 == 1 || (100..1900).contains(s)) {
                assert!(map.insert(slot));
                assert!(!map.insert(slot));
            }
            let free: Vec<u16> = (0..capacity).filter(|&s| !map.contains(s)).collect();
            assert_eq!(free.len(), usize::from(capacity - map.len()));
            for (rank, &slot) in free.iter().enumerate() {
                assert_eq!(map.nth_free(rank.try_into().unwrap()), Some(slot), "{rank} of {capacity}");
            }
            assert_eq!(map.nth_free(capacity - map.len()), None);
            assert!(map.iter(capacity).eq((0..capacity).filter(|&s| map.contains(s))));
        }
    }

    #[test]
    fn removed_slot_is_free_again() {
        let mut map = Bitmap::new(70);
        (0..70).for_each(|slot| assert!(map.insert(slot)));
        assert_eq!(map.nth_free(0), None);
        assert!(map.remove(69));
        assert!(!map.remove(69));
        assert_eq!((map.nth_free(0), map.len()), (Some(69), 69));
    }
}
