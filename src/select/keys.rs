//! A class and its logit as one number, so that sorting numbers sorts classes.

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

/// Leaves in `sorted` the `count` least of `keys`, which all differ, in order.
#[inline(always)]
pub(super) fn least(keys: &[i64], count: usize, sorted: &mut Vec<i64>) {
    if keys.len() > FEW {
        sorted.clear();
        sorted.extend_from_slice(keys);
        if keys.len() > 2 * count {
            sorted.select_nth_unstable(count - 1);
            sorted.truncate(count);
        }
        sorted.sort_unstable();
    } else {
        // More comparisons than a sort makes, but in vectors, and none whose outcome has to be guessed.
        sorted.clear();
        sorted.resize(keys.len(), 0);
        for key in keys {
            let place = keys.iter().fold(0u64, |n, other| n.wrapping_add(u64::from(other < key)));
            sorted[place as usize] = *key;
        }
    }
    sorted.truncate(count);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_are_the_order_of_a_head(a in any::<f32>(), b in any::<f32>(), i in any::<u32>(), j in any::<u32>()) {
            prop_assert_eq!(key(a, i).cmp(&key(b, j)), b.total_cmp(&a).then(i.cmp(&j)));
            prop_assert_eq!((logit_of(key(a, i)).to_bits(), id_of(key(a, i))), (a.to_bits(), i));
            prop_assert_eq!(of_rank(rank(a)).to_bits(), a.to_bits());
        }

        #[test]
        fn the_least_are_those_of_a_sort(keys in proptest::collection::hash_set(any::<i64>(), 1..400), count in 1usize..80) {
            let keys: Vec<i64> = keys.into_iter().collect();
            let mut all = keys.clone();
            all.sort_unstable();
            all.truncate(count);
            let mut found = Vec::new();
            least(&keys, count, &mut found);
            prop_assert_eq!(found, all);
        }
    }
}
