//! What does selection cost beside merely looking at the logits, and beside what libtorch does for one temperature?
//!
//! Selection finds the k largest of a row and sums exponentials at five nodes over the rest. One yardstick is the plain
//! sum of the same rows, on the same threads: it reads every logit once and does next to nothing with it, so that
//! nothing which looks at all logits can be much faster. The other is libtorch's `topk` and `logsumexp`, which give the head
//! and one node: what a cache for one temperature needs. All take turns, so that what else the machine does meets
//! all of them; figures are ratios within a round.
//!
//! ```text
//! cargo bench --profile release --bench selection [-- ROUNDS [f32] [f16] [bf16]]
//! ```

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

mod figures;

use std::hint::black_box;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use kd_cache::floats::Floats;
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

/// Logits in a type that teachers give them in.
enum Given {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

const TYPES: [&str; 3] = ["f32", "f16", "bf16"];

impl Given {
    fn new(dtype: &str, logits: &[f32]) -> Self {
        match dtype {
            "f32" => Self::F32(logits.to_vec()),
            "f16" => Self::F16(logits.iter().map(|z| f16::from_f32(*z)).collect()),
            _ => Self::Bf16(logits.iter().map(|z| bf16::from_f32(*z)).collect()),
        }
    }

    fn floats(&self) -> Floats<'_> {
        match self {
            Self::F32(all) => Floats::F32(all),
            Self::F16(all) => Floats::F16(all),
            Self::Bf16(all) => Floats::Bf16(all),
        }
    }

    /// Reads all of them once.
    fn sum(&self, classes: usize) {
        match self {
            Self::F32(all) => {
                black_box(all.par_chunks(classes).map(plain_sum).sum::<f32>());
            }
            Self::F16(all) => read(all.reinterpret_cast(), classes),
            Self::Bf16(all) => read(all.reinterpret_cast(), classes),
        }
    }

    #[cfg(feature = "torch")]
    fn tensor(&self) -> tch::Tensor {
        match self {
            Self::F32(all) => tch::Tensor::from_slice(all),
            Self::F16(all) => tch::Tensor::from_slice(all),
            Self::Bf16(all) => tch::Tensor::from_slice(all),
        }
    }
}

/// Sums half types as whole numbers: reading, and less arithmetic than any sum of theirs.
fn read(all: &[u16], classes: usize) {
    black_box(all.par_chunks(classes).map(bits).sum::<u64>());
}

fn bits(row: &[u16]) -> u64 {
    let mut lanes = [0u16; 32];
    for chunk in row.chunks_exact(32) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*value);
        }
    }
    lanes.iter().map(|lane| u64::from(*lane)).sum()
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
    let words: Vec<String> = std::env::args().skip(1).collect();
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(ROUNDS);
    let asked = |dtype: &&str| words.iter().any(|word| word == dtype);
    let all = !TYPES.iter().any(asked);
    #[cfg(feature = "torch")]
    tch::set_num_threads(i32::try_from(rayon::current_num_threads()).unwrap());
    println!("{} threads, {rounds} rounds: median (least to largest)", rayon::current_num_threads());
    println!("| classes | type | k | rows / s | of the plain sum's rate | times libtorch's |");
    println!("|---|---|---|---|---|---|");
    let types = || TYPES.into_iter().filter(|dtype| all || asked(dtype));
    for (classes, rows) in SHAPES {
        let single = logits(classes * rows);
        for (dtype, k) in types().flat_map(|dtype| HEADS.map(|k| (dtype, k))) {
            let logits = Given::new(dtype, &single);
            let selector = Selector::new(classes, k, &TailNodes::default()).unwrap();
            let select = || drop(black_box(selector.select(black_box(&logits).floats())));
            let sum = || black_box(&logits).sum(classes);
            let mut arms: Vec<Arm<'_>> = vec![("select", Box::new(select)), ("sum", Box::new(sum))];
            #[cfg(feature = "torch")]
            {
                let tensor = logits.tensor().view([rows as i64, classes as i64]);
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
            println!("| {classes} | {dtype} | {k} | {rate} | {} | {} |", times(1), times(2));
        }
    }
}
