//! Costs of the flow table with 100,000 flows in it: a flow from accept to end, a message, and reading them all; then the
//! same flow beside a thread that reads without pause.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::unwrap_used, reason = "nobody depends on a benchmark")]

use criterion::{Criterion, criterion_group, criterion_main};
use egret::addr::{ClientAddr, OriginalDestination};
use egret::clock;
use egret::flow::{FlowHandle, FlowId, FlowOpener, FlowRecord, FlowState, FlowTable, MessageCounter};
use std::hint::black_box;
use std::ops::RangeFrom;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const FLOWS: u64 = 100_000;

fn open(opener: &Rc<FlowOpener>, number: u64) -> FlowHandle {
    let client = ClientAddr::new("10.0.1.7:40000".parse().unwrap());
    let to = OriginalDestination::tcp("198.51.100.9:443".parse().unwrap());
    let mut flow = opener.open(FlowId { process: 0, number }, client, to);
    flow.record().tenant = Some("acme".into());
    flow
}

/// A flow from accept to end.
fn life(opener: &Rc<FlowOpener>, number: u64) {
    let flow = open(opener, number);
    flow.set_state(FlowState::Relaying);
    flow.add(MessageCounter::Up, 517);
    drop(black_box(flow));
}

fn read_all(table: &FlowTable) -> Vec<FlowRecord> {
    table.entries().iter().map(|entry| entry.record()).collect()
}

/// Measures flows from accept to end, and prints how long the longest took.
fn lives(c: &mut Criterion, name: &str, opener: &Rc<FlowOpener>, numbers: &mut RangeFrom<u64>) {
    let mut longest = Duration::ZERO;
    c.bench_function(name, |b| {
        b.iter(|| {
            let before = clock::now();
            life(opener, numbers.next().unwrap());
            longest = longest.max(clock::now() - before);
        });
    });
    println!("{name}: at most {longest:?}");
}

fn flows(c: &mut Criterion) {
    let table = Arc::new(FlowTable::new(vec![Box::new(|event| _ = black_box(event))]));
    let opener = FlowOpener::new(Arc::clone(&table));
    let flows: Vec<_> = (0..FLOWS).map(|number| open(&opener, number)).collect();
    let mut numbers = FLOWS..;
    c.bench_function("flows/message", |b| b.iter(|| flows[7].add(MessageCounter::Up, black_box(1460))));
    c.bench_function("flows/read_100_000_records", |b| b.iter(|| read_all(black_box(&table))));
    lives(c, "flows/open_to_closed", &opener, &mut numbers);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                drop(black_box(read_all(&table)));
            }
        });
        lives(c, "flows/open_to_closed_beside_reader", &opener, &mut numbers);
        done.store(true, Ordering::Relaxed);
    });
}

criterion_group!(benches, flows);
criterion_main!(benches);
