//! From a position's logits to its tail code.

use nalgebra::DMatrix;
use rayon::prelude::*;

use super::least_squares::{add_outer, solve};
use super::panels::Panels;
use crate::floats::Floats;
use crate::target::TargetBatch;

/// Largest code; −128 is not used, so that codes are symmetric.
pub(super) const LARGEST: f32 = 127.0;
/// Share of the mean diagonal that is added to it: keeps a position whose tail has fewer classes than
/// there are directions from codes without bound.
const RIDGE: f64 = 1e-4;

/// Gives positions their tail codes: the code that reads the tail's logits best,
///
/// ```text
/// min over a, c of  Σ_{j∉H} w_j (z_j − z_max − μ_j − a − Σ_i D_ji c_i)²
/// ```
///
/// rounded to whole numbers within ±127. The level `a` is not kept: it changes no softmax. All
/// products with the logits are one product with a matrix that is fixed for the cache; what the head
/// leaves out is taken from a small system of `rank + 1` equations.
#[derive(Clone, Debug, PartialEq)]
pub struct TailEncoder {
    rank: usize,
    mean: Vec<f32>,
    weights: Vec<f32>,
    /// `w_j (1, D_j)`: `[classes, 1 + rank]`, padded.
    weighted: Panels,
    /// `(1, D_j)`: `[classes, 1 + rank]`, padded.
    columns: Panels,
    /// `Σ_j w_j (1, D_j)ᵀ (1, D_j)`.
    gram: DMatrix<f64>,
}

impl TailEncoder {
    /// An encoder of `rank` directions from means `μ` and weights `w`, `[classes]`, and the tail shape's
    /// `basis` `D`, `[classes, rank]`.
    ///
    /// Returns `None` when the lengths disagree, a value is not finite or a weight is negative.
    pub fn new(rank: usize, mean: Vec<f32>, weights: Vec<f32>, basis: &[f32]) -> Option<Self> {
        let sound = weights.len() == mean.len()
            && basis.len() == mean.len() * rank
            && mean.iter().chain(&weights).chain(basis).all(|value| value.is_finite())
            && weights.iter().all(|w| *w >= 0.0);
        sound.then(|| Self::with_basis(rank, mean, weights, |class, at| basis[class * rank + at]))
    }

    pub(super) fn with_basis(
        rank: usize,
        mean: Vec<f32>,
        weights: Vec<f32>,
        basis: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let columns = Panels::from_fn(mean.len(), 1 + rank, |class, at| match at {
            0 => 1.0,
            at => basis(class, at - 1),
        });
        let weighted =
            Panels::from_fn(mean.len(), 1 + rank, |class, at| weights[class] * columns.at(class, at));
        let mut gram = DMatrix::zeros(1 + rank, 1 + rank);
        for (class, w) in weights.iter().enumerate() {
            add_outer(&mut gram, f64::from(*w), |at| f64::from(columns.at(class, at)));
        }
        Self { rank, mean, weights, weighted, columns, gram }
    }

    /// Numbers per code.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// `μ`: `[classes]`.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// `w`: `[classes]`.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Gives every position of `batch` its code, from the raw logits `[rows, classes]` it was selected
    /// from, of any type of floats. Positions are independent: neither threads nor batches change a code.
    ///
    /// # Panics
    /// When the shapes disagree.
    pub fn encode<'a>(&self, logits: impl Into<Floats<'a>>, batch: &mut TargetBatch) {
        let (logits, classes) = (logits.into(), self.mean.len());
        assert_eq!(logits.len(), batch.rows * classes, "logits of another shape");
        batch.rank = self.rank;
        batch.codes.resize(batch.rows * self.rank, 0);
        let mut codes = std::mem::take(&mut batch.codes);
        let heads = &*batch;
        codes.par_chunks_mut(self.rank).enumerate().for_each_init(
            || (Vec::new(), vec![0.0; classes]),
            |(wide, x), (row, out)| {
                let (logits, head) = (logits.row(row, classes).widened(wide), heads.row(row).0);
                let solved = self.solve(logits, logits[head[0] as usize], head, x);
                for (out, code) in out.iter_mut().zip(&solved[1..]) {
                    *out = round(*code);
                }
            },
        );
        batch.codes = codes;
    }

    /// Gives every position of `batch` its code, from `products`, the sums over its tail `Σ w_j (1, D_j) x_j` with
    /// `x_j = z_j − z_max − μ_j`: `[rows, 1 + rank]`.
    #[cfg(feature = "torch")]
    pub(super) fn encode_from(&self, products: &[f32], batch: &mut TargetBatch) {
        let columns = 1 + self.rank;
        assert_eq!(products.len(), batch.rows * columns, "products of another shape");
        batch.rank = self.rank;
        batch.codes.resize(batch.rows * self.rank, 0);
        let mut codes = std::mem::take(&mut batch.codes);
        let heads = &*batch;
        let rows = products.par_chunks_exact(columns).zip(codes.par_chunks_mut(self.rank)).enumerate();
        rows.for_each(|(row, (product, out))| {
            let solved = self.solve_product(heads.row(row).0, product);
            out.iter_mut().zip(&solved[1..]).for_each(|(out, code)| *out = round(*code));
        });
        batch.codes = codes;
    }

    /// `w_j (1, D_j)` of a class.
    #[cfg(feature = "torch")]
    pub(super) fn weighted(&self, class: usize, column: usize) -> f32 {
        self.weighted.at(class, column)
    }

    /// Level and code before rounding, `(a, c)`: `[1 + rank]`; `x` is scratch, `[classes]`.
    pub(super) fn solve(&self, logits: &[f32], z_max: f32, head: &[u32], x: &mut [f32]) -> Vec<f32> {
        for ((x, z), mean) in x.iter_mut().zip(logits).zip(&self.mean) {
            *x = z - z_max - mean;
        }
        head.iter().for_each(|id| x[*id as usize] = 0.0);
        let mut product = vec![0.0f32; self.weighted.width()];
        self.weighted.project_row(x, &mut product);
        self.solve_product(head, &product)
    }

    /// The same from the product with the logits, `[≥ 1 + rank]`.
    fn solve_product(&self, head: &[u32], product: &[f32]) -> Vec<f32> {
        let mut gram = self.gram.clone();
        for id in head.iter().map(|id| *id as usize) {
            add_outer(&mut gram, -f64::from(self.weights[id]), |at| f64::from(self.columns.at(id, at)));
        }
        // Without a solution there is no tail to speak of.
        solve(gram, RIDGE, product).unwrap_or_else(|| vec![0.0; 1 + self.rank])
    }
}

/// A code as it is kept.
pub(super) fn round(code: f32) -> i8 {
    code.round().clamp(-LARGEST, LARGEST) as i8
}
