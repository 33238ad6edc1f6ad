//! Names over time, with scripted DNS servers and a simulated clock.

use super::lookup_limiter::{LookupLimiter, TenantLookups};
use super::names::{AddressMatch, LookupError, LookupMeters, NameCache, ResolveError};
use super::refresh;
use super::shards::NameKey;
use crate::family::Family;
use crate::hostname::Hostname;
use crate::verify::NameAnswer;
use metrics::{Counter, Histogram, HistogramFn};
use std::iter;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{advance, sleep};

const GRACE: Duration = Duration::from_secs(3600);
const ONE: &str = "192.0.2.1";
const TWO: &str = "192.0.2.2";
const THREE: &str = "192.0.2.3";
const SIX: &str = "2001:db8::6";

/// One server's answer, and its delay; `None`: never.
type ScriptedAnswer = (u64, Option<NameAnswer>);

/// Each server's answers to the next lookups, and the names queried.
#[derive(Default)]
struct ScriptedServers {
    says: Mutex<Vec<ScriptedAnswer>>,
    asked: Mutex<Vec<String>>,
}

impl ScriptedServers {
    fn say(&self, says: Vec<ScriptedAnswer>) {
        *self.says.lock().unwrap() = says;
    }

    fn lookups(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn paused_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn names(says: Vec<ScriptedAnswer>) -> (NameCache, Arc<ScriptedServers>) {
    names_with(says, LookupLimiter::default(), Histogram::noop())
}

fn names_with(
    says: Vec<ScriptedAnswer>,
    places: LookupLimiter,
    duration: Histogram,
) -> (NameCache, Arc<ScriptedServers>) {
    let script = Arc::new(ScriptedServers::default());
    script.say(says);
    let servers = Arc::clone(&script);
    let ask = Box::new(move |name: &Hostname, family: Family| {
        servers.asked.lock().unwrap().push(format!("{name} {family:?}"));
        let (said, answers) = mpsc::channel(8);
        for (after, says) in servers.says.lock().unwrap().clone() {
            let said = said.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(after)).await;
                match says.filter(|says| suits(says, family)) {
                    Some(says) => drop(said.send(says).await),
                    None => sleep(Duration::from_secs(3600)).await,
                }
            });
        }
        answers
    });
    let counter = Counter::noop;
    let meters = LookupMeters {
        answered: counter(),
        absent: counter(),
        failed: counter(),
        refused: counter(),
        duration,
    };
    (NameCache::new(ask, GRACE, places, Handle::current(), paused_now, meters), script)
}

