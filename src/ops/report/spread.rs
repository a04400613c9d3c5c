//! Many numbers in few: mean and percentiles, and a histogram.

use schemars::JsonSchema;
use serde::Serialize;

/// How numbers lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// 5 % are at or below it.
    pub p5: f64,
    /// Half are at or below it.
    pub p50: f64,
    /// 95 % are at or below it.
    pub p95: f64,
}

impl Spread {
    /// The spread of `values`, which are finite; `None` when there are none.
    ///
    /// Percentiles lie between the two neighbours in order, by their distance (as NumPy has it).
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| percentile(&sorted, share);
        Some(Self {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p5: at(0.05),
            p50: at(0.5),
            p95: at(0.95),
        })
    }
}

/// The value below which `share` of `sorted`, which is not empty, lies.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (at - at.floor())
}

/// How many numbers fall into each of some intervals of equal width.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Histogram {
    /// Where the first interval begins.
    pub from: f64,
    /// Where the last one ends.
    pub to: f64,
    /// Numbers in each. An interval has its lower end; only the last has its upper one, too.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Counts `values` in `intervals` from `from` to `to`. What lies outside counts in the nearest
    /// interval, so that no rounding at the ends loses a number.
    pub(super) fn of(values: &[f64], from: f64, to: f64, intervals: usize) -> Self {
        let mut counts = vec![0; intervals];
        let scale = intervals as f64 / (to - from);
        for value in values {
            // A cast to an unsigned type takes what is negative to 0.
            let at = ((value - from) * scale) as usize;
            counts[at.min(intervals - 1)] += 1;
        }
        Self { from, to, counts }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Percentiles by walking: every value stands for an equal stretch between its neighbours.
    fn slow_percentile(values: &[f64], share: f64) -> f64 {
        let mut left = values.to_vec();
        let mut sorted = Vec::new();
        while !left.is_empty() {
            let least = (0..left.len()).min_by(|a, b| left[*a].total_cmp(&left[*b])).unwrap();
            sorted.push(left.swap_remove(least));
        }
        let steps = (sorted.len() - 1) as f64;
        for (at, pair) in sorted.windows(2).enumerate() {
            let (start, end) = (at as f64, at as f64 + 1.0);
            if share * steps <= end {
                let inside = share * steps - start;
                return pair[0] * (1.0 - inside) + pair[1] * inside;
            }
        }
        sorted[sorted.len() - 1]
    }

    proptest! {
        #[test]
        fn a_spread_is_that_of_the_slow_reference(
            values in proptest::collection::vec(-50.0f64..50.0, 1..80),
        ) {
            let spread = Spread::of(&values).unwrap();
            for (found, share) in [(spread.p5, 0.05), (spread.p50, 0.5), (spread.p95, 0.95)] {
                prop_assert!((found - slow_percentile(&values, share)).abs() < 1e-9);
            }
            let mean = values.iter().map(|v| v / values.len() as f64).sum::<f64>();
            prop_assert!((spread.mean - mean).abs() < 1e-9);
        }

        #[test]
        fn a_histogram_is_that_of_the_slow_reference(
            values in proptest::collection::vec(-1.0f64..11.0, 0..200),
            intervals in 1usize..20,
        ) {
            let found = Histogram::of(&values, 0.0, 10.0, intervals);
            let width = 10.0 / intervals as f64;
            let edge = |at: usize| if at == 0 { f64::NEG_INFINITY } else { at as f64 * width };
            for (at, count) in found.counts.iter().enumerate() {
                let upper = if at + 1 == intervals { f64::INFINITY } else { edge(at + 1) };
                let expected = values.iter().filter(|v| **v >= edge(at) && **v < upper).count();
                prop_assert_eq!(*count, expected as u64);
            }
            prop_assert_eq!(found.counts.iter().sum::<u64>(), values.len() as u64);
        }
    }

    #[test]
    fn percentiles_known_by_heart() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[2.0]), Some(Spread { mean: 2.0, p5: 2.0, p50: 2.0, p95: 2.0 }));
        let hundred: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(Spread::of(&hundred), Some(Spread { mean: 50.0, p5: 5.0, p50: 50.0, p95: 95.0 }));
    }

    #[test]
    fn ends_of_a_histogram_count() {
        let found = Histogram::of(&[0.0, 0.5, 1.0, -1e-12, 1.0 + 1e-12], 0.0, 1.0, 2);
        assert_eq!(found.counts, [2, 3]);
    }
}
