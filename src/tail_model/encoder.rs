//! From a position's logits to its tail code.

use std::ops::Range;

use nalgebra::DMatrix;
use rayon::prelude::*;

use super::least_squares::{add_outer, solve};
use super::panels::{Panels, Rows, rows_of_task};
use crate::floats::Floats;
use crate::target::TargetBatch;

/// Largest code; −128 is not used, so that codes are symmetric.
pub(super) const LARGEST: f32 = 127.0;
/// What a logit relative to its position's largest is taken for where it lies further below, as those of classes that a teacher
/// masks do: the least number of half precision. A fit and the codes that follow it see the same.
pub(super) const LOWEST: f32 = -65504.0;
/// Share of the mean diagonal that is added to it: keeps a position whose tail has fewer classes than
/// there are directions from codes without bound.
const RIDGE: f64 = 1e-4;

/// Gives positions their tail codes: the code that reads the tail's logits best,
///
/// ```text
/// min over a, c of  Σ_{j∉H} w_j (z_j − z_max − μ_j − a − Σ_i D_ji c_i)²
/// ```
///
/// rounded to whole numbers within ±127, with `z_j − z_max` of −65504 at least. The level `a` is not kept: it changes no softmax. All
/// products with the logits are one product with a matrix that is fixed for the cache; what the head
/// leaves out is taken from a small system of `rank + 1` equations.
#[derive(Clone, Debug, PartialEq)]
pub struct TailEncoder {
    rank: usize,
    mean: Vec<f32>,
    weights: Vec<f32>,
    /// `w_j (1, D_j)`: `[classes, 1 + rank]`.
    weighted: Panels,
    /// `(1, D_j)`: `[classes, 1 + rank]`, class after class.
    directions: Vec<f32>,
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
        let columns = 1 + rank;
        let direction = |class: usize, at: usize| if at == 0 { 1.0 } else { basis(class, at - 1) };
        let directions: Vec<f32> =
            (0..mean.len() * columns).map(|at| direction(at / columns, at % columns)).collect();
        let weighted = Panels::from_fn(mean.len(), columns, |class, at| {
            weights[class] * directions[class * columns + at]
        });
        let mut gram = DMatrix::zeros(columns, columns);
        for (w, direction) in weights.iter().zip(directions.chunks_exact(columns)) {
            add_outer(&mut gram, f64::from(*w), direction);
        }
        Self { rank, mean, weights, weighted, directions, gram }
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
        let tail = |row: usize| {
            let head = batch.row(row).0;
            (logits.at(row * classes + head[0] as usize), head)
        };
        let solved = self.solve(logits, tail);
        self.round(&solved, batch);
    }

    /// Gives every position of `batch` its code, from `products`, the sums over its tail `Σ w_j (1, D_j) x_j` with
    /// `x_j = z_j − z_max − μ_j`: `[rows, 1 + rank]`.
    #[cfg(feature = "torch")]
    pub(super) fn encode_from(&self, products: &[f32], batch: &mut TargetBatch) {
        let columns = 1 + self.rank;
        assert_eq!(products.len(), batch.rows * columns, "products of another shape");
        let mut solved = products.to_vec();
        let rows = solved.par_chunks_exact_mut(columns).enumerate();
        rows.for_each(|(row, product)| self.solve_product(batch.row(row).0, product));
        self.round(&solved, batch);
    }

    /// Keeps codes, from levels and codes before rounding, `[rows, 1 + rank]`.
    fn round(&self, solved: &[f32], batch: &mut TargetBatch) {
        batch.rank = self.rank;
        batch.codes.clear();
        let codes = solved.chunks_exact(1 + self.rank).flat_map(|solved| &solved[1..]);
        batch.codes.extend(codes.map(|code| round(*code)));
    }

    /// `w_j (1, D_j)` of a class.
    #[cfg(feature = "torch")]
    pub(super) fn weighted(&self, class: usize, column: usize) -> f32 {
        self.weighted.at(class, column)
    }

    /// Levels and codes before rounding, `(a, c)`: `[rows, 1 + rank]`, of raw logits, `[rows, classes]`. `tail` gives a row's
    /// largest logit and its head.
    pub(super) fn solve<'h>(
        &self,
        logits: Floats<'_>,
        tail: impl Fn(usize) -> (f32, &'h [u32]) + Sync,
    ) -> Vec<f32> {
        let columns = 1 + self.rank;
        let rows = logits.len() / self.mean.len().max(1);
        let mut solved = vec![0.0; rows * columns];
        let task = rows_of_task(rows);
        solved.par_chunks_mut(task * columns).enumerate().for_each(|(at, solved)| {
            let rows = at * task..(at * task + task).min(rows);
            let tails = rows.clone().map(|row| Tail::new(tail(row))).collect();
            let mut x = Tails { logits, mean: &self.mean, first: rows.start, tails };
            self.weighted.project_rows(rows.clone(), &mut x, solved);
            for (row, product) in rows.zip(solved.chunks_exact_mut(columns)) {
                self.solve_product(tail(row).1, product);
            }
        });
        solved
    }

    /// The same of one row in place of its product with the logits, `[1 + rank]`.
    fn solve_product(&self, head: &[u32], product: &mut [f32]) {
        let mut gram = self.gram.clone();
        for id in head.iter().map(|id| *id as usize) {
            let direction = &self.directions[id * product.len()..][..product.len()];
            add_outer(&mut gram, -f64::from(self.weights[id]), direction);
        }
        match solve(gram, RIDGE, product) {
            Some(solved) => product.copy_from_slice(&solved),
            // There is no tail to speak of.
            None => product.fill(0.0),
        }
    }
}

