//! The shape's log-weights by iterative proportional fitting, given every position's code.
//!
//! As for the prior (see [`super::prior`]), the predicted tail mass of every class is made the true one
//! over the sample, at every node; but here each position has a tail of its own,
//! `q_j ∝ exp(b_β(j) + β Σ_i D_ji c_i)`, so that a round costs `positions × classes × rank`.

use std::io;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::heads::Heads;
use crate::target::TailNodes;
use crate::vectors::{BLOCK, Exp2, filled_up, softmax, with_widest};

/// Rounds at most, a pass over the positions each.
pub(super) const MAX_ROUNDS: usize = 12;
/// Rounds end when the classes' predicted masses are off by less than this fraction of the whole.
const TOLERANCE: f64 = 1e-3;
/// Share of the mean mass that a class is given for certain: keeps every `b` finite.
const FLOOR: f64 = 1e-9;
/// Positions summed in single precision before they join the sums in double.
const ROWS_PER_TASK: usize = 32;
/// Tasks whose sums are in memory at once.
const TASKS: usize = 8;

/// What a position brings along.
pub(super) struct Positions<'a> {
    /// Their heads.
    pub(super) heads: &'a Heads,
    /// Codes: `[positions, rank]`.
    pub(super) codes: &'a [i8],
    /// Tail mass at each node: `[nodes][positions]`.
    pub(super) mass: &'a [Vec<f64>],
}

/// Log-weights `[nodes][classes]` with which `basis`, `[rank][classes]`, predicts the tail masses
/// `truth`, `[nodes][classes]`, summed over `positions`. `told` of every round, which it may make the last
/// by failing.
pub(super) fn calibrate(
    nodes: &TailNodes,
    basis: &[Vec<f32>],
    positions: &Positions<'_>,
    truth: &[Vec<f64>],
    mut told: impl FnMut() -> io::Result<()>,
) -> io::Result<Vec<Vec<f32>>> {
    let classes = truth[0].len();
    let floor =
        |truth: &Vec<f64>| (FLOOR * truth.iter().sum::<f64>() / classes as f64).max(f64::MIN_POSITIVE);
    let floors: Vec<f64> = truth.iter().map(floor).collect();
    let log = |(truth, floor): (&Vec<f64>, &f64)| -> Vec<f64> {
        let largest = truth.iter().copied().fold(*floor, f64::max);
        truth.iter().map(|t| ((t.max(0.0) + floor) / largest).ln()).collect()
    };
    let mut b: Vec<Vec<f64>> = truth.iter().zip(&floors).map(log).collect();
    for _ in 0..MAX_ROUNDS {
        let predicted = predict(nodes, basis, positions, &b);
        told()?;
        let mut worst = 0.0f64;
        for (((b, truth), predicted), floor) in b.iter_mut().zip(truth).zip(&predicted).zip(&floors) {
            let (mut off, mut all) = (0.0, f64::MIN_POSITIVE);
            for ((b, truth), predicted) in b.iter_mut().zip(truth).zip(predicted) {
                off += (truth - predicted).abs();
                all += truth.max(0.0);
                // A class that is in every head has no tail to predict: leave it.
                if *predicted > 0.0 {
                    *b += ((truth.max(0.0) + floor) / (predicted + floor)).ln();
                }
            }
            worst = worst.max(off / all);
        }
        if worst < TOLERANCE {
            break;
        }
    }
    Ok(b.iter().map(|b| b.iter().map(|b| *b as f32).collect()).collect())
}

/// Predicted tail mass of every class at every node, summed over positions.
fn predict(
    nodes: &TailNodes,
    basis: &[Vec<f32>],
    positions: &Positions<'_>,
    b: &[Vec<f64>],
) -> Vec<Vec<f64>> {
    let classes = b[0].len();
    let b: Vec<Vec<f32>> = b.iter().map(|b| filled_up(b.iter().map(|b| *b as f32))).collect();
    let basis = basis.iter().flat_map(|direction| filled_up(direction.iter().copied())).collect();
    let known = Known { classes, nodes: nodes.as_slice(), basis, b };
    let mut sums = vec![vec![0.0f64; classes]; nodes.len()];
    let rows = positions.mass[0].len();
    let tasks: Vec<usize> = (0..rows).step_by(ROWS_PER_TASK).collect();
    for tasks in tasks.chunks(TASKS) {
        let predict = |first: &usize| {
            let rows = *first..(first + ROWS_PER_TASK).min(rows);
            with_widest(Task { known: &known, positions, rows })
        };
        let parts: Vec<Vec<Vec<f32>>> = tasks.par_iter().map(predict).collect();
        for part in parts {
            for (sums, part) in sums.iter_mut().zip(part) {
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum += f64::from(part);
                }
            }
        }
    }
    sums
}

/// What a round begins with. What is of all classes is filled up with zeros to whole tiles.
struct Known<'a> {
    classes: usize,
    nodes: &'a [f64],
    /// `[rank, classes]`, filled up.
    basis: Vec<f32>,
    /// `[nodes][classes]`, filled up.
    b: Vec<Vec<f32>>,
}

/// Some positions.
struct Task<'a> {
    known: &'a Known<'a>,
    positions: &'a Positions<'a>,
    rows: Range<usize>,
}

impl WithSimd for Task<'_> {
    /// Their predicted masses: `[nodes][classes]`, filled up.
    type Output = Vec<Vec<f32>>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self { known, positions, rows } = self;
        let exp = Exp2::new(simd);
        let zeros = vec![0.0f32; known.b[0].len()];
        let (mut moved, mut z, mut e) = (zeros.clone(), zeros.clone(), zeros.clone());
        let mut sums = vec![zeros.clone(); known.nodes.len()];
        let rank = known.basis.len() / zeros.len();
        for row in rows {
            let code: Vec<f32> = positions.code(row, rank).iter().map(|code| f32::from(*code)).collect();
            softmax::log_weights(simd, &zeros, &known.basis, &code, &mut moved);
            for (node, (beta, sums)) in known.nodes.iter().zip(&mut sums).enumerate() {
                softmax::log_weights(simd, &known.b[node], &moved, &[*beta as f32], &mut z);
                z[known.classes..].fill(f32::NEG_INFINITY);
                for id in positions.heads.of(row) {
                    z[*id as usize] = f32::NEG_INFINITY;
                }
                let largest = softmax::largest(simd, &z);
                if largest == f32::NEG_INFINITY {
                    continue;
                }
                let mut total = 0.0f64;
                for (z, e) in z.chunks(BLOCK).zip(e.chunks_mut(BLOCK)) {
                    let scale = std::f32::consts::LOG2_E;
                    total += f64::from(softmax::exponentials(simd, &exp, z, largest, scale, e));
                }
                let scale = (positions.mass[node][row] / total) as f32;
                for (sum, e) in sums.iter_mut().zip(&e) {
                    *sum += scale * *e;
                }
            }
        }
        sums
    }
}

impl Positions<'_> {
    fn code(&self, row: usize, rank: usize) -> &[i8] {
        &self.codes[row * rank..(row + 1) * rank]
    }
}
