//! What does selection cost beside merely looking at the logits?
//!
//! Selection finds the 12 largest of a row and sums exponentials at five nodes over the rest. The
//! yardstick is the plain sum of the same rows, on the same threads: it reads every logit once and
//! does next to nothing with it, so that nothing which looks at all logits can be much faster.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use kd_cache::permutation::Permutation;
use kd_cache::select::Selector;
use kd_cache::target::TailNodes;
use rayon::prelude::*;

const K: usize = 12;
/// Classes and rows: an image classifier's, and a language model's.
const SHAPES: [(usize, usize); 2] = [(1_000, 512), (49_152, 64)];

/// Logits that spread over about 16 nats in no order.
fn logits(values: usize) -> Vec<f32> {
    let noise = Permutation::new(1 << 20, 0, 0);
    (0..values as u64).map(|i| noise.at(i % (1 << 20)) as f32 / (1 << 16) as f32).collect()
}

/// The sum of a row in sixteen lanes, which compilers vectorise.
fn plain_sum(row: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = row.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

fn main() {
    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(3)).configure_from_args();
    let mut group = criterion.benchmark_group("selection");
    for (classes, rows) in SHAPES {
        let logits = logits(classes * rows);
        let name = format!("k{K}_v{classes}_b{rows}");
        group.throughput(Throughput::Elements(rows as u64));
        let Some(selector) = Selector::new(classes, K, &TailNodes::default()) else {
            unreachable!("{K} of {classes} classes")
        };
        group.bench_function(BenchmarkId::new("select", &name), |bench| {
            bench.iter(|| selector.select(black_box(&logits)));
        });
        group.bench_function(BenchmarkId::new("plain_sum", &name), |bench| {
            bench.iter(|| black_box(&logits).par_chunks(classes).map(plain_sum).sum::<f32>());
        });
    }
    group.finish();
    criterion.final_summary();
}