/// What is known of a row before its product.
struct Tail {
    z_max: f32,
    /// Classes of the head that have not been come to, the largest id first.
    head: Vec<u32>,
}

impl Tail {
    fn new((z_max, head): (f32, &[u32])) -> Self {
        let mut head = head.to_vec();
        head.sort_unstable_by(|a, b| b.cmp(a));
        Self { z_max, head }
    }
}

/// `max(z_j − z_max, −65504) − μ_j` of rows of logits, 0 on their heads. Classes are asked for in order.
struct Tails<'a> {
    logits: Floats<'a>,
    mean: &'a [f32],
    /// The row of the first of `tails`.
    first: usize,
    tails: Vec<Tail>,
}

impl Rows for Tails<'_> {
    #[inline(always)]
    fn write(&mut self, row: usize, classes: Range<usize>, x: &mut [f32]) {
        let (start, end) = (classes.start, classes.end);
        let mean = &self.mean[classes.clone()];
        let logits = self.logits.row(row, self.mean.len()).part(classes);
        let tail = &mut self.tails[row - self.first];
        if let Floats::F32(logits) = logits {
            for ((x, z), mean) in x.iter_mut().zip(logits).zip(mean) {
                *x = (z - tail.z_max).max(LOWEST) - mean;
            }
        } else {
            logits.write_to(x);
            for (x, mean) in x.iter_mut().zip(mean) {
                *x = (*x - tail.z_max).max(LOWEST) - mean;
            }
        }
        while let Some(id) = tail.head.pop_if(|id| (*id as usize) < end) {
            x[id as usize - start] = 0.0;
        }
    }

    fn expect(&self, row: usize, classes: Range<usize>) {
        self.logits.row(row, self.mean.len()).part(classes).fetch();
    }
}

