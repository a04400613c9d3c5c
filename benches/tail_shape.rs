//! What does each direction of a tail shape buy, and what does it cost?
//!
//!     cargo bench --profile release --bench tail_shape -- FIT MEASURE CLASSES K RANKS
//!     cargo bench --profile release --bench tail_shape -- fit.f32 measure.f32 49152 12 0,8,32
//!
//! `FIT` and `MEASURE` are raw logits, little-endian single precision, `[positions, CLASSES]`: the first
//! for the fit, the second, of other documents, for the errors (`tools/dump_logits.py` makes both from a
//! language model). Without arguments: made-up logits of 1,000 classes, a bias and a map of 24 hidden
//! numbers, which say whether it works and nothing of any teacher.
//!
//! For each rank: seconds of the fit, microseconds a position for selection and code together, and, at
//! T = 1, 2 and 4, the root mean square over positions of the 2-norm of the difference to the full
//! softmax, and the mean KL from it in nats.

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

use std::time::Instant;

use kd_cache::permutation::Permutation;
use kd_cache::select::Selector;
use kd_cache::tail_model::TailFit;
use kd_cache::target::{PositionTarget, TailHandling, TailModelAt, TailNodes, TargetBatch, Temperature};
use rayon::prelude::*;

/// Positions handed over at once, as a teacher would.
const BATCH: usize = 128;

struct Question {
    fit: Vec<f32>,
    measure: Vec<f32>,
    classes: usize,
    k: usize,
    ranks: Vec<usize>,
}

fn main() {
    // cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let question = match &arguments[..] {
        [fit, measure, classes, k, ranks] => Question {
            fit: read(fit),
            measure: read(measure),
            classes: classes.parse().unwrap(),
            k: k.parse().unwrap(),
            ranks: ranks.split(',').map(|rank| rank.parse().unwrap()).collect(),
        },
        _ => made_up(),
    };
    let Question { fit, measure, classes, k, ranks } = &question;
    println!(
        "{} positions fitted, {} measured, {classes} classes, k = {k}",
        fit.len() / classes,
        measure.len() / classes
    );
    println!("rank  fit s  us/position    T = 1 rms / KL    T = 2 rms / KL    T = 4 rms / KL");
    let nodes = TailNodes::default();
    let selector = Selector::new(*classes, *k, &nodes).unwrap();
    for rank in ranks {
        let folder = tempfile::tempdir().unwrap();
        let scratch = folder.path().join("sample");
        let mut sample = TailFit::new(*classes, *k, &nodes, *rank, &scratch).unwrap();
        for logits in fit.chunks(BATCH * classes) {
            sample.add(logits, &selector.select(logits).unwrap()).unwrap();
        }
        let begun = Instant::now();
        let fitted = sample.finish().unwrap();
        let seconds = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let mut targets = selector.select(measure).unwrap();
        if let Some(encoder) = &fitted.encoder {
            encoder.encode(measure, &mut targets);
        }
        let each = begun.elapsed().as_secs_f64() / targets.rows as f64;
        print!("{rank:>4}  {seconds:>5.1}  {:>11.0}", each * 1e6);
        for temperature in [1.0, 2.0, 4.0] {
            let temperature = Temperature::new(temperature).unwrap();
            let model = fitted.model.at(temperature);
            let (rms, kl) = errors(measure, &targets, &nodes, temperature, &model);
            print!("    {rms:.5} / {kl:.4}");
        }
        println!();
    }
}

/// Root mean square and mean KL of the targets of `logits` at a temperature.
fn errors(
    logits: &[f32],
    targets: &TargetBatch,
    nodes: &TailNodes,
    temperature: Temperature,
    model: &TailModelAt<'_>,
) -> (f64, f64) {
    let classes = logits.len() / targets.rows;
    let each: Vec<(f64, f64)> = logits
        .par_chunks(classes)
        .enumerate()
        .map(|(row, z)| {
            let (ids, values, curve) = targets.row(row);
            let target = PositionTarget { classes, ids, values, nodes, curve };
            let weights = model.log_weights(TailHandling::Shape, targets.code(row));
            let cached = target.dense(temperature, TailHandling::Shape, weights.as_deref());
            let largest = z.iter().copied().fold(f32::MIN, f32::max);
            let e: Vec<f64> = z.iter().map(|z| (temperature.beta() * f64::from(z - largest)).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.iter().zip(&cached).fold((0.0, 0.0), |(square, kl), (e, q)| {
                let p = e / sum;
                (square + (p - q) * (p - q), if p > 0.0 { kl + p * (p / q).ln() } else { kl })
            })
        })
        .collect();
    let mean = |of: fn(&(f64, f64)) -> f64| each.iter().map(of).sum::<f64>() / each.len() as f64;
    (mean(|one| one.0).sqrt(), mean(|one| one.1))
}

fn read(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
}

fn made_up() -> Question {
    const CLASSES: usize = 1000;
    const HIDDEN: usize = 24;
    let random = Permutation::new(1 << 24, 3, 0);
    let noise = |at: usize| random.at(at as u64 % (1 << 24)) as f32 / (1 << 23) as f32 - 1.0;
    let rows = |first: usize, rows: usize| -> Vec<f32> {
        (first * CLASSES..(first + rows) * CLASSES)
            .map(|at| {
                let (row, class) = (at / CLASSES, at % CLASSES);
                let along = |i: usize| {
                    // The first directions count most, as they do in teachers.
                    noise(row * 101 + i) * noise((1 << 20) + class * 37 + i) * 3.0 / (1.0 + i as f32).sqrt()
                };
                (0..HIDDEN).map(along).sum::<f32>() - 1.5 * (class as f32).ln_1p()
            })
            .collect()
    };
    Question {
        fit: rows(0, 2048),
        measure: rows(2048, 1024),
        classes: CLASSES,
        k: 8,
        ranks: vec![0, 1, 2, 4, 8, 16],
    }
}
