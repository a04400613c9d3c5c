//! What does selection cost beside merely looking at the logits, and beside what libtorch does for one temperature?
//!
//! Selection finds the k largest of a row and sums exponentials at five nodes over the rest. One yardstick is the plain
//! sum of the same rows, on the same threads: it reads every logit once and does next to nothing with it, so that
//! nothing which looks at all logits can be much faster. The other is libtorch's `topk` and `logsumexp`, which give the head
//! and one node: what a cache for one temperature needs. All take turns, so that what else the machine does meets
//! all of them; figures are ratios within a round.
//!
//! ```text
//! cargo bench --profile release --bench selection [-- ROUNDS]
//! ```

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

mod figures;

use std::hint::black_box;

use kd_cache::permutation::Permutation;
use kd_cache::select::Selector;
use kd_cache::target::TailNodes;
use rayon::prelude::*;

use figures::{Arm, spread, take_turns};

/// Classes, and rows of a batch: an image classifier's, and two language models'. A batch is 200 MB, so that it is read
/// from memory.
const SHAPES: [(usize, usize); 3] = [(1_000, 50_000), (49_152, 1_024), (151_936, 330)];
const HEADS: [usize; 2] = [12, 64];
const ROUNDS: usize = 15;

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
    // Cargo adds `--bench`.
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(ROUNDS);
    #[cfg(feature = "torch")]
    tch::set_num_threads(i32::try_from(rayon::current_num_threads()).unwrap());
    println!("{} threads, {rounds} rounds: median (least to largest)", rayon::current_num_threads());
    println!("| classes | k | rows / s | of the plain sum's rate | times libtorch's |");
    println!("|---|---|---|---|---|");
    for (classes, rows) in SHAPES {
        let logits = logits(classes * rows);
        for k in HEADS {
            let selector = Selector::new(classes, k, &TailNodes::default()).unwrap();
            let select = || drop(black_box(selector.select(black_box(&logits))));
            let sum = || {
                black_box(black_box(&logits).par_chunks(classes).map(plain_sum).sum::<f32>());
            };
            let mut arms: Vec<Arm<'_>> = vec![("select", Box::new(select)), ("sum", Box::new(sum))];
            #[cfg(feature = "torch")]
            {
                let tensor = tch::Tensor::from_slice(&logits).view([rows as i64, classes as i64]);
                let of_libtorch = move || {
                    let _guard = tch::no_grad_guard();
                    drop(black_box(tensor.topk(k as i64, -1, true, true)));
                    drop(black_box(tensor.logsumexp([-1i64].as_slice(), false)));
                };
                arms.push(("libtorch", Box::new(of_libtorch)));
            }
            let seconds = take_turns(&mut arms, rounds);
            let times = |other: usize| {
                let Some(other) = seconds.get(other) else { return "–".to_owned() };
                spread(other.iter().zip(&seconds[0]).map(|(other, own)| other / own).collect(), 2)
            };
            let rate = spread(seconds[0].iter().map(|seconds| rows as f64 / seconds).collect(), 2);
            println!("| {classes} | {k} | {rate} | {} | {} |", times(1), times(2));
        }
    }
}