/// A code as it is kept.
pub(super) fn round(code: f32) -> i8 {
    code.round().clamp(-LARGEST, LARGEST) as i8
}

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;
    use crate::permutation::Permutation;
    use crate::select::Selector;
    use crate::target::TailNodes;

    /// Levels and codes of one row by their definition: the normal equations over the tail's classes alone, with the ridge.
    fn by_definition(
        z: &[f32],
        mean: &[f32],
        weights: &[f32],
        basis: &[f32],
        rank: usize,
        head: &[u32],
    ) -> Vec<f64> {
        let z_max = f64::from(z[head[0] as usize]);
        let mut gram = DMatrix::<f64>::zeros(1 + rank, 1 + rank);
        let mut right = nalgebra::DVector::<f64>::zeros(1 + rank);
        for class in (0..z.len()).filter(|class| !head.contains(&(*class as u32))) {
            let direction = |at: usize| if at == 0 { 1.0 } else { f64::from(basis[class * rank + at - 1]) };
            let z = (f64::from(z[class]) - z_max).max(f64::from(LOWEST));
            let (w, x) = (f64::from(weights[class]), z - f64::from(mean[class]));
            for i in 0..=rank {
                right[i] += w * direction(i) * x;
                (0..=rank).for_each(|j| gram[(i, j)] += w * direction(i) * direction(j));
            }
        }
        let mean_diagonal = (1..=rank).map(|i| gram[(i, i)]).sum::<f64>() / rank as f64;
        (1..=rank).for_each(|i| gram[(i, i)] += RIDGE * mean_diagonal);
        gram.lu().solve(&right).unwrap().iter().copied().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the shape, the type and the companions of a row.
        #[test]
        fn a_code_is_the_least_squares_solution_over_its_tail(
            classes in prop_oneof![40usize..100, 900usize..1100],
            rank in 1usize..14,
            rows in 1usize..40,
            k in 1usize..12,
            seed in any::<u64>(),
        ) {
            let random = Permutation::new(1 << 20, seed, 0);
            let noise = |at: usize| random.at(at as u64 % (1 << 20)) as f32 / (1 << 19) as f32 - 1.0;
            let some = |from: usize, many: usize, scale: f32| -> Vec<f32> {
                (from..from + many).map(|at| scale * noise(at)).collect()
            };
            let (mean, basis) = (some(0, classes, 3.0), some(2000, classes * rank, 0.1));
            let weights: Vec<f32> = some(20_000, classes, 2.0).iter().map(|x| x.exp()).collect();
            let z: Vec<f16> = some(30_000, rows * classes, 8.0).iter().map(|z| f16::from_f32(*z)).collect();
            let wide: Vec<f32> = z.iter().map(|z| z.to_f32()).collect();
            let encoder = TailEncoder::new(rank, mean.clone(), weights.clone(), &basis).unwrap();
            let selector = Selector::new(classes, k, &TailNodes::default()).unwrap();
            let mut batch = selector.select(&wide).unwrap();
            let tail = |row: usize| (wide[row * classes + batch.row(row).0[0] as usize], batch.row(row).0);
            let solved = encoder.solve((&wide).into(), tail);
            for (row, solved) in solved.chunks(1 + rank).enumerate() {
                let z = &wide[row * classes..][..classes];
                let exact = by_definition(z, &mean, &weights, &basis, rank, batch.row(row).0);
                let largest = exact.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                for (found, exact) in solved.iter().zip(&exact) {
                    prop_assert!((f64::from(*found) - exact).abs() < 1e-5 * (1.0 + largest), "{found} is not {exact}");
                }
                let alone = encoder.solve(z.into(), |_| tail(row));
                prop_assert_eq!(solved, &alone[..]);
            }
            encoder.encode(Floats::F16(&z), &mut batch);
            let codes = solved.chunks(1 + rank).flat_map(|solved| solved[1..].iter().map(|c| round(*c)));
            prop_assert_eq!(&batch.codes, &codes.collect::<Vec<i8>>());
        }
    }

    #[test]
    fn what_is_masked_counts_as_what_the_fit_took_it_for() {
        let (classes, rank) = (200, 2);
        let noise = |at: usize| (at * 7919 % 1000) as f32 / 500.0 - 1.0;
        let masked = |class: usize| class >= 190;
        // A class that is masked everywhere has such a mean, and next to no weight.
        let mean: Vec<f32> =
            (0..classes).map(|class| if masked(class) { LOWEST } else { noise(class) }).collect();
        let weights: Vec<f32> =
            (0..classes).map(|class| if masked(class) { 1e-12 } else { 1.0 + noise(class).abs() }).collect();
        let basis: Vec<f32> = (0..classes * rank).map(|at| noise(at + 31) / 10.0).collect();
        let encoder = TailEncoder::new(rank, mean.clone(), weights.clone(), &basis).unwrap();
        let selector = Selector::new(classes, 5, &TailNodes::default()).unwrap();
        let codes = [LOWEST, -1e9, -1e30, f32::MIN].map(|mask| {
            let z: Vec<f32> = (0..classes)
                .map(|class| if masked(class) { mask } else { 40.0 * noise(class * 3 + 1) - 40.0 })
                .collect();
            let mut batch = selector.select(&z).unwrap();
            encoder.encode(&z, &mut batch);
            let exact = by_definition(&z, &mean, &weights, &basis, rank, batch.row(0).0);
            let rounded: Vec<i8> = exact[1..].iter().map(|code| round(*code as f32)).collect();
            assert_eq!(batch.codes, rounded, "{mask}");
            batch.codes
        });
        assert!(
            codes.iter().all(|of_mask| *of_mask == codes[0]) && codes[0].iter().any(|code| code.abs() < 127)
        );
    }
}
