//! How far two answers to one question are from each other, and how far they may be.
//!
//! A model does not say how it was exported: one that was traced as it trains has dropout that is never off, or normalises by the
//! batch it is given. It is found out by asking twice, and both programs ask: one of teachers, the other of students.

/// Samples that are asked about.
pub(crate) const ROWS: u64 = 8;
/// The share of the logits' own size by which two answers to one question may differ: kernels on a GPU may add in any order.
pub(crate) const AGAIN: f64 = 0.01;
/// The same of a sample alone and among others: whole numbers that are scaled by what is largest in a batch differ by some hundredths.
pub(crate) const ALONE: f64 = 0.2;
/// Logits so far below the largest are as good as none.
const LOWEST: f32 = -50.0;

/// The mean difference of two answers `[positions, classes]`, each position's relative to the size of its logits; a constant
/// that is added to all of them is none, and what is far below the largest (masked classes) counts as [`LOWEST`]. An answer in which no class is
/// preferred says nothing and is left out.
pub(crate) fn difference(one: &[f32], other: &[f32], classes: usize) -> f64 {
    let centred = |row: &[f32]| {
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let row: Vec<f64> = row.iter().map(|z| f64::from((z - largest).max(LOWEST))).collect();
        let mean = row.iter().sum::<f64>() / classes as f64;
        row.into_iter().map(|z| z - mean).collect::<Vec<f64>>()
    };
    let size = |row: &[f64]| row.iter().map(|z| z * z).sum::<f64>().sqrt();
    let rows = one.chunks_exact(classes).zip(other.chunks_exact(classes)).map(|(one, other)| {
        let (one, other) = (centred(one), centred(other));
        let apart: Vec<f64> = one.iter().zip(&other).map(|(a, b)| a - b).collect();
        size(&apart) / size(&other).max(f64::MIN_POSITIVE)
    });
    let shares: Vec<f64> = rows.filter(|share| share.is_finite()).collect();
    shares.iter().sum::<f64>() / shares.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_and_masks_hide_none() {
        let row = [4.0, 1.0, -2.0, -3.0];
        let moved = row.map(|z| z + 7.0);
        assert!(difference(&row, &moved, 4) < 1e-6);
        let other = [4.0, 2.0, -2.0, -3.0];
        let plain = difference(&row, &other, 4);
        assert!((0.1..0.3).contains(&plain), "{plain}");
        assert!((difference(&[row, row].concat(), &[row, other].concat(), 4) - plain / 2.0).abs() < 1e-9);
        let masked = |row: [f32; 4]| [&row[..], &[-1e9, f32::MIN]].concat();
        let masked = difference(&masked(row), &masked(other), 6);
        assert!(masked > 0.0125, "{masked}");
    }
}
