//! What must hold for all of many numbers, by the largest of them.

use pulp::{Simd, WithSimd};

use super::{TILE, with_widest};

/// Whether no value is NaN or infinite (an exponent of all ones). For who is within [`with_widest`] already.
#[inline(always)]
pub(crate) fn all_finite(values: &[f32]) -> bool {
    let exponent = f32::INFINITY.to_bits();
    values.iter().fold(0, |largest: u32, v| largest.max(v.to_bits() & exponent)) != exponent
}

/// The same, for everybody else.
pub(crate) fn are_finite(values: &[f32]) -> bool {
    with_widest(AllFinite(values))
}

struct AllFinite<'a>(&'a [f32]);

impl WithSimd for AllFinite<'_> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> bool {
        all_finite(self.0)
    }
}

/// The largest number, if there is one.
pub(crate) fn largest(numbers: &[u32]) -> Option<u32> {
    if numbers.is_empty() { None } else { Some(with_widest(Largest(numbers))) }
}

struct Largest<'a>(&'a [u32]);

impl WithSimd for Largest<'_> {
    type Output = u32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> u32 {
        let (tiles, rest) = self.0.as_chunks::<TILE>();
        let mut largest = [0; TILE];
        for tile in tiles {
            for (largest, number) in largest.iter_mut().zip(tile) {
                *largest = (*largest).max(*number);
            }
        }
        largest.iter().chain(rest).fold(0, |largest, number| largest.max(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_found() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![0.0f32; 40];
            assert!(all_finite(&values) && are_finite(&values));
            values[39] = bad;
            assert!(!all_finite(&values) && !are_finite(&values));
        }
        assert!(are_finite(&[]));
    }

    #[test]
    fn the_largest_is_found_wherever_it_stands() {
        assert_eq!(largest(&[]), None);
        for len in [1, 5, 63, 64, 65, 200] {
            for at in 0..len {
                let mut numbers: Vec<u32> = (0..len as u32).collect();
                numbers[at] = u32::MAX;
                assert_eq!(largest(&numbers), Some(u32::MAX));
                numbers[at] = 0;
                assert_eq!(
                    largest(&numbers),
                    (0..len as u32).filter(|n| *n as usize != at).max().or(Some(0))
                );
            }
        }
    }
}
