//! How fast is one pass over a cache, in the order that it is asked for?
//!
//! One process, one pass, so that `tools/bench_epoch.py` can give it little memory and take turns.
//!
//! ```text
//! cargo bench --profile release --bench epoch -- write DIR ROWS
//! cargo bench --profile release --bench epoch -- read DIR sequential|shuffled|BLOCK/BUFFER
//! ```
//!
//! `write` makes a cache of rows of 64 tokens with the columns of a language model's, k = 12, in half precision; `read`
//! prepares all batches of 64 rows as training does, and prints seconds, rows and bytes as JSON.

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kd_cache::cache::CacheReader;
use kd_cache::config::{ShuffleConfig, ValueEncoding};
use kd_cache::loader::{Order, Samples, stream};
use kd_cache::target::DEFAULT_NODES;

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use synthetic::Synthetic;

const CLASSES: usize = 49_152;
const K: usize = 12;
const LENGTH: usize = 64;
const ROWS_PER_SHARD: u64 = 16_384;
const BATCH: usize = 64;
const AHEAD: usize = 4;

fn write(dir: &Path, rows: u64) {
    let settings = Synthetic {
        samples: rows,
        classes: CLASSES,
        k: K,
        nodes: DEFAULT_NODES.to_vec(),
        values: ValueEncoding::F16,
        shard_samples: ROWS_PER_SHARD,
        labelled: false,
        sequence: LENGTH,
        ..Synthetic::fixture()
    };
    settings.write_meaningless(dir);
}

fn order(word: &str) -> Order {
    let within = match word {
        "sequential" => return Order::Sequential,
        "shuffled" => None,
        sizes => {
            let (block, buffer) = sizes.split_once('/').unwrap();
            Some(ShuffleConfig { block: block.parse().unwrap(), buffer: Some(buffer.parse().unwrap()) })
        }
    };
    Order::Shuffled { seed: 0, epoch: 0, within }
}

fn read(dir: &Path, order: Order) {
    let reader = CacheReader::open(dir).unwrap();
    let (rows, bytes) = (reader.rows(), reader.manifest().bytes());
    let samples = Arc::new(Samples::tokens(reader, true));
    let begun = Instant::now();
    let seen: usize = stream(&samples, order, BATCH, AHEAD, 0).map(|batch| batch.unwrap().ids.len()).sum();
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(seen as u64, rows);
    println!("{}", serde_json::json!({ "seconds": seconds, "rows": rows, "bytes": bytes }));
}

fn main() {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", dir, rows] => write(Path::new(dir), rows.parse().unwrap()),
        ["read", dir, word] => read(Path::new(dir), order(word)),
        // With all benches, there is nobody to give it little memory.
        _ => println!("epoch: run by tools/bench_epoch.py"),
    }
}
