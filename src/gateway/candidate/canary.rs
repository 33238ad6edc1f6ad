//! Canary: enforces a candidate for a share of clients first, and rolls back if it denies too much.

use crate::addr::ClientAddr;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Period over which denials are compared.
pub const WINDOW: Duration = Duration::from_secs(SLOTS as u64 * SLOT.as_secs());
/// Fewest newly denied flows for a rollback: fewer are chance, whatever their share.
pub const FEWEST: u32 = 5;

const SLOT: Duration = Duration::from_secs(30);
const SLOTS: usize = 10;

/// Terms of a canary, as set by an operator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CanaryTerms {
    /// Share of clients, 1 to 100.
    pub percent: u8,
    /// Most flows of these clients, in percent, that the candidate may deny and the policy in force allows, within
    /// [`WINDOW`]. 100: no limit.
    pub max_denials: f64,
}

/// True if a client belongs to the share of so many percent. This is the same over restarts and for every candidate; a
/// smaller share is part of every larger one.
pub(super) fn covers(percent: u8, client: ClientAddr) -> bool {
    bucket(client.ip()) % 100 < u64::from(percent)
}

/// FNV-1a of the address, mixed (splitmix64): its low bits alone follow the last byte of the address.
fn bucket(address: IpAddr) -> u64 {
    let fold = |bytes: &[u8]| {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
    };
    let hash = match address {
        IpAddr::V4(address) => fold(&address.octets()),
        IpAddr::V6(address) => fold(&address.octets()),
    };
    let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

/// Sliding window: flows of the canary's clients over the last [`WINDOW`], and those that only the candidate denied.
#[derive(Debug)]
pub(super) struct DenialWindow {
    started: Instant,
    slots: [WindowSlot; SLOTS],
}

#[derive(Debug, Clone, Copy, Default)]
struct WindowSlot {
    /// Index of its [`SLOT`] since the start.
    number: u64,
    flows: u32,
    denied: u32,
}

impl DenialWindow {
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, slots: [WindowSlot::default(); SLOTS] }
    }

    /// Counts a flow. Returns the numbers of denied and of all flows if there are now too many denials.
    pub(super) fn note(&mut self, newly_denied: bool, now: Instant, max_denials: f64) -> Option<(u32, u32)> {
        let number = now.saturating_duration_since(self.started).as_secs() / SLOT.as_secs();
        let slot = &mut self.slots[usize::try_from(number % SLOTS as u64).unwrap_or(0)];
        if slot.number != number {
            *slot = WindowSlot { number, ..WindowSlot::default() };
        }
        slot.flows += 1;
        slot.denied += u32::from(newly_denied);
        if !newly_denied {
            return None;
        }
        // Another worker may have counted a flow of the next slot already.
        let recent = self.slots.iter().filter(|slot| number.saturating_sub(slot.number) < SLOTS as u64);
        let (denied, flows) =
            recent.fold((0, 0), |(denied, flows), slot| (denied + slot.denied, flows + slot.flows));
        let bound = f64::from(flows) * max_denials / 100.0;
        (denied >= FEWEST && f64::from(denied) > bound).then_some((denied, flows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn client(number: u32) -> ClientAddr {
        ClientAddr::new((std::net::Ipv4Addr::from_bits(0x0a00_0000 + number), 1).into())
    }

    fn share(percent: u8) -> Vec<u32> {
        (0..10_000).filter(|&number| covers(percent, client(number))).collect()
    }

    #[test]
    fn shares_are_exact_and_nested() {
        for percent in [1, 10, 50, 99] {
            let found = share(percent).len();
            assert!(found.abs_diff(usize::from(percent) * 100) < 200, "{percent} %: {found} of 10000");
        }
        assert_eq!(share(100).len(), 10_000);
        let larger = share(30);
        assert!(share(10).iter().all(|number| larger.binary_search(number).is_ok()));
        // neighbours are spread: of each network of 256 about a tenth is there
        assert!((0..39).all(|net| share(10).iter().any(|number| number / 256 == net)));
    }

    #[test]
    fn share_membership_is_stable() {
        assert_eq!(bucket("10.0.0.1".parse().unwrap()), 0xe7a7_7091_5e3a_6bb4);
        assert_eq!(bucket("2001:db8::1".parse().unwrap()), 0x216d_ba65_aa6c_0c57);
    }

    #[test]
    fn excess_denials_trip_and_few_do_not() {
        let start = clock::now();
        let mut watch = DenialWindow::new(start);
        for _ in 1..FEWEST {
            assert_eq!(watch.note(true, start, 1.0), None);
        }
        assert_eq!(watch.note(true, start, 1.0), Some((FEWEST, FEWEST)));
    }

    #[test]
    fn denial_bound_is_relative_to_flows() {
        let start = clock::now();
        let mut watch = DenialWindow::new(start);
        for _ in 0..990 {
            assert_eq!(watch.note(false, start, 1.0), None);
        }
        for denied in 1..=10 {
            assert_eq!(watch.note(true, start, 1.0), None, "{denied} of {} is 1 %", 990 + denied);
        }
        assert_eq!(watch.note(true, start, 1.0), Some((11, 1001)));
        assert_eq!(watch.note(true, start, 100.0), None, "a bound of 100 % is none");
    }

    #[test]
    fn flows_may_be_counted_out_of_order() {
        let start = clock::now();
        let mut watch = DenialWindow::new(start);
        assert_eq!(watch.note(true, start + SLOT, 1.0), None);
        assert_eq!(watch.note(true, start, 1.0), None);
    }

    #[test]
    fn denials_before_the_window_are_forgotten() {
        let start = clock::now();
        let mut watch = DenialWindow::new(start);
        for _ in 1..FEWEST {
            assert_eq!(watch.note(true, start, 1.0), None);
        }
        assert_eq!(watch.note(true, start + WINDOW + SLOT, 1.0), None);
        let mut watch = DenialWindow::new(start);
        for _ in 1..FEWEST {
            assert_eq!(watch.note(true, start + SLOT, 1.0), None);
        }
        assert!(watch.note(true, start + WINDOW, 1.0).is_some(), "what is within it is not");
    }
}
