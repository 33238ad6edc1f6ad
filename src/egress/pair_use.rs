//! Port usage between a source address and a destination.

/// Port usage between a source address and a destination. free + live + held = capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairUse {
    /// Ports of the source address towards each destination.
    pub capacity: u16,
    /// Leased ports.
    pub live: u16,
    /// Ports that are not leased and may not be leased again yet.
    pub held: u16,
}

impl PairUse {
    /// Ports that can be leased.
    pub fn free(self) -> u16 {
        self.capacity - self.live - self.held
    }

    /// Ports that cannot be leased: live and held.
    pub fn in_use(self) -> u16 {
        self.live + self.held
    }
}
