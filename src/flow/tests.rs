use super::fixtures::{accepted, leased};
use super::*;
use crate::outcome::Outcome;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;

const CLIENT: &str = "10.0.1.7:40000";
const SOURCE: &str = "203.0.113.16:5000";
const SERVER: &str = "198.51.100.9:443";

fn opened_table(sinks: Vec<FlowSink>) -> (Arc<FlowTable>, Rc<FlowOpener>) {
    let table = Arc::new(FlowTable::new(sinks));
    let opener = FlowOpener::new(Arc::clone(&table));
    (table, opener)
}

/// A sink, and the events that it received, as texts.
fn journal() -> (FlowSink, Arc<Mutex<Vec<String>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let journal = Arc::clone(&events);
    let sink = move |event: FlowEvent<'_>| {
        journal.lock().unwrap().push(match event {
            FlowEvent::Opened(entry) => format!("opened {}", entry.id().number),
            FlowEvent::Updated(entry) => format!("{:?}", entry.state()),
            FlowEvent::Closed(record) => format!("closed {} {}", record.flow.number, record.outcome),
        });
    };
    (Box::new(sink), events)
}

#[test]
fn entry_is_readable_in_every_state() {
    let (table, opener) = opened_table(Vec::new());
    let entry = |number| table.find(number).unwrap();

    let inspecting = accepted(&opener, 0, CLIENT, SERVER);
    assert_eq!(entry(0).state(), FlowState::Inspecting);
    let record = entry(0).record();
    assert_eq!((record.client, record.source), (inspecting.read(|record| record.client), None));
    assert!(entry(0).live_flow().is_none(), "it holds no lease");

    let mut flows: Vec<_> = (1..=3)
        .map(|number| {
            let name = Some("api.example.com");
            leased(&table, &opener, (number, "acme", CLIENT), (SOURCE, SERVER), name)
        })
        .collect();
    for (_, flow) in &flows[1..] {
        flow.set_state(FlowState::Relaying);
        flow.add(MessageCounter::Up, 517);
        flow.add(MessageCounter::Down, 1000);
        flow.add(MessageCounter::Down, 48);
        flow.add(MessageCounter::Requests, 2);
    }
    let (listing, ending) = flows.pop().unwrap();
    drop(listing);
    ending.set_state(FlowState::Ending);

    assert_eq!(table.count(), 4);
    let mut entries = table.entries();
    entries.sort_by_key(|entry| entry.id().number);
    let states: Vec<_> = entries.iter().map(|entry| entry.state()).collect();
    let all = [FlowState::Inspecting, FlowState::Dialling, FlowState::Relaying, FlowState::Ending];
    assert_eq!(states, all);
    let leases: Vec<_> = entries.iter().map(|entry| entry.live_flow().is_some()).collect();
    assert_eq!(leases, [false, true, true, false]);
    for (entry, bytes) in entries[1..].iter().zip([(0, 0), (517, 1048), (517, 1048)]) {
        let record = entry.record();
        assert_eq!((entry.count(MessageCounter::Up), entry.count(MessageCounter::Down)), bytes);
        assert_eq!((record.bytes_up, record.bytes_down), bytes);
        assert_eq!(record.tenant.as_deref(), Some("acme"));
        assert_eq!(record.pool.as_deref(), Some("pool"));
        assert_eq!(record.rule.as_deref(), Some("egret.toml:12"));
        assert_eq!(record.hostname.unwrap().to_string(), "api.example.com");
        assert_eq!(record.source.unwrap().to_string(), SOURCE);
        assert!(record.time <= crate::clock::timestamp() && record.duration <= entry.age());
    }
    assert_eq!(entries[2].record().requests, Some(2));

    drop((inspecting, flows, ending));
    assert_eq!((table.count(), table.entries().len()), (0, 0));
    let states: Vec<_> = entries.iter().map(|entry| entry.state()).collect();
    assert_eq!(states, [FlowState::Closed; 4], "whoever still holds them can tell");
    assert_eq!(entries[2].record().bytes_down, 1048);
}

/// An idle flow shall cost 1.6 KiB in all: with its task, which `flow_task_is_small` bounds, and two sockets.
#[test]
fn flow_entry_is_small() {
    let size = size_of::<FlowEntry>();
    assert!(size <= 456, "{size} bytes");
}

#[test]
fn every_sink_hears_each_event_once() {
    let ((first, heard), (second, heard_too)) = (journal(), journal());
    let (table, opener) = opened_table(vec![first, second]);
    let (listing, mut flow) = leased(&table, &opener, (7, "acme", CLIENT), (SOURCE, SERVER), None);
    flow.set_state(FlowState::Relaying);
    drop(listing);
    flow.set_outcome(Outcome::Closed);
    assert_eq!(flow.finish().outcome, Outcome::Closed);
    drop(flow);
    let events = heard.lock().unwrap().clone();
    assert_eq!(events, ["opened 7", "Dialling", "Relaying", "closed 7 closed"]);
    assert_eq!(*heard_too.lock().unwrap(), events);
}

