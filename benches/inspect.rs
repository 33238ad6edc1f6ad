//! Cost of parsing the first bytes of a connection.
#![allow(missing_docs)] // criterion_group! makes a public function without one

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use egret::inspect::{ParseProgress, inspect};
use std::hint::black_box;

const MAX: usize = 64 * 1024;

/// Complete hellos and heads: the seeds of fuzzing.
const INPUTS: &[(&str, &[u8])] = &[
    ("hello_517", include_bytes!("../fuzz/seeds/client_hello/517")),
    ("hello_1900", include_bytes!("../fuzz/seeds/client_hello/1900")),
    ("hello_in_one_byte_records", include_bytes!("../fuzz/seeds/client_hello/records_of_1")),
    ("http_head", include_bytes!("../fuzz/seeds/http_head/get")),
];

fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inspect");
    let mut scratch = Vec::new();
    for (name, bytes) in INPUTS {
        assert!(matches!(inspect(bytes, MAX, &mut scratch), ParseProgress::Done(_)));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(*name, |bencher| {
            bencher.iter(|| inspect(black_box(bytes), MAX, &mut scratch));
        });
    }
    group.finish();
}

/// Worst case: bytes arrive one at a time, and are inspected whenever there are enough.
fn dripping(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inspect_dripping");
    let mut scratch = Vec::new();
    for (name, bytes) in INPUTS {
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                let mut length = 0;
                while let ParseProgress::NeedMore { at_least } =
                    inspect(black_box(&bytes[..length]), MAX, &mut scratch)
                {
                    length = at_least;
                }
                length
            });
        });
    }
    group.finish();
}

criterion_group!(benches, whole, dripping);
criterion_main!(benches);
