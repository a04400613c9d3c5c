//! The shape's log-weights by iterative proportional fitting, given every position's code.
//!
//! As for the prior (see [`super::prior`]), the predicted tail mass of every class is made the true one
//! over the sample, at every node; but here each position has a tail of its own,
//! `q_j ∝ exp(b_β(j) + β Σ_i D_ji c_i)`, so that a round costs `positions × classes × rank`.

use std::io;

use rayon::prelude::*;

use super::heads::Heads;
use crate::select::exp_non_positive;
use crate::target::TailNodes;

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
    let floors: Vec<f64> =
        truth.iter().map(|t| FLOOR * t.iter().sum::<f64>().max(f64::MIN_POSITIVE) / classes as f64).collect();
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
    let b: Vec<Vec<f32>> = b.iter().map(|b| b.iter().map(|b| *b as f32).collect()).collect();
    let mut sums = vec![vec![0.0f64; classes]; nodes.len()];
    let rows = positions.mass[0].len();
    let tasks: Vec<usize> = (0..rows).step_by(ROWS_PER_TASK).collect();
    for tasks in tasks.chunks(TASKS) {
        let parts: Vec<Vec<Vec<f32>>> = tasks
            .par_iter()
            .map(|first| {
                let mut part = vec![vec![0.0f32; classes]; nodes.len()];
                let (mut moved, mut e) = (vec![0.0f32; classes], vec![0.0f32; classes]);
                for row in *first..(first + ROWS_PER_TASK).min(rows) {
                    move_along(basis, positions.code(row, basis.len()), &mut moved);
                    for (node, beta) in nodes.as_slice().iter().enumerate() {
                        let mass = positions.mass[node][row];
                        add_row(
                            &b[node],
                            *beta as f32,
                            &moved,
                            positions.heads.of(row),
                            mass,
                            &mut e,
                            &mut part[node],
                        );
                    }
                }
                part
            })
            .collect();
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

impl Positions<'_> {
    fn code(&self, row: usize, rank: usize) -> &[i8] {
        &self.codes[row * rank..(row + 1) * rank]
    }
}

/// `moved[j] = Σ_i basis[i][j] code[i]`.
fn move_along(basis: &[Vec<f32>], code: &[i8], moved: &mut [f32]) {
    moved.fill(0.0);
    for (direction, code) in basis.iter().zip(code).filter(|(_, code)| **code != 0) {
        let code = f32::from(*code);
        for (moved, d) in moved.iter_mut().zip(direction) {
            *moved += code * d;
        }
    }
}

/// Adds `mass · q` of one position to `sums`; `e` is scratch.
fn add_row(b: &[f32], beta: f32, moved: &[f32], head: &[u32], mass: f64, e: &mut [f32], sums: &mut [f32]) {
    for ((e, b), moved) in e.iter_mut().zip(b).zip(moved) {
        *e = b + beta * moved;
    }
    for id in head {
        e[*id as usize] = f32::NEG_INFINITY;
    }
    let largest = e.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return;
    }
    let mut total = 0.0f64;
    for block in e.chunks_mut(1024) {
        for e in block.iter_mut() {
            *e = exp_non_positive(*e - largest);
        }
        total += f64::from(block.iter().sum::<f32>());
    }
    let scale = (mass / total) as f32;
    for (sum, e) in sums.iter_mut().zip(e) {
        *sum += scale * *e;
    }
}