fn suits(answer: &NameAnswer, family: Family) -> bool {
    match answer {
        NameAnswer::Addresses(addresses, _) => addresses.iter().all(|ip| Family::of(*ip) == family),
        NameAnswer::Absent(_) => true,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name() -> Hostname {
    "api.example.com".parse().unwrap()
}

fn after(milliseconds: u64, addresses: &[&str], ttl: u64) -> ScriptedAnswer {
    let addresses = addresses.iter().map(|address| ip(address)).collect();
    (milliseconds, Some(NameAnswer::Addresses(addresses, Duration::from_secs(ttl))))
}

fn at_once(addresses: &[&str], ttl: u64) -> ScriptedAnswer {
    after(0, addresses, ttl)
}

const DEAD: ScriptedAnswer = (0, None);

/// The only tenant of a test with one.
fn asker() -> TenantLookups {
    thread_local!(static ONE: TenantLookups = TenantLookups::default());
    ONE.with(Clone::clone)
}

async fn check(names: &NameCache, address: &str) -> AddressMatch {
    names.check(&name(), ip(address), &asker()).await
}

async fn resolve(names: &NameCache, families: &[Family]) -> Result<Vec<IpAddr>, ResolveError> {
    names.resolve(&name(), families, &asker()).await
}

#[tokio::test(start_paused = true)]
async fn first_server_naming_the_address_suffices() {
    let (names, _) = names(vec![after(10, &[ONE], 60), after(20, &[TWO], 60), DEAD]);
    let start = paused_now();
    assert_eq!(check(&names, TWO).await, AddressMatch::Yes);
    assert_eq!(paused_now() - start, Duration::from_millis(20), "it did not wait for the dead server");
    assert_eq!(check(&names, THREE).await, AddressMatch::No);
    assert_eq!(paused_now() - start, Duration::from_secs(5), "a mismatch waits for all, within bounds");
}

#[tokio::test(start_paused = true)]
async fn rotated_address_is_found_by_new_lookup() {
    let (names, script) = names(vec![at_once(&[ONE], 300)]);
    assert_eq!(check(&names, ONE).await, AddressMatch::Yes);
    assert_eq!(check(&names, TWO).await, AddressMatch::No);
    assert_eq!(script.lookups(), 1, "an answer of this very second is believed");
    script.say(vec![at_once(&[TWO], 300)]);
    advance(Duration::from_secs(2)).await;
    assert_eq!(check(&names, TWO).await, AddressMatch::Yes);
    assert_eq!(check(&names, ONE).await, AddressMatch::Yes, "the one before is still good");
    assert_eq!(script.lookups(), 2);
}

#[tokio::test(start_paused = true)]
async fn concurrent_flows_share_one_lookup() {
    let (names, script) = names(vec![after(50, &[ONE], 60)]);
    let asker = TenantLookups::default();
    let mut flows = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let (names, asker) = (names.clone(), asker.clone());
        flows.spawn(async move { names.check(&name(), ip(ONE), &asker).await });
    }
    assert!(flows.join_all().await.iter().all(|found| *found == AddressMatch::Yes));
    assert_eq!(script.lookups(), 1);
}

#[tokio::test(start_paused = true)]
async fn stale_addresses_serve_during_grace() {
    let (names, script) = names(vec![at_once(&[ONE], 60)]);
    assert_eq!(check(&names, ONE).await, AddressMatch::Yes);
    script.say(vec![DEAD]);
    advance(GRACE).await;
    let start = paused_now();
    assert_eq!(check(&names, ONE).await, AddressMatch::Yes);
    assert_eq!(start, paused_now(), "nobody waits for a name that is known");
    assert_eq!(check(&names, TWO).await, AddressMatch::Unknown(LookupError::NoAnswer));
    assert_eq!(resolve(&names, &[Family::V4]).await, Ok(vec![ip(ONE)]));
    advance(Duration::from_secs(60)).await;
    assert_eq!(check(&names, ONE).await, AddressMatch::Unknown(LookupError::NoAnswer));
    assert_eq!(
        resolve(&names, &[Family::V4]).await,
        Err(ResolveError::Unknown(LookupError::NoAnswer)),
        "never a guess"
    );
}

#[tokio::test(start_paused = true)]
async fn negative_answers_are_cached() {
    let (names, script) = names(vec![(0, Some(NameAnswer::Absent(Duration::from_secs(3600))))]);
    for _ in 0..3 {
        assert_eq!(check(&names, ONE).await, AddressMatch::Absent);
        assert_eq!(resolve(&names, &[Family::V4]).await, Err(ResolveError::Absent));
        advance(Duration::from_secs(5)).await;
    }
    assert_eq!(script.lookups(), 1);
    script.say(vec![at_once(&[ONE], 60)]);
    advance(Duration::from_secs(30)).await;
    assert_eq!(check(&names, ONE).await, AddressMatch::Yes);
}

#[tokio::test(start_paused = true)]
async fn dialled_addresses_are_fresh_and_interleaved() {
    let (names, script) = names(vec![at_once(&[ONE, TWO], 60), at_once(&[SIX], 60)]);
    let both = [Family::V6, Family::V4];
    // each lookup waits for the server without addresses of its family
    assert_eq!(resolve(&names, &both).await.map(|found| found[0]), Ok(ip(SIX)));
    advance(Duration::from_secs(6)).await;
    assert_eq!(resolve(&names, &both).await, Ok(vec![ip(SIX), ip(ONE), ip(TWO)]));
    advance(Duration::from_secs(61)).await;
    script.say(vec![at_once(&[THREE], 60)]);
    assert_eq!(resolve(&names, &[Family::V4]).await, Ok(vec![ip(THREE)]), "old addresses are not dialled");
    advance(Duration::from_secs(61)).await;
    script.say(vec![DEAD]);
    let start = paused_now();
    assert_eq!(resolve(&names, &[Family::V4]).await.map(|found| found.len()), Ok(3));
    assert_eq!(paused_now() - start, Duration::from_millis(500), "older addresses serve soon");
}

#[tokio::test(start_paused = true)]
async fn made_up_names_delay_no_others() {
    let (names, _) = names(vec![DEAD]);
    let (busy, other) = (TenantLookups::default(), TenantLookups::default());
    let mut flows = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (names, busy) = (names.clone(), busy.clone());
        let made_up = format!("n{n}.example.com").parse().unwrap();
        flows.spawn(async move { names.check(&made_up, ip(ONE), &busy).await });
    }
    tokio::task::yield_now().await;
    let start = paused_now();
    assert_eq!(names.check(&name(), ip(ONE), &other).await, AddressMatch::Unknown(LookupError::NoAnswer));
    assert_eq!(paused_now() - start, Duration::from_secs(5), "it was asked for");
    let refused = flows.join_all().await;
    let refused = refused.iter().filter(|found| **found == AddressMatch::Unknown(LookupError::Busy)).count();
    assert_eq!(refused, 200 - 128);
}

