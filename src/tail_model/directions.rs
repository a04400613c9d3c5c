//! The directions along which tails differ most from position to position: where the fit begins.
//!
//! Principal components, weighted: the KL of two tails is to second order
//! `½ Σ_j q_j (δ_j − Σ_l q_l δ_l)²` for an error δ of the logits, so that an error counts by the mass
//! of its class, and one that is the same for all classes counts nothing. With weights `w`, the
//! average tail, the rows `x_j = √w_j (z_j − Σ_l w_l z_l − μ_j)`, 0 on the head, turn that into plain
//! least squares, whose best subspace is the leading right singular vectors.
//!
//! They are found by block power iteration with a few more columns than asked for (Halko, Martinsson &
//! Tropp, "Finding structure with randomness", SIAM Review 53, 2011, algorithm 4.4), which reads the
//! sample once per iteration and keeps `classes × columns` numbers.

use std::io;

use nalgebra::{DMatrix, SymmetricEigen};
use rayon::prelude::*;

use super::heads::Heads;
use super::least_squares::add_outer;
use super::panels::Panels;
use super::sample::Watched;
use crate::permutation::mix;

/// Columns beyond the rank; they let the wanted ones converge.
const OVERSAMPLING: usize = 8;
/// Rounds of power iteration; what they leave undone, the sweeps after them do.
const ITERATIONS: usize = 3;
/// Passes of [`mean`] and [`principal`] over the sample.
pub(super) const PASSES: usize = 1 + ITERATIONS + 1;

/// `D = U / √w` for the `rank` leading directions `U` of `sample` under `weights`, which sum to 1:
/// logits by class along each direction, the most important first. `mean` is μ.
pub(super) fn principal(
    sample: &mut Watched<'_>,
    heads: &Heads,
    weights: &[f64],
    mean: &[f32],
    rank: usize,
) -> io::Result<Panels> {
    let classes = sample.classes();
    let root: Vec<f32> = weights.iter().map(|w| w.sqrt() as f32).collect();
    let columns = (rank + OVERSAMPLING).min(classes);
    let rows = |first: usize, block: &mut [f32]| centre(first, block, heads, weights, mean, &root);
    let mut basis = orthonormal(&Panels::from_fn(classes, columns, sign), columns);
    for _ in 0..ITERATIONS {
        let mut product = Panels::zeros(classes, columns);
        sample.for_each_block(|first, block| {
            rows(first, block);
            product.add_back(block, &basis.project(block));
        })?;
        basis = orthonormal(&product, columns);
    }
    // Within the subspace, the directions by how much of the variance they carry (Rayleigh–Ritz).
    let mut covariance = DMatrix::<f64>::zeros(columns, columns);
    sample.for_each_block(|first, block| {
        rows(first, block);
        for row in basis.project(block).chunks_exact(columns) {
            add_outer(&mut covariance, 1.0, row);
        }
    })?;
    let eigen = SymmetricEigen::new(covariance);
    let mut order: Vec<usize> = (0..columns).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    Ok(Panels::from_fn(classes, rank, |class, at| {
        let (Some(at), true) = (order.get(at), weights[class] > 0.0) else { return 0.0 };
        let turn = eigen.eigenvectors.column(*at);
        let along: f64 = turn.iter().enumerate().map(|(i, turn)| turn * f64::from(basis.at(class, i))).sum();
        (along / weights[class].sqrt()) as f32
    }))
}

/// `μ_j`: the mean of `z_j` less its position's level, over the positions whose tail has class j.
pub(super) fn mean(sample: &mut Watched<'_>, heads: &Heads, weights: &[f64]) -> io::Result<Vec<f32>> {
    let mut sums = vec![0.0f64; sample.classes()];
    let mut counts = vec![sample.rows() as f64; sample.classes()];
    sample.for_each_block(|first, block| {
        for (at, row) in block.chunks_exact(weights.len()).enumerate() {
            let head = heads.of(first + at);
            let level = level(row, head, weights);
            for (sum, z) in sums.iter_mut().zip(row) {
                *sum += f64::from(*z) - level;
            }
            for id in head.iter().map(|id| *id as usize) {
                sums[id] -= f64::from(row[id]) - level;
                counts[id] -= 1.0;
            }
        }
    })?;
    Ok(sums
        .iter()
        .zip(&counts)
        .map(|(sum, count)| if *count > 0.0 { (sum / count) as f32 } else { 0.0 })
        .collect())
}

/// The weighted mean of a row's tail.
fn level(row: &[f32], head: &[u32], weights: &[f64]) -> f64 {
    let (mut sum, mut all) = (0.0, 0.0);
    for (z, w) in row.iter().zip(weights) {
        sum += f64::from(*z) * w;
        all += w;
    }
    for id in head.iter().map(|id| *id as usize) {
        sum -= f64::from(row[id]) * weights[id];
        all -= weights[id];
    }
    // The weights lie almost wholly on this head: its tail has no level to speak of.
    if all > 1e-9 { sum / all } else { 0.0 }
}

/// Logits to `x`, in place.
fn centre(first: usize, block: &mut [f32], heads: &Heads, weights: &[f64], mean: &[f32], root: &[f32]) {
    block.par_chunks_mut(weights.len()).enumerate().for_each(|(at, row)| {
        let head = heads.of(first + at);
        let level = level(row, head, weights) as f32;
        for ((z, mean), root) in row.iter_mut().zip(mean).zip(root) {
            *z = (*z - level - mean) * root;
        }
        for id in head {
            row[*id as usize] = 0.0;
        }
    });
}

/// An orthonormal basis of the columns. Columns that vanish stay zero.
fn orthonormal(panels: &Panels, columns: usize) -> Panels {
    let classes = panels.classes();
    let mut matrix =
        DMatrix::<f64>::from_fn(classes, columns, |class, column| f64::from(panels.at(class, column)));
    for column in 0..columns {
        let before = matrix.column(column).norm();
        // Twice is enough (Kahan's rule, in Parlett, "The Symmetric Eigenvalue Problem", 1980).
        for _ in 0..2 {
            for earlier in 0..column {
                let (done, mut rest) = matrix.columns_range_pair_mut(earlier..=earlier, column..=column);
                let along = done.column(0).dot(&rest.column(0));
                rest.column_mut(0).axpy(-along, &done.column(0), 1.0);
            }
        }
        let norm = matrix.column(column).norm();
        let scale = if norm > 1e-10 * before && norm > 0.0 { norm.recip() } else { 0.0 };
        matrix.column_mut(column).scale_mut(scale);
    }
    Panels::from_fn(classes, columns, |class, column| matrix[(class, column)] as f32)
}

/// ±1, as good as random and the same on every machine.
fn sign(class: usize, column: usize) -> f32 {
    let place = ((class as u64) << 8 | column as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    if mix(place) & 1 == 0 { 1.0 } else { -1.0 }
}
