//! A seeded random order of `0..len` that needs no memory and can be read at any position.
//!
//! A Feistel network is a bijection on `2^(2h)` values whatever its round function (Luby &
//! Rackoff, 1988); values beyond `len` are walked on along their cycle until they fall inside
//! (Black & Rogaway, "Ciphers with Arbitrary Finite Domains", 2002), which keeps it a bijection
//! on `0..len`. Four values at most lie in the domain for each one in range, so the walk is short.

/// Rounds of the network; four suffice in theory, two more are cheap insurance for tiny domains.
const ROUNDS: usize = 6;

/// A fixed random order of `0..len`.
#[derive(Clone, Debug)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The order of `0..len` that belongs to `seed` and `stream` (an epoch, say).
    pub fn new(len: u64, seed: u64, stream: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let mut state = mix(seed ^ mix(stream ^ 0x6b64_2d63_6163_6865));
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        });
        Self { len, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// How many numbers are ordered.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to order.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number at `position`.
    ///
    /// # Panics
    /// When `position` is not below `len`.
    pub fn at(&self, position: u64) -> u64 {
        assert!(position < self.len, "position {position} of {}", self.len);
        let mut value = position;
        loop {
            value = self.network(value);
            if value < self.len {
                return value;
            }
        }
    }

    fn network(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// SplitMix64's finaliser (Steele, Lea & Flood, 2014).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_comes_once(len in 1u64..3000, seed: u64, stream in 0u64..4) {
            let order = Permutation::new(len, seed, stream);
            let mut seen = vec![false; len as usize];
            for position in 0..len {
                let value = order.at(position) as usize;
                prop_assert!(!std::mem::replace(&mut seen[value], true));
            }
        }
    }

    #[test]
    fn seeds_and_streams_give_other_orders() {
        let order = |seed, stream| {
            let order = Permutation::new(1000, seed, stream);
            (0..1000).map(|i| order.at(i)).collect::<Vec<_>>()
        };
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(2, 0));
        assert_ne!(order(1, 0), order(1, 1));
        let moved = order(1, 0).iter().enumerate().filter(|(i, v)| *i as u64 != **v).count();
        assert!(moved > 980, "only {moved} of 1000 numbers moved");
    }

    #[test]
    fn the_order_is_pinned() {
        // Caches depend on it: another order would be another sample and another tail prior.
        let order = Permutation::new(10, 0, 0);
        let all: Vec<u64> = (0..10).map(|i| order.at(i)).collect();
        assert_eq!(all, PINNED);
    }

    const PINNED: [u64; 10] = [3, 5, 1, 0, 2, 8, 9, 6, 4, 7];

    #[test]
    fn large_domains_stay_in_range() {
        let order = Permutation::new(u64::MAX, 3, 0);
        assert!((0..100).all(|i| order.at(i) < u64::MAX));
    }
}