#[test]
fn every_flow_end_leaves_one_record() {
    let (sink, heard) = journal();
    let (table, opener) = opened_table(vec![sink]);
    let mut finished = accepted(&opener, 0, CLIENT, SERVER);
    finished.set_outcome(Outcome::Closed);
    drop(finished);
    let panicked = accepted(&opener, 1, CLIENT, SERVER);
    let task = AssertUnwindSafe(move || {
        let _flow = panicked;
        panic!("a flow's own");
    });
    assert!(catch_unwind(task).is_err());
    let cut_off = accepted(&opener, 2, CLIENT, SERVER);
    opener.set_cut_off(Outcome::Drained);
    drop(cut_off);
    let closed: Vec<_> =
        heard.lock().unwrap().iter().filter(|event| event.starts_with("closed")).cloned().collect();
    assert_eq!(closed, ["closed 0 closed", "closed 1 internal_error", "closed 2 drained"]);
    assert_eq!(table.count(), 0);
}

#[test]
fn only_revoked_flow_is_woken() {
    struct Wakes(AtomicU32);
    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (table, opener) = opened_table(Vec::new());
    let _unlisted = accepted(&opener, 9, CLIENT, SERVER);
    let flows: Vec<_> = (0..3)
        .map(|number| leased(&table, &opener, (number, "acme", CLIENT), (SOURCE, SERVER), None))
        .collect();
    let alarms: Vec<_> = flows.iter().map(|_| Arc::new(Wakes(AtomicU32::new(0)))).collect();
    let poll = |n: usize| {
        let waker = Waker::from(Arc::clone(&alarms[n]));
        flows[n].0.poll_revoked(&Context::from_waker(&waker))
    };
    let woken = || alarms.iter().map(|alarm| alarm.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
    // The third has not waited yet.
    assert!(poll(0).is_pending() && poll(1).is_pending());
    let but_the_first = |flow: &LiveFlow| (flow.id.number != 0).then_some(RevocationReason("not the first"));
    assert_eq!(table.revoke(|_| None), 0);
    assert_eq!(table.revoke(but_the_first), 2, "those that hold a lease");
    assert_eq!(woken(), [0, 1, 0]);
    let why = Poll::Ready(RevocationReason("not the first"));
    assert_eq!([poll(0), poll(1), poll(2)], [Poll::Pending, why, why]);
    assert_eq!(table.revoke(but_the_first), 0, "each is revoked once");
    // One that has looked is woken all the same the next time.
    assert!(poll(0).is_pending());
    assert_eq!(table.revoke(|_| Some(RevocationReason("all"))), 1);
    assert_eq!(woken(), [1, 1, 0]);
    assert!(poll(0).is_ready());
}

/// Deadlocks if a reader held a lock of the table, or of the entry, while it looks at a flow.
#[test]
fn reading_all_flows_locks_out_none() {
    const FLOWS: u64 = 100_000;
    let (table, opener) = opened_table(Vec::new());
    let mut flows: Vec<_> = (0..FLOWS)
        .map(|number| leased(&table, &opener, (number, "acme", CLIENT), (SOURCE, SERVER), None))
        .collect();
    let mut next = FLOWS;
    let mut looked = 0;
    table.each(|flow| {
        looked += 1;
        let (_, handle) = &mut flows[usize::try_from(flow.id.number).unwrap()];
        handle.add(MessageCounter::Up, 1);
        handle.record().detail = Some("written meanwhile");
        drop(accepted(&opener, next, CLIENT, SERVER));
        next += 1;
    });
    assert_eq!(looked, FLOWS);
}

#[test]
fn counts_are_whole_while_they_are_read() {
    const MESSAGES: u64 = 200_000;
    let (table, opener) = opened_table(Vec::new());
    let flow = accepted(&opener, 0, CLIENT, SERVER);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut last, entry) = (0, table.find(0).unwrap());
            while !done.load(Ordering::Acquire) {
                let count = entry.count(MessageCounter::Down);
                assert!(count >= last && count % 3 == 0, "{last} bytes, and now {count}");
                last = count;
            }
        });
        for _ in 0..MESSAGES {
            flow.add(MessageCounter::Down, 3);
        }
        done.store(true, Ordering::Release);
        reader.join().unwrap();
    });
    assert_eq!(flow.entry().record().bytes_down, 3 * MESSAGES);
}
