//! Cached addresses of one name in one address family. Pure: time is a parameter.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Maximum addresses kept per name. A content network hands out a few of hundreds at a time.
const MOST: usize = 256;
/// Minimum time between lookups of a name whose addresses do not include a flow's.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Delay after a lookup that no server answered.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Minimum TTL: names requested every second are served from the cache.
const LEAST_TTL: Duration = Duration::from_secs(5);
const MOST_TTL: Duration = Duration::from_secs(24 * 3600);
/// Maximum TTL of a negative answer: new names are often used right after they are created.
const MOST_NEGATIVE_TTL: Duration = Duration::from_secs(30);

/// One server's answer about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameAnswer {
    /// Its addresses, and their TTL.
    Addresses(Vec<IpAddr>, Duration),
    /// No address, and the TTL of that.
    Absent(Duration),
}

/// Result of the last lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookupEnd {
    /// A server returned addresses.
    Answered,
    /// Servers answered, none with an address.
    Absent,
    /// No server answered.
    Failed,
}

/// State of a name in one family.
#[derive(Debug, Default)]
pub(super) struct NameEntry {
    /// At most [`MOST`], without duplicates.
    addresses: Vec<NameAddress>,
    last: Option<LastLookup>,
}

#[derive(Debug)]
struct NameAddress {
    ip: IpAddr,
    /// Expiry by the TTL of the last answer that contained it.
    until: Instant,
}

#[derive(Debug, Clone, Copy)]
struct LastLookup {
    end: LookupEnd,
    at: Instant,
    /// Expiry of the result.
    until: Instant,
}

impl NameEntry {
    /// Merges one server's answer. Returns its kind and expiry.
    pub(super) fn merge(&mut self, answer: &NameAnswer, now: Instant) -> (LookupEnd, Instant) {
        let (addresses, ttl) = match answer {
            NameAnswer::Addresses(addresses, ttl) => (addresses, ttl.clamp(&LEAST_TTL, &MOST_TTL)),
            NameAnswer::Absent(ttl) => {
                return (LookupEnd::Absent, now + *ttl.clamp(&LEAST_TTL, &MOST_NEGATIVE_TTL));
            }
        };
        let until = now + *ttl;
        for ip in addresses.iter().take(MOST) {
            match self.addresses.iter_mut().find(|known| known.ip == *ip) {
                Some(known) => known.until = known.until.max(until),
                None => self.addresses.push(NameAddress { ip: *ip, until }),
            }
        }
        if self.addresses.len() > MOST {
            self.addresses.sort_unstable_by_key(|known| std::cmp::Reverse(known.until));
            self.addresses.truncate(MOST);
        }
        (LookupEnd::Answered, until)
    }

    /// Ends a lookup with the merged answers. One server with addresses is enough; the result expires with the first of
    /// such answers.
    pub(super) fn conclude(&mut self, said: &[(LookupEnd, Instant)], now: Instant) {
        let first = |wanted| said.iter().filter(|(end, _)| *end == wanted).min_by_key(|(_, until)| *until);
        let (end, until) = *first(LookupEnd::Answered)
            .or_else(|| first(LookupEnd::Absent))
            .unwrap_or(&(LookupEnd::Failed, now + TRY_AGAIN));
        self.last = Some(LastLookup { end, at: now, until });
    }

    /// True if the address is the name's, or was until less than `grace` ago.
    pub(super) fn has(&self, ip: IpAddr, grace: Duration, now: Instant) -> bool {
        self.addresses.iter().any(|known| known.ip == ip && now <= known.until + grace)
    }

    /// Returns the addresses of answers that have not expired; if there are none, those that expired less than `grace`
    /// ago, the latest first.
    pub(super) fn addresses(&self, grace: Duration, now: Instant) -> Vec<IpAddr> {
        let mut acceptable: Vec<_> =
            self.addresses.iter().filter(|known| now <= known.until + grace).collect();
        if acceptable.iter().any(|known| now <= known.until) {
            acceptable.retain(|known| now <= known.until);
        } else {
            acceptable.sort_by_key(|known| std::cmp::Reverse(known.until));
        }
        acceptable.into_iter().map(|known| known.ip).collect()
    }

