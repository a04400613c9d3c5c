//! Small systems of a level and a few directions: of one position's code, and of one class's row.

use nalgebra::{DMatrix, DVector};

/// Adds `scale · vᵀ v` to a symmetric matrix.
pub(super) fn add_outer(matrix: &mut DMatrix<f64>, scale: f64, v: &[f32]) {
    for (column, at) in matrix.as_mut_slice().chunks_exact_mut(v.len()).zip(v) {
        let scaled = scale * f64::from(*at);
        column.iter_mut().zip(v).for_each(|(sum, v)| *sum += scaled * f64::from(*v));
    }
}

/// The solution of `gram · x = right`, held back by a ridge of `share`; `None` where there is none.
pub(super) fn solve(mut gram: DMatrix<f64>, share: f64, right: &[f32]) -> Option<Vec<f32>> {
    ridge(&mut gram, share);
    let right = DVector::from_fn(gram.nrows(), |at, _| f64::from(right[at]));
    Some(gram.cholesky()?.solve(&right).iter().map(|value| *value as f32).collect())
}

/// Adds `share` of the mean diagonal, the first entry not counted, to every entry of it but the first:
/// a level is never held back, a code is a little. A direction in which nothing varies gets no code.
fn ridge(gram: &mut DMatrix<f64>, share: f64) {
    let size = gram.nrows();
    let mean = (1..size).map(|i| gram[(i, i)]).sum::<f64>() / (size - 1).max(1) as f64;
    gram[(0, 0)] += f64::MIN_POSITIVE;
    for i in 1..size {
        gram[(i, i)] += share * mean.max(0.0) + 1e-30;
    }
}
