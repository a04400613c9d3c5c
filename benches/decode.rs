//! What does it cost to read targets in random order, and to decode them at a temperature?
//!
//! Training visits samples in random order, so a batch is gathered row by row from mapped shards, and decoded into class
//! ids, probabilities at T and the mass of the tail. The cache is in the page cache: what is timed is finding,
//! unpacking and decoding, not the disk. Ways take turns; figures are positions a second, and ratios within a round.
//!
//! ```text
//! cargo bench --profile release --bench decode [-- CACHE [ROUNDS [BATCH]]]
//! ```
//!
//! Without a cache of your own, one is made up: 2²⁰ positions of 49,152 classes, k = 12, half precision, each a row as an
//! image is; with a number in place of the folder, rows of so many tokens. A batch has as many rows as BATCH positions
//! need. The last line is the positions a second of each way and round, as JSON, for `tools/bench_decode.py`.

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

mod figures;

use std::hint::black_box;
use std::path::{Path, PathBuf};

use kd_cache::cache::CacheReader;
use kd_cache::config::ValueEncoding;
use kd_cache::permutation::Permutation;
use kd_cache::target::{BatchDecoder, DEFAULT_NODES, DecodedTargets, TailHandling, TargetBatch, Temperature};

use figures::{Arm, spread, take_turns};

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use synthetic::Synthetic;

const CLASSES: usize = 49_152;
const K: usize = 12;
const POSITIONS: u64 = 1 << 20;
const SHARDS: u64 = 16;
/// Positions of a batch at least.
const BATCH: usize = 256;
const TEMPERATURE: f64 = 2.0;
const ROUNDS: usize = 15;

/// A cache with the columns of an image classifier's, or of rows of so many tokens.
fn write(dir: &Path, tokens: Option<usize>) {
    let rows = POSITIONS / tokens.map_or(1, |tokens| tokens as u64);
    let settings = Synthetic {
        samples: rows,
        classes: CLASSES,
        k: K,
        nodes: DEFAULT_NODES.to_vec(),
        values: ValueEncoding::F16,
        shard_samples: rows.div_ceil(SHARDS),
        labelled: tokens.is_none(),
        sequence: tokens.unwrap_or(0),
        ..Synthetic::fixture()
    };
    settings.write_meaningless(dir);
}

/// Batch after batch of rows, in an order that is drawn before anything is timed.
struct Batches<'a> {
    reader: &'a CacheReader,
    order: Vec<u64>,
    rows: usize,
    next: usize,
    targets: TargetBatch,
}

impl<'a> Batches<'a> {
    fn new(reader: &'a CacheReader, rows: usize, random: bool) -> Self {
        let drawn = Permutation::new(reader.rows(), 0, 0);
        let order = (0..reader.rows()).map(|at| if random { drawn.at(at) } else { at }).collect();
        Self { reader, order, rows, next: 0, targets: TargetBatch::default() }
    }

    fn gather(&mut self) -> &TargetBatch {
        if self.next + self.rows > self.order.len() {
            self.next = 0;
        }
        let rows = &self.order[self.next..self.next + self.rows];
        self.next += self.rows;
        self.reader.gather(black_box(rows), &mut self.targets).unwrap();
        &self.targets
    }
}

fn main() {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let rounds = words.get(1).map_or(ROUNDS, |word| word.parse().unwrap());
    let batch = words.get(2).map_or(BATCH, |word| word.parse().unwrap());
    let made_up = tempfile::tempdir().unwrap();
    let tokens = words.first().and_then(|word| word.parse().ok());
    let dir = match (words.first(), tokens) {
        (Some(dir), None) => PathBuf::from(dir),
        (_, tokens) => {
            write(made_up.path(), tokens);
            made_up.path().to_owned()
        }
    };
    let reader = CacheReader::open(&dir).unwrap();
    let manifest = reader.manifest();
    let temperature = Temperature::new(TEMPERATURE).unwrap();
    let decoder = BatchDecoder::new(&manifest.tail.nodes, manifest.classes, temperature, TailHandling::Prior);
    // Every page is touched once, so that the first batches do not pay for all.
    let mut out = TargetBatch::default();
    let mut positions = 0;
    for first in (0..reader.rows()).step_by(BATCH) {
        let rows: Vec<u64> = (first..reader.rows().min(first + BATCH as u64)).collect();
        reader.gather(&rows, &mut out).unwrap();
        positions += out.rows;
    }
    let rows = (batch as f64 * reader.rows() as f64 / positions as f64).ceil() as usize;
    let rows = rows.min(reader.rows() as usize);
    let each = rows as f64 * positions as f64 / reader.rows() as f64;

    let mut in_order = Batches::new(&reader, rows, false);
    let mut at_random = Batches::new(&reader, rows, true);
    let mut decoded = Batches::new(&reader, rows, true);
    let mut target = DecodedTargets::default();
    let mut arms: Vec<Arm<'_>> = vec![
        ("in order", Box::new(|| _ = black_box(in_order.gather()))),
        ("at random", Box::new(|| _ = black_box(at_random.gather()))),
        (
            "at random, decoded",
            Box::new(|| {
                decoder.decode(decoded.gather(), &mut target);
                _ = black_box(&target);
            }),
        ),
    ];
    let names: Vec<&str> = arms.iter().map(|(name, _)| *name).collect();
    let seconds = take_turns(&mut arms, rounds);
    println!(
        "{positions} positions of {} rows, batches of {rows}, one thread, {rounds} rounds",
        reader.rows()
    );
    println!("| way | positions / s | of the rate in order |");
    println!("|---|---|---|");
    let mut rates = serde_json::Map::new();
    for (name, own) in names.iter().zip(&seconds) {
        let rate: Vec<f64> = own.iter().map(|seconds| each / seconds).collect();
        let ratio = spread(seconds[0].iter().zip(own).map(|(first, own)| first / own).collect(), 2);
        println!("| {name} | {} | {ratio} |", spread(rate.clone(), 0));
        rates.insert((*name).to_owned(), rate.into());
    }
    println!("{}", serde_json::Value::Object(rates));
}