    /// True if an answer with addresses has not expired.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.addresses.iter().any(|known| now <= known.until)
    }

    /// Result of the last lookup, until it expires.
    pub(super) fn end(&self, now: Instant) -> Option<LookupEnd> {
        self.last.filter(|last| now < last.until).map(|last| last.end)
    }

    /// Result of the last lookup, even if expired.
    pub(super) fn last(&self) -> Option<LookupEnd> {
        self.last.map(|last| last.end)
    }

    /// Result of the last lookup for an address that it did not contain; `None` if a new lookup is needed. Answers
    /// rotate, so one that is more than a second old does not reject an address.
    pub(super) fn end_for_stranger(&self, now: Instant) -> Option<LookupEnd> {
        let last = self.last?;
        match last.end {
            LookupEnd::Answered => (now < last.at + LOOK_AGAIN).then_some(LookupEnd::Answered),
            LookupEnd::Absent | LookupEnd::Failed => self.end(now),
        }
    }

    /// Expiry of the last lookup's result.
    pub(super) fn until(&self) -> Option<Instant> {
        self.last.map(|last| last.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const HOUR: Duration = Duration::from_secs(3600);

    fn ip(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0xc000_0200 + n).into()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn answer(ips: &[u32], ttl: u64) -> NameAnswer {
        NameAnswer::Addresses(ips.iter().map(|&n| ip(n)).collect(), seconds(ttl))
    }

    fn told(known: &mut NameEntry, answers: &[NameAnswer], now: Instant) {
        let said: Vec<_> = answers.iter().map(|answer| known.merge(answer, now)).collect();
        known.conclude(&said, now);
    }

    #[test]
    fn address_expires_after_ttl_and_grace() {
        let start = crate::clock::now();
        let mut known = NameEntry::default();
        told(&mut known, &[answer(&[1], 60)], start);
        for (after, acceptable) in [(0, true), (60, true), (60 + 3600, true), (60 + 3601, false)] {
            assert_eq!(known.has(ip(1), HOUR, start + seconds(after)), acceptable, "after {after} s");
        }
        assert!(!known.has(ip(2), HOUR, start));
        assert!(!known.has(ip(1), Duration::ZERO, start + seconds(61)));
    }

    #[test]
    fn answers_accumulate_over_servers_and_lookups() {
        let start = crate::clock::now();
        let mut known = NameEntry::default();
        told(&mut known, &[answer(&[1], 20), answer(&[2], 60)], start);
        let later = start + seconds(30);
        told(&mut known, &[answer(&[3], 60)], later);
        assert!((1..=3).all(|n| known.has(ip(n), HOUR, later)));
        assert_eq!(known.addresses(HOUR, later), [ip(2), ip(3)], "what is dialled is what was said last");
        told(&mut known, &[NameAnswer::Absent(seconds(600))], later);
        assert!((1..=3).all(|n| known.has(ip(n), HOUR, later)));
        assert_eq!(known.end(later), Some(LookupEnd::Absent));
        assert_eq!(known.end(later + seconds(31)), None, "a negative answer is short-lived");
    }

    #[test]
    fn one_answering_server_suffices() {
        let start = crate::clock::now();
        let mut known = NameEntry::default();
        told(&mut known, &[], start);
        assert_eq!(known.end(start), Some(LookupEnd::Failed));
        assert_eq!(known.end(start + TRY_AGAIN), None, "it is tried again soon");
        told(&mut known, &[NameAnswer::Absent(seconds(9)), answer(&[1], 60)], start);
        assert_eq!(known.end(start), Some(LookupEnd::Answered));
    }

    #[test]
    fn unknown_address_needs_fresh_lookup() {
        let start = crate::clock::now();
        let mut known = NameEntry::default();
        assert_eq!(known.end_for_stranger(start), None);
        told(&mut known, &[answer(&[1], 3600)], start);
        assert_eq!(known.end_for_stranger(start), Some(LookupEnd::Answered));
        assert_eq!(known.end_for_stranger(start + LOOK_AGAIN), None);
        assert_eq!(known.end(start + LOOK_AGAIN), Some(LookupEnd::Answered));
    }

    #[test]
    fn stale_addresses_serve_latest_first() {
        let start = crate::clock::now();
        let mut known = NameEntry::default();
        told(&mut known, &[answer(&[1], 10)], start);
        told(&mut known, &[answer(&[2], 10)], start + seconds(5));
        assert_eq!(known.addresses(HOUR, start + seconds(100)), [ip(2), ip(1)]);
        assert_eq!(known.addresses(HOUR, start + seconds(10) + HOUR), [ip(2), ip(1)]);
        assert_eq!(known.addresses(HOUR, start + seconds(11) + HOUR), [ip(2)]);
        assert!(known.addresses(HOUR, start + seconds(16) + HOUR).is_empty());
    }

    proptest! {
        #[test]
        fn known_addresses_are_bounded_to_latest(
            answers in proptest::collection::vec(
                (0..2000_u32, 1..400_u32, 5..100_u64), 1..20)
        ) {
            let mut now = crate::clock::now();
            let mut known = NameEntry::default();
            for (first, count, ttl) in answers {
                now += seconds(1);
                let ips: Vec<_> = (first..first + count).collect();
                told(&mut known, &[answer(&ips, ttl)], now);
                prop_assert!(known.addresses.len() <= MOST);
                let mut distinct: Vec<_> = known.addresses.iter().map(|known| known.ip).collect();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(distinct.len(), known.addresses.len());
                prop_assert_eq!(known.end(now), Some(LookupEnd::Answered));
            }
        }
    }
}
