//! How long does `kd-train` take to begin, where a cache has ten times the rows, or a thousand times?
//!
//! The whole process, from its start until it has made one step of one batch and ended, from caches of rows of two
//! tokens that differ in their number of rows only, in turns. Figures are ratios to the smallest cache within a round.
//!
//! ```text
//! cargo bench --profile release --bench start [-- ROWS[,ROWS…] [ROUNDS [FOLDER]]]
//! ```
//!
//! 10⁸ rows take 3.5 GB of FOLDER, the system's for temporary files unless given.

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

mod figures;

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use kd_cache::config::ValueEncoding;

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use figures::{kd_train, spread};
use synthetic::Synthetic;

const ROWS: &str = "100000,1000000,10000000,100000000";
const ROUNDS: usize = 5;
const ROWS_PER_SHARD: u64 = 1 << 20;

fn settings(rows: u64) -> Synthetic {
    Synthetic {
        samples: rows,
        classes: 256,
        k: 1,
        nodes: vec![1.0],
        values: ValueEncoding::F16,
        shard_samples: ROWS_PER_SHARD,
        labelled: false,
        sequence: 2,
        ..Synthetic::fixture()
    }
}

/// Seconds of a run of one step.
fn seconds(dir: &Path, name: &str) -> f64 {
    let config = dir.join("train.toml");
    let text = "student = { kind = \"llama\", hidden_size = 16, num_hidden_layers = 1, num_attention_heads = 2 }\n\
                loss = { weights = { kl = 1.0 } }\n\
                optimizer = { kind = \"adamw\", learning_rate = 1e-3 }\n\
                train = { epochs = 1, max_steps = 1, batch = 16, prefetch = 1 }\n";
    std::fs::write(&config, text).unwrap();
    let run = dir.join("run");
    let begun = Instant::now();
    let mut command = kd_train();
    command.arg("--cache").arg(dir.join(name)).arg("--config").arg(config).arg("--out").arg(&run);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    assert!(status.success(), "{status}");
    std::fs::remove_dir_all(run).unwrap();
    seconds
}

fn main() {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let word = |at: usize| words.get(at).map(String::as_str);
    let rows: Vec<u64> = word(0).unwrap_or(ROWS).split(',').map(|rows| rows.parse().unwrap()).collect();
    let rounds = word(1).map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let dir = word(2).map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
    for rows in &rows {
        settings(*rows).write_meaningless(&dir.path().join(rows.to_string()));
    }
    let mut all = vec![Vec::with_capacity(rounds); rows.len()];
    for round in 0..rounds {
        for at in (0..rows.len()).map(|at| (at + round) % rows.len()) {
            all[at].push(seconds(dir.path(), &rows[at].to_string()));
        }
    }
    println!("| rows | seconds | of the smallest cache's |");
    println!("|---|---|---|");
    for (rows, own) in rows.iter().zip(&all) {
        let ratio = spread(own.iter().zip(&all[0]).map(|(own, smallest)| own / smallest).collect(), 2);
        println!("| {rows} | {} | {ratio} |", spread(own.clone(), 2));
    }
}
