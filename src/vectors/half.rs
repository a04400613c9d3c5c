//! Numbers of half types in single precision, which holds all of them.

use half::{bf16, f16};
use pulp::{Simd, WithSimd};

use super::{TILE, with_widest};
use crate::mapped::fetch;

/// A type of sixteen bits.
pub(crate) trait Half: Copy {
    /// The same number; a NaN may be another one.
    fn wide(self) -> f32;
}

impl Half for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Half for f16 {
    /// Exponent and mantissa stand one above the other in both types: moved into place they are a number that is too small
    /// by the difference of the biases, also where it is subnormal. An exponent of all ones becomes one.
    #[inline(always)]
    fn wide(self) -> f32 {
        const ALL_ONES: u32 = 0x7c00 << 13;
        /// 2^(127 − 15).
        const BIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
        let bits = u32::from(self.to_bits());
        let moved = (bits & 0x7fff) << 13;
        let exponent = if moved >= ALL_ONES { f32::INFINITY.to_bits() } else { 0 };
        f32::from_bits((f32::from_bits(moved) * BIAS).to_bits() | exponent | (bits & 0x8000) << 16)
    }
}

/// Writes `halves` to `out`, and asks for `ahead` meanwhile, of which it takes as many.
///
/// # Panics
/// When `out` has another length.
pub(crate) fn widen<H: Half>(halves: &[H], ahead: &[H], out: &mut [f32]) {
    assert_eq!(halves.len(), out.len(), "another length");
    with_widest(Widen { halves, ahead, out });
}

struct Widen<'a, H> {
    halves: &'a [H],
    ahead: &'a [H],
    out: &'a mut [f32],
}

impl<H: Half> WithSimd for Widen<'_, H> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (tiles, rest) = self.halves.as_chunks::<TILE>();
        let (out_tiles, out_rest) = self.out.as_chunks_mut::<TILE>();
        for (tile, (out, halves)) in out_tiles.iter_mut().zip(tiles).enumerate() {
            if let Some(next) = self.ahead.get(tile * TILE..(tile + 1) * TILE) {
                fetch(next);
            }
            for (out, half) in out.iter_mut().zip(halves) {
                *out = half.wide();
            }
        }
        for (out, half) in out_rest.iter_mut().zip(rest) {
            *out = half.wide();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of all numbers that there are.
    fn all_are_the_same<H: Half>(of_bits: fn(u16) -> H, by_definition: fn(H) -> f32) {
        let all: Vec<H> = (0..=u16::MAX).map(of_bits).collect();
        let mut out = vec![7.0; all.len()];
        widen(&all, &all[500..], &mut out);
        for (bits, (half, wide)) in all.iter().zip(&out).enumerate() {
            let exact = by_definition(*half);
            let same = wide.to_bits() == exact.to_bits() || (wide.is_nan() && exact.is_nan());
            assert!(same, "{bits:#06x} is {exact}, not {wide}");
        }
        for len in [0, 1, 63, 65] {
            widen(&all[..len], &[], &mut out[100..100 + len]);
            assert!(out[100..100 + len].iter().zip(&all).all(|(wide, half)| *wide == by_definition(*half)));
        }
    }

    #[test]
    fn every_number_is_the_same() {
        all_are_the_same(f16::from_bits, f16::to_f32);
        all_are_the_same(bf16::from_bits, bf16::to_f32);
    }
}
