//! What does it cost to read rows in random order rather than one after another?
//!
//! Training visits samples in random order, so a batch is gathered row by row from mapped shards.
//! The cache is in the page cache: what is timed is finding and copying rows, not the disk.

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use kd_cache::cache::{Beginnings, CacheReader, ShardRows};
use kd_cache::config::ValueEncoding;
use kd_cache::ids::SampleId;
use kd_cache::permutation::Permutation;
use kd_cache::target::{DEFAULT_NODES, TailModel, TailPrior, TargetBatch};

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use synthetic::Synthetic;

const CLASSES: usize = 49_152;
const K: usize = 12;
const BATCH: usize = 256;
const SHARDS: u64 = 16;
const ROWS_PER_SHARD: u64 = 65_536;

/// A cache of 2^20 rows with the columns of a language model's; what the values are is not timed.
fn write(dir: &Path) {
    let settings = Synthetic {
        samples: SHARDS * ROWS_PER_SHARD,
        classes: CLASSES,
        k: K,
        nodes: DEFAULT_NODES.to_vec(),
        values: ValueEncoding::F16,
        shard_samples: ROWS_PER_SHARD,
        labelled: true,
        ..Synthetic::fixture()
    };
    let mut writer = settings.open(dir);
    let nodes = settings.tail_nodes();
    let weights = vec![0.0; CLASSES * nodes.len()];
    let prior = TailPrior::new(nodes, CLASSES, weights).unwrap();
    let model = TailModel::new(prior, None).unwrap();
    writer.begin(Beginnings { model: Some(&model), ..Beginnings::default() }).unwrap();
    let rows = ROWS_PER_SHARD as usize;
    for shard in 0..SHARDS {
        let first = shard * ROWS_PER_SHARD;
        writer
            .commit_shard(&ShardRows {
                sample_ids: (first..first + ROWS_PER_SHARD).map(SampleId).collect(),
                labels: vec![1; rows],
                targets: TargetBatch::zeroed(rows, K, DEFAULT_NODES.len()),
                ..ShardRows::default()
            })
            .unwrap();
    }
    writer.finish().unwrap();
}

fn main() {
    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(3)).configure_from_args();
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let reader = CacheReader::open(dir.path()).unwrap();
    let order = Permutation::new(reader.rows(), 0, 0);
    let mut out = TargetBatch::default();
    // Every page is touched once, so that the first batches do not pay for all.
    reader.gather(&(0..reader.rows()).collect::<Vec<_>>(), &mut out).unwrap();

    let mut group = criterion.benchmark_group("gather");
    group.throughput(Throughput::Elements(BATCH as u64));
    let name = format!("k{K}_f16_b{BATCH}_of_{}", reader.rows());
    let mut rows = vec![0u64; BATCH];
    for (way, random) in [("sequential", false), ("random", true)] {
        let mut next = 0u64;
        group.bench_function(BenchmarkId::new(way, &name), |bench| {
            bench.iter(|| {
                for row in &mut rows {
                    // The order is drawn in both ways, so that the difference is the reading's.
                    let drawn = black_box(order.at(next));
                    *row = if random { drawn } else { next };
                    next = (next + 1) % reader.rows();
                }
                reader.gather(black_box(&rows), &mut out).unwrap();
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
