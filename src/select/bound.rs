//! A bound below the largest values of a row, from the maxima of its groups.

use pulp::{Simd, bytemuck};

use super::keys::{of_rank, rank};
use crate::vectors::LANES;

/// Maxima for each value that is wanted. With four, a quarter of the groups hold one of them, and about one group in
/// seven of those a second one: hardly more values than wanted reach the bound.
const MAXIMA_EACH: usize = 4;

/// Runs of sixteen that are visited one after another: as many as make a kilobyte, so that memory is read in order.
const RUNS: usize = 16;

/// A number that at least `count` of the visited values reach, and not many more: of `step` kilobytes of the row one is
/// visited. `None` where less than `count` groups are to be had, or where the maxima are not finite.
///
/// The maxima of groups are values of the row, so that what `count` of them reach, `count` values do. Which number
/// that is does not depend on the machine.
#[inline(always)]
pub(super) fn bound<S: Simd>(
    simd: S,
    row: &[f32],
    step: usize,
    count: usize,
    maxima: &mut Vec<f32>,
) -> Option<f32> {
    let parts = LANES / S::F32_LANES;
    let runs = row.len() / (LANES * step);
    let runs_of_a_group = (runs / (MAXIMA_EACH * count).div_ceil(LANES)).clamp(1, RUNS);
    maxima.clear();
    let whole = &row[..row.len() / LANES * LANES];
    // Where all is visited, groups go on from kilobyte to kilobyte.
    let visit = if step == 1 { whole.len() } else { RUNS * LANES };
    for part in whole.chunks((visit * step).max(1)) {
        let visited = &part[..part.len().min(visit)];
        for group in S::as_simd_f32s(visited).0.chunks(runs_of_a_group * parts) {
            let at = maxima.len();
            maxima.resize(at + LANES, 0.0);
            for (part, largest) in S::as_mut_simd_f32s(&mut maxima[at..]).0.iter_mut().enumerate() {
                let mut so_far = simd.splat_f32s(f32::NEG_INFINITY);
                for values in group[part..].iter().step_by(parts) {
                    so_far = simd.max_f32s(so_far, *values);
                }
                *largest = so_far;
            }
        }
    }
    reached_by(simd, maxima, count)
}

/// A number that at least `count` of `values`, whole runs of sixteen, reach, and at most a quarter more unless they are equal.
///
/// By halving the range of their ranks: 32 steps at most, each a count that compilers vectorise.
#[inline(always)]
fn reached_by<S: Simd>(simd: S, values: &[f32], count: usize) -> Option<f32> {
    let mut ends = [simd.splat_f32s(f32::INFINITY), simd.splat_f32s(f32::NEG_INFINITY)];
    for v in S::as_simd_f32s(values).0 {
        ends = [simd.min_f32s(ends[0], *v), simd.max_f32s(ends[1], *v)];
    }
    let [least, most]: [&[f32]; 2] = [bytemuck::cast_slice(&ends[..1]), bytemuck::cast_slice(&ends[1..])];
    let least = least.iter().fold(f32::INFINITY, |least, v| if *v < least { *v } else { least });
    let most = most.iter().fold(f32::NEG_INFINITY, |most, v| if *v > most { *v } else { most });
    if values.len() < count || !least.is_finite() || !most.is_finite() {
        return None;
    }
    // All reach `low`; less than `count` reach what is above `high`.
    // Which of two zeros is the larger depends on the machine.
    let (mut low, mut high) = (rank(least + 0.0), rank(most + 0.0));
    while low < high {
        let middle = (i64::from(low) + i64::from(high) + 1).div_euclid(2) as i32;
        let limit = of_rank(middle);
        // An addition that is checked for overflow would keep the loop from being vectorised.
        let reached = values.iter().fold(0u32, |n, v| n.wrapping_add(u32::from(*v >= limit))) as usize;
        let enough = reached >= count;
        (low, high) = if enough { (middle, high) } else { (low, middle - 1) };
        if enough && reached <= count + count / 4 {
            break;
        }
    }
    Some(of_rank(low))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::with_widest;

    /// The bound with the widest registers and with none.
    fn bounds(row: &[f32], step: usize, count: usize) -> [Option<f32>; 2] {
        struct Bound<'a>(&'a [f32], usize, usize);
        impl pulp::WithSimd for Bound<'_> {
            type Output = Option<f32>;
            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) -> Option<f32> {
                bound(simd, self.0, self.1, self.2, &mut Vec::new())
            }
        }
        [with_widest(Bound(row, step, count)), pulp::Scalar.vectorize(Bound(row, step, count))]
    }

    proptest! {
        #[test]
        fn enough_reach_it_on_every_machine(
            row in proptest::collection::vec((-40i32..40).prop_map(|v| v as f32 / 4.0), 1..3000),
            count in 1usize..70,
        ) {
            let [bound, narrow] = bounds(&row, 1, count);
            prop_assert_eq!(bound, narrow);
            if let Some(bound) = bound {
                prop_assert!(row.iter().filter(|v| **v >= bound).count() >= count);
            } else {
                prop_assert!(row.len() / 16 * 16 < count);
            }
        }
    }

    #[test]
    fn not_many_more_than_wanted_reach_it() {
        let noise = crate::permutation::Permutation::new(1 << 16, 0, 0);
        let row: Vec<f32> = (0..1 << 16).map(|i| noise.at(i) as f32).collect();
        for (step, count) in [(1, 13), (1, 65), (8, 7), (8, 17)] {
            let bound = bounds(&row, step, count)[0].unwrap();
            let reached = row.iter().filter(|v| **v >= bound).count();
            assert!(
                reached >= count * step / 3 && reached <= count * step * 3,
                "{reached} for {count} of {step}"
            );
        }
    }

    #[test]
    fn signs_and_zeros_are_no_trouble() {
        let mut row = vec![-1.0f32; 64];
        row[3] = 0.0;
        row[20] = -0.0;
        let [bound, narrow] = bounds(&row, 1, 2);
        assert!(bound.unwrap() > -1.0 && bound.unwrap() <= 0.0 && bound == narrow, "{bound:?} {narrow:?}");
        for zeros in [[0.0, -0.0], [-0.0, 0.0]] {
            let mut row = [-3.0f32; 64];
            row[5] = zeros[0];
            row[21] = zeros[1];
            let [bound, narrow] = bounds(&row, 1, 1).map(|bound| bound.unwrap().to_bits());
            assert_eq!(bound, narrow);
        }
        assert_eq!(bounds(&[f32::NAN; 64], 1, 2), [None; 2]);
        assert_eq!(bounds(&[1.0; 3], 1, 2), [None; 2]);
    }
}
