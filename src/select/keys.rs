//! A class and its logit as one number, so that sorting numbers sorts classes.

use pulp::Simd;

/// Rises as the logit falls, and with the id among equal logits: the order of a head.
///
/// A total order of all floats (`total_cmp`'s): the logit's bits are made to rise with it, then turned over.
#[inline(always)]
pub(super) fn key(logit: f32, id: u32) -> i64 {
    i64::from(!rank(logit)) << 32 | i64::from(id)
}

/// The class of a key.
pub(super) fn id_of(key: i64) -> u32 {
    key as u32
}

/// The logit of a key.
pub(super) fn logit_of(key: i64) -> f32 {
    of_rank(!((key >> 32) as i32))
}

/// A whole number that rises with `x`.
#[inline(always)]
pub(super) fn rank(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

/// The float of a rank.
#[inline(always)]
pub(super) fn of_rank(rank: i32) -> f32 {
    f32::from_bits((rank ^ ((rank >> 31) as u32 >> 1) as i32) as u32)
}

/// Keys up to which each is compared with each.
const FEW: usize = 96;

/// Leaves in `sorted` the `count` least of `keys`, which all differ and whose ids rise, in order.
#[inline(always)]
pub(super) fn least<S: Simd>(simd: S, keys: &[i64], count: usize, sorted: &mut Vec<i64>) {
    sorted.clear();
    if keys.len() > FEW {
        sorted.extend_from_slice(keys);
        if keys.len() > 2 * count {
            sorted.select_nth_unstable(count - 1);
            sorted.truncate(count);
        }
        sorted.sort_unstable();
        sorted.truncate(count);
        return;
    }
    // More comparisons than a sort makes, but in vectors, and none whose outcome has to be guessed. The logits alone are
    // compared: where they are equal, the next place that is free is that of the next id.
    let (mut falls, mut places) = ([i32::MAX; FEW], [0u32; FEW]);
    falls.iter_mut().zip(keys).for_each(|(fall, key)| *fall = (key >> 32) as i32);
    let (one, none) = (simd.splat_u32s(1), simd.splat_u32s(0));
    let vectors = keys.len().div_ceil(S::I32_LANES);
    for (own, places) in S::as_simd_i32s(&falls).0[..vectors].iter().zip(S::as_mut_simd_u32s(&mut places).0) {
        let mut before = none;
        for fall in &falls[..keys.len()] {
            let less = simd.less_than_i32s(simd.splat_i32s(*fall), *own);
            before = simd.add_u32s(before, simd.select_u32s(less, one, none));
        }
        *places = before;
    }
    // No key is of a logit that is not a number, so that none is this.
    const FREE: i64 = i64::MAX;
    sorted.resize(keys.len(), FREE);
    for (key, place) in keys.iter().zip(places) {
        let mut place = place as usize;
        while sorted[place] != FREE {
            place += 1;
        }
        sorted[place] = *key;
    }
    sorted.truncate(count);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::with_widest;

    struct Least<'a>(&'a [i64], usize, &'a mut Vec<i64>);

    impl pulp::WithSimd for Least<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            least(simd, self.0, self.1, self.2);
        }
    }

    proptest! {
        #[test]
        fn keys_are_the_order_of_a_head(a in any::<f32>(), b in any::<f32>(), i in any::<u32>(), j in any::<u32>()) {
            prop_assert_eq!(key(a, i).cmp(&key(b, j)), b.total_cmp(&a).then(i.cmp(&j)));
            prop_assert_eq!((logit_of(key(a, i)).to_bits(), id_of(key(a, i))), (a.to_bits(), i));
            prop_assert_eq!(of_rank(rank(a)).to_bits(), a.to_bits());
        }

        #[test]
        fn the_least_are_those_of_a_sort(
            // Few different ones, so that many are equal, and any.
            logits in proptest::collection::vec(prop_oneof![(-3i8..3).prop_map(f32::from), -1e30f32..1e30], 1..400),
            len in 1usize..400,
            count in 1usize..80,
        ) {
            let keys: Vec<i64> = logits.iter().zip((7..).step_by(3)).map(|(z, id)| key(*z, id)).collect();
            for keys in [&keys[..], &keys[..len.min(keys.len()).min(FEW)]] {
                let mut all = keys.to_vec();
                all.sort_unstable();
                all.truncate(count);
                let [widest, narrow] = [true, false].map(|wide| {
                    let mut found = vec![5];
                    let work = Least(keys, count, &mut found);
                    if wide { with_widest(work) } else { pulp::Scalar.vectorize(work) }
                    found
                });
                prop_assert_eq!((&widest, &narrow), (&all, &all));
            }
        }
    }
}
