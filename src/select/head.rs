//! The `k` largest of a row, and the next one.

use std::cmp::Ordering;

use super::lanes::largest;

/// Values compared at once against the threshold.
const BLOCK: usize = 64;

/// A class and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    pub(super) logit: f32,
}

/// Falling logit, then rising id: a total order on finite logits.
fn better_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// The `count` best of `row` in order, left in `found` (which is reused between rows).
///
/// Whole blocks are passed over by their maximum; what may belong is collected, and the
/// collection is halved whenever it has grown to twice `count`. Of equal logits the lower ids
/// are kept: ids rise along the row, so a later equal never displaces an earlier one.
#[inline(always)]
pub(super) fn best(row: &[f32], count: usize, found: &mut Vec<Candidate>) {
    found.clear();
    let room = (2 * count).max(BLOCK);
    let mut threshold = f32::NEG_INFINITY;
    for (block, values) in row.chunks(BLOCK).enumerate() {
        if largest(values) <= threshold {
            continue;
        }
        for (at, &logit) in values.iter().enumerate() {
            if logit > threshold {
                found.push(Candidate { id: (block * BLOCK + at) as u32, logit });
                if found.len() >= room {
                    threshold = keep(found, count);
                }
            }
        }
    }
    if found.len() > count {
        keep(found, count);
    }
    found.sort_unstable_by(better_first);
}

/// Keeps the `count` best, in any order, and returns the worst logit among them.
fn keep(found: &mut Vec<Candidate>, count: usize) -> f32 {
    let (_, worst, _) = found.select_nth_unstable_by(count - 1, better_first);
    let worst = worst.logit;
    found.truncate(count);
    worst
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few distinct values, so that ties are common.
        #[test]
        fn equals_a_full_sort(row in proptest::collection::vec((-20i32..20).prop_map(|v| v as f32 / 4.0), 1..700), k in 1usize..70) {
            let count = k.min(row.len());
            let mut all: Vec<Candidate> =
                row.iter().enumerate().map(|(i, &logit)| Candidate { id: i as u32, logit }).collect();
            all.sort_by(better_first);
            let mut found = Vec::new();
            best(&row, count, &mut found);
            prop_assert_eq!(&found[..], &all[..count]);
        }
    }

    #[test]
    fn equal_infinite_lows_do_not_lose_ids() {
        let row = vec![f32::MIN; 300];
        let mut found = Vec::new();
        best(&row, 3, &mut found);
        assert_eq!(found.iter().map(|c| c.id).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn negative_zero_orders_below_zero_everywhere_or_nowhere() {
        let mut found = Vec::new();
        best(&[-0.0, 0.0, -0.0, 0.0], 4, &mut found);
        assert_eq!(found.len(), 4);
    }
}