#[tokio::test(start_paused = true)]
async fn rule_names_are_prefetched_and_refreshed() {
    let (names, script) = names(vec![at_once(&[ONE], 60)]);
    let (pins, pinned) = mpsc::unbounded_channel();
    tokio::spawn(refresh::run(names.clone(), pinned));
    let keys = [NameKey { name: name(), family: Family::V4 }];
    names.pin(&keys.clone().into());
    pins.send(keys.into()).unwrap();
    sleep(Duration::from_secs(1)).await;
    let start = paused_now();
    assert_eq!(check(&names, ONE).await, AddressMatch::Yes);
    assert_eq!(paused_now(), start);
    assert_eq!(script.lookups(), 1);
    sleep(Duration::from_secs(600)).await;
    assert!(
        (10..=11).contains(&script.lookups()),
        "{} lookups in ten minutes of a minute each",
        script.lookups()
    );
    pins.send([].into()).unwrap();
    names.pin(&[].into());
    sleep(Duration::from_secs(1)).await;
    let before = script.lookups();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(script.lookups(), before, "a name that no rule has is left alone");
}

#[tokio::test(start_paused = true)]
async fn rule_names_outlive_made_up_ones() {
    let (names, _) = names(vec![at_once(&[ONE], 60)]);
    names.pin(&[NameKey { name: name(), family: Family::V4 }].into());
    assert_eq!(check(&names, ONE).await, AddressMatch::Yes);
    let asker = TenantLookups::default();
    for n in 0..70_000 {
        let made_up = format!("n{n}.example.com").parse().unwrap();
        assert_eq!(names.check(&made_up, ip(ONE), &asker).await, AddressMatch::Yes);
    }
    assert!(names.count() <= 65_537, "{}", names.count());
    assert_eq!(names.known(&name(), &Family::ALL, None), [ip(ONE)]);
    assert!(names.known(&name(), &[Family::V6], None).is_empty(), "of the other family");
}

#[tokio::test(start_paused = true)]
async fn probes_take_no_lookups_places() {
    let (names, _) = names(vec![at_once(&[ONE], 60)]);
    let (probes, asker) = (LookupLimiter::default(), TenantLookups::default());
    let held: Vec<_> = iter::from_fn(|| probes.take(&asker.probes)).collect();
    assert_eq!(held.len(), 128);
    assert_eq!(names.check(&name(), ip(ONE), &asker).await, AddressMatch::Yes);
}

/// Durations as they are recorded, in seconds.
#[derive(Default)]
struct Durations(Mutex<Vec<f64>>);

impl HistogramFn for Durations {
    fn record(&self, seconds: f64) {
        self.0.lock().unwrap().push(seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn wait_for_place_is_no_lookup_time() {
    let durations = Arc::new(Durations::default());
    let one_place = LookupLimiter::default().with_each(usize::MAX);
    let recorded = Histogram::from_arc(Arc::clone(&durations));
    let (names, _) = names_with(vec![after(2000, &[ONE], 60)], one_place, recorded);
    let [one, two] = ["one.example.com", "two.example.com"]
        .map(|name| NameKey { name: name.parse().unwrap(), family: Family::V4 });
    let begun = paused_now();
    tokio::join!(names.refresh(&one), names.refresh(&two));
    assert_eq!((paused_now() - begun).as_secs(), 4, "one after the other");
    let recorded = durations.0.lock().unwrap();
    assert!(
        recorded.len() == 2 && recorded.iter().all(|seconds| (2.0..2.1).contains(seconds)),
        "{recorded:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn made_up_names_evict_no_others() {
    let (names, script) = names(vec![at_once(&[ONE], 5)]);
    let (good, hostile) = (TenantLookups::default(), TenantLookups::default());
    assert_eq!(names.check(&name(), ip(ONE), &good).await, AddressMatch::Yes);
    script.say(vec![at_once(&[TWO], 5)]);
    advance(Duration::from_secs(6)).await;
    for n in 0..75_000 {
        let made_up = format!("n{n}.example.com").parse().unwrap();
        assert_eq!(names.check(&made_up, ip(TWO), &hostile).await, AddressMatch::Yes);
    }
    assert!(names.count() <= 65_536, "{}", names.count());
    assert_eq!(names.check(&name(), ip(ONE), &good).await, AddressMatch::Yes, "within the grace period");
    assert_eq!(names.check(&name(), ip(ONE), &hostile).await, AddressMatch::No, "it never knew that address");
}
