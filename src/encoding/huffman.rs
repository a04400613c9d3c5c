//! Lengths of a Huffman code of limited depth, and the codes that follow from lengths.

/// The lengths of the best prefix code for `counts` with no code longer than `limit` bits; every symbol
/// gets one, whatever its count.
///
/// Source: Larmore & Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", Journal
/// of the ACM 37, 1990 (package-merge). Ties are broken by the order of symbols, so that equal counts
/// give equal lengths everywhere.
///
/// # Panics
/// When there are no symbols, or more than `2^limit`.
pub(super) fn lengths(counts: &[u64], limit: u32) -> Vec<u8> {
    assert!(!counts.is_empty() && counts.len() as u64 <= 1 << limit, "{} symbols", counts.len());
    let mut lengths = vec![0u8; counts.len()];
    if counts.len() == 1 {
        return lengths;
    }
    // A package: its weight and the symbols in it, each as often as it counts.
    let mut leaves: Vec<(u64, Vec<u16>)> =
        counts.iter().enumerate().map(|(symbol, count)| (*count, vec![symbol as u16])).collect();
    leaves.sort_by_key(|(count, _)| *count);
    let mut packages: Vec<(u64, Vec<u16>)> = Vec::new();
    for _ in 0..limit {
        let pairs = packages.chunks_exact(2);
        let merged =
            pairs.map(|pair| (pair[0].0.saturating_add(pair[1].0), [&pair[0].1[..], &pair[1].1].concat()));
        let mut next: Vec<(u64, Vec<u16>)> = leaves.clone();
        next.extend(merged);
        // Stable: leaves before packages of the same weight.
        next.sort_by_key(|(count, _)| *count);
        packages = next;
    }
    for (_, symbols) in &packages[..2 * (counts.len() - 1)] {
        for symbol in symbols {
            lengths[usize::from(*symbol)] += 1;
        }
    }
    lengths
}

/// Whether codes of these `lengths` use up all words, no more and no less.
pub(super) fn is_complete(lengths: &[u8], limit: u32) -> bool {
    if let [only] = lengths {
        return *only == 0;
    }
    let words =
        |length: &u8| (1..=limit).contains(&u32::from(*length)).then(|| 1u64 << (limit - u32::from(*length)));
    let sum = lengths.iter().map(words).try_fold(0u64, |sum, words| sum.checked_add(words?));
    sum == Some(1 << limit)
}

/// The canonical codes of `lengths`: by rising length, symbols of one length in order, counting up. The
/// first bit of a code is its highest.
///
/// Source: RFC 1951, section 3.2.2.
pub(super) fn codes(lengths: &[u8]) -> Vec<u32> {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut codes = vec![0; lengths.len()];
    let mut next = 0u32;
    for length in 1..=longest {
        for (code, _) in codes.iter_mut().zip(lengths).filter(|(_, of)| **of == length) {
            *code = next;
            next += 1;
        }
        next <<= 1;
    }
    codes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_symbol_needs_no_bits() {
        assert_eq!(lengths(&[7], 12), [0]);
        assert!(is_complete(&[0], 12) && !is_complete(&[1], 12) && !is_complete(&[], 12));
    }

    #[test]
    fn the_example_of_rfc_1951() {
        assert_eq!(codes(&[3, 3, 3, 3, 3, 2, 4, 4]), [2, 3, 4, 5, 6, 0, 14, 15]);
    }

    #[test]
    fn lengths_that_are_no_code_are_seen() {
        assert!(!is_complete(&[1, 1, 1], 12), "too many");
        assert!(!is_complete(&[2, 2, 2], 12), "too few");
        assert!(!is_complete(&[0, 1], 12), "none at all");
        assert!(!is_complete(&[1, 13], 12), "too long");
        assert!(!is_complete(&[1, 255], 12), "far too long");
    }

    /// The cost of an unlimited Huffman code, by its definition.
    fn huffman_cost(counts: &[u64]) -> u64 {
        let mut heap: std::collections::BinaryHeap<_> =
            counts.iter().map(|c| std::cmp::Reverse(*c)).collect();
        let mut cost = 0;
        while heap.len() > 1 {
            let (a, b) = (heap.pop().unwrap().0, heap.pop().unwrap().0);
            cost += a + b;
            heap.push(std::cmp::Reverse(a + b));
        }
        cost
    }

    proptest! {
        #[test]
        fn complete_and_as_short_as_huffman(counts in proptest::collection::vec(1u64..500, 2..90)) {
            let lengths = lengths(&counts, 12);
            prop_assert!(is_complete(&lengths, 12));
            let cost: u64 = counts.iter().zip(&lengths).map(|(c, l)| c * u64::from(*l)).sum();
            let best = huffman_cost(&counts);
            // Counts below 500 give no code longer than the limit, but for rare ones.
            prop_assert!(cost >= best && cost as f64 <= best as f64 * 1.01, "{cost} of {best}");
        }

        #[test]
        fn the_limit_is_kept(exponent in 1u32..3, symbols in 2usize..60) {
            let counts: Vec<u64> = (0..symbols).map(|s| 1 << (exponent * s as u32).min(62)).collect();
            let lengths = lengths(&counts, 12);
            prop_assert!(is_complete(&lengths, 12));
        }
    }
}
