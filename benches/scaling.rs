//! How do the costs of a build and of a training step grow with samples, classes, head and rows?
//!
//! One of them grows tenfold at a time, the others stay. A build is what it does beside its teacher: selection from logits
//! that lie in memory, shards written, the manifest committed. A step is one of `kd-train` from such a cache, of as many
//! positions whatever the sizes. Figures are microseconds a position, and the exponent between neighbours: 0 where a cost
//! does not grow, 1 where it grows as fast as what it is measured against.
//!
//! ```text
//! cargo bench --profile release --bench scaling [-- ROUNDS [OUT.json [FOLDER]]]
//! ```
//!
//! OUT.json is for `tools/plot_scaling.py`. The largest cache takes 1.3 GB of FOLDER, the system's for temporary files
//! unless given.

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

mod figures;

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use kd_cache::cache::{Beginnings, ShardRows};
use kd_cache::config::ValueEncoding;
use kd_cache::ids::SampleId;
use kd_cache::permutation::Permutation;
use kd_cache::target::{DEFAULT_NODES, TailModel, TailPrior};
use serde_json::{Value, json};

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use figures::{kd_train, median, spread};
use synthetic::Synthetic;

const ROUNDS: usize = 3;
/// Positions of a step, and logits of so many that a build selects from again and again.
const POSITIONS: usize = 1024;
/// Steps in a line of a run's record, of which the first of three is not counted.
const EVERY: usize = 5;
const SAMPLES: u64 = 10_000;
const CLASSES: usize = 10_000;
const K: usize = 10;
const SEQUENCE: usize = 16;

fn settings(samples: u64, classes: usize, k: usize, sequence: usize) -> Synthetic {
    Synthetic {
        samples,
        classes,
        k,
        nodes: DEFAULT_NODES.to_vec(),
        values: ValueEncoding::F16,
        shard_samples: (1 << 20) / sequence as u64,
        labelled: false,
        sequence,
        ..Synthetic::fixture()
    }
}

/// What grows, and through which sizes.
fn axes() -> [(&'static str, Vec<(u64, Synthetic)>); 4] {
    let of = |sizes: &[u64], make: fn(u64) -> Synthetic| sizes.iter().map(|n| (*n, make(*n))).collect();
    [
        ("rows", of(&[1_000, 10_000, 100_000, 1_000_000], |n| settings(n, CLASSES, K, SEQUENCE))),
        ("classes", of(&[100, 1_000, 10_000, 100_000], |n| settings(SAMPLES, n as usize, K, SEQUENCE))),
        ("head", of(&[1, 10, 100, 1_000], |n| settings(SAMPLES, CLASSES, n as usize, SEQUENCE))),
        (
            "positions of a row",
            of(&[10, 100, 1_000], |n| settings(SAMPLES * SEQUENCE as u64 / n, CLASSES, K, n as usize)),
        ),
    ]
}

/// Builds a cache in `dir` from made-up logits; seconds a position.
fn build(cache: &Synthetic, dir: &Path) -> f64 {
    let noise = Permutation::new(1 << 20, 1, 0);
    let logit = |at: usize| noise.at(at as u64 % (1 << 20)) as f32 / (1 << 16) as f32;
    let logits: Vec<f32> = (0..POSITIONS * cache.classes).map(logit).collect();
    let nodes = cache.tail_nodes();
    let prior = TailPrior::new(nodes.clone(), cache.classes, vec![0.0; cache.classes * nodes.len()]).unwrap();
    let model = TailModel::new(prior, None).unwrap();
    let selector = cache.selector();
    let begun = Instant::now();
    let mut writer = cache.open(dir);
    writer.begin(Beginnings { model: Some(&model), ..Beginnings::default() }).unwrap();
    for first in (0..cache.samples).step_by(cache.shard_samples as usize) {
        let rows = first..(first + cache.shard_samples).min(cache.samples);
        let positions = (rows.end - rows.start) as usize * cache.sequence;
        let mut shard = ShardRows {
            sample_ids: rows.clone().map(SampleId).collect(),
            tokens: rows.map(|row| cache.tokens(row)).collect(),
            ..ShardRows::default()
        };
        for start in (0..positions).step_by(POSITIONS) {
            let count = POSITIONS.min(positions - start);
            shard.targets.extend(&selector.select(&logits[..count * cache.classes]).unwrap());
        }
        writer.commit_shard(&shard).unwrap();
    }
    writer.finish().unwrap();
    begun.elapsed().as_secs_f64() / (cache.samples * cache.per_sample()) as f64
}

/// Seconds a position of a step from the cache in `dir`.
fn step(cache: &Synthetic, dir: &Path) -> f64 {
    let config = dir.with_file_name("train.toml");
    let text = format!(
        "student = {{ kind = \"llama\", hidden_size = 64, num_hidden_layers = 1, num_attention_heads = 2 }}\n\
         loss = {{ weights = {{ kl = 1.0 }} }}\n\
         optimizer = {{ kind = \"adamw\", learning_rate = 1e-3 }}\n\
         train = {{ epochs = 1000, max_steps = {}, batch = {} }}\n\
         tracking = {{ every = {EVERY} }}\n",
        3 * EVERY,
        POSITIONS / cache.sequence
    );
    std::fs::write(&config, text).unwrap();
    let run = dir.with_file_name("run");
    let mut command = kd_train();
    command.arg("--cache").arg(dir).arg("--config").arg(config).arg("--out").arg(&run).arg("--quiet");
    let status = command.stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{status}");
    let lines = std::fs::read_to_string(run.join("steps.jsonl")).unwrap();
    let seconds = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        1.0 / (line["samples_per_second"].as_f64().unwrap() * cache.sequence as f64)
    };
    let counted: Vec<f64> = lines.lines().skip(1).map(seconds).collect();
    std::fs::remove_dir_all(run).unwrap();
    counted.iter().sum::<f64>() / counted.len() as f64
}

fn main() {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let rounds = words.first().map_or(ROUNDS, |word| word.parse().unwrap());
    let mut all = Vec::new();
    println!("| what grows | to | build, µs a position | exponent | step, µs a position | exponent |");
    println!("|---|---|---|---|---|---|");
    for (name, caches) in axes() {
        let mut costs: Vec<[Vec<f64>; 2]> = vec![Default::default(); caches.len()];
        for round in 0..rounds {
            for at in (0..caches.len()).map(|at| (at + round) % caches.len()) {
                let dir = words.get(2).map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
                let (cache, folder) = (&caches[at].1, dir.path().join("cache"));
                costs[at][0].push(1e6 * build(cache, &folder));
                costs[at][1].push(1e6 * step(cache, &folder));
            }
        }
        for (at, ((size, _), own)) in caches.iter().zip(&costs).enumerate() {
            let cell = |of: usize| {
                let exponent = at.checked_sub(1).map(|before| {
                    let grown = (*size as f64 / caches[before].0 as f64).log10();
                    (median(&own[of]) / median(&costs[before][of])).log10() / grown
                });
                let exponent = exponent.map_or("–".to_owned(), |exponent| format!("{exponent:.2}"));
                format!("{} | {exponent}", spread(own[of].clone(), 2))
            };
            println!("| {name} | {size} | {} | {} |", cell(0), cell(1));
            all.push(json!({ "axis": name, "size": size, "build_us": own[0], "step_us": own[1] }));
        }
    }
    if let Some(out) = words.get(1) {
        std::fs::write(out, serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
    }
}
