//! The exponential of many non-positive numbers: in a form that compilers vectorise, and in explicit vectors.

use pulp::{Simd, bytemuck};

use super::ABREAST;

/// Below this, `exp` is a subnormal; such terms vanish beside the largest, which is 1.
const LOWEST: f32 = -87.0;

/// 1.5 · 2^23: adding and taking it away rounds what is below 2^22 to an integer without a branch.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// `exp(x)` for `x ≤ 0`; arguments below −87 are taken as −87 (1.6e−38).
///
/// Cody & Waite's reduction `x = n ln 2 + r`, `|r| ≤ ln 2 / 2`, and a polynomial of degree 6
/// for `exp(r)`. Relative error below 2.5e−7 (measured over the whole range in the tests).
#[inline(always)]
pub(crate) fn exp_non_positive(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.max(LOWEST);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    // n is a whole number in [−126, 0], and stands in the lowest bits of `rounded`. A conversion, or
    // an addition that is checked for overflow, would keep the loop from being vectorised.
    p * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// `2^t` for `−125 ≤ t ≤ 125` in vectors, in two thirds of the operations that [`exp_non_positive`] takes.
///
/// `t` is split into the nearest whole number, which goes into the exponent, and the rest, whose power is a polynomial
/// of degree 5 that begins with `1 + t ln 2`, minimax in relative error over `[−½, ½]`: 1.1e−7 (fitted by Lawson's
/// algorithm).
#[derive(Clone, Copy)]
pub(crate) struct Exp2<S: Simd> {
    lowest: S::f32s,
    round: S::f32s,
    mantissa: S::u32s,
    polynomial: [S::f32s; 6],
}

/// Falling powers.
const POLYNOMIAL: [f32; 6] =
    [0.001_330_060_7, 0.009_669_691, 0.055_505_585, 0.240_222_83, std::f32::consts::LN_2, 1.0];

impl<S: Simd> Exp2<S> {
    #[inline(always)]
    pub(crate) fn new(simd: S) -> Self {
        let mut polynomial = [simd.splat_f32s(0.0); 6];
        for (vector, c) in polynomial.iter_mut().zip(POLYNOMIAL) {
            *vector = simd.splat_f32s(c);
        }
        Self {
            lowest: simd.splat_f32s(-125.0),
            round: simd.splat_f32s(ROUND),
            mantissa: simd.splat_u32s(23),
            polynomial,
        }
    }

    /// What lies below −125 is taken to it.
    #[inline(always)]
    pub(crate) fn cut(&self, simd: S, mut t: [S::f32s; ABREAST]) -> [S::f32s; ABREAST] {
        for t in &mut t {
            *t = simd.max_f32s(*t, self.lowest);
        }
        t
    }

    /// `2^t` of each.
    #[inline(always)]
    pub(crate) fn of(&self, simd: S, t: [S::f32s; ABREAST]) -> [S::f32s; ABREAST] {
        let (mut whole, mut rest) = (t, t);
        for (whole, rest) in whole.iter_mut().zip(&mut rest) {
            *whole = simd.add_f32s(*whole, self.round);
            *rest = simd.sub_f32s(*rest, simd.sub_f32s(*whole, self.round));
        }
        self.of_parts(simd, whole, rest)
    }

    /// `2^(whole + rest)` of each, with `rest` in `[−½, ½]` and `whole` a whole number to which [`ROUND`] is added, so that it
    /// stands in the lowest bits.
    #[inline(always)]
    pub(crate) fn of_parts(
        &self,
        simd: S,
        whole: [S::f32s; ABREAST],
        rest: [S::f32s; ABREAST],
    ) -> [S::f32s; ABREAST] {
        let [fifth, fourth, third, second, first, one] = self.polynomial;
        // Estrin's scheme: one operation more than Horner's, and a chain of three in place of five.
        let mut power = rest;
        for (power, rest) in power.iter_mut().zip(rest) {
            let square = simd.mul_f32s(rest, rest);
            let high = simd.mul_add_f32s(fifth, rest, fourth);
            let middle = simd.mul_add_f32s(third, rest, second);
            let low = simd.mul_add_f32s(first, rest, one);
            *power = simd.mul_add_f32s(simd.mul_add_f32s(high, square, middle), square, low);
        }
        for (power, whole) in power.iter_mut().zip(whole) {
            let exponent = simd.wrapping_dyn_shl_u32s(bytemuck::cast(whole), self.mantissa);
            *power = bytemuck::cast(simd.add_u32s(bytemuck::cast(*power), exponent));
        }
        power
    }
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::vectors::{TILE, with_widest};

    struct Powers<'a>(&'a [f32], &'a mut [f32]);

    impl WithSimd for Powers<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let exp = Exp2::new(simd);
            let (t, out) = (S::as_simd_f32s(self.0).0, S::as_mut_simd_f32s(self.1).0);
            for (t, out) in t.as_chunks::<ABREAST>().0.iter().zip(out.as_chunks_mut::<ABREAST>().0) {
                *out = exp.of(simd, exp.cut(simd, *t));
            }
        }
    }

    #[test]
    fn powers_of_two_are_right_over_their_whole_range() {
        let t: Vec<f32> =
            (0..TILE * 4000).map(|at| -126.0 + at as f32 * (251.0 / (TILE * 4000) as f32)).collect();
        let mut powers = vec![0.0; t.len()];
        with_widest(Powers(&t, &mut powers));
        for (t, power) in t.iter().zip(&powers) {
            let exact = f64::from(t.max(-125.0)).exp2();
            assert!((f64::from(*power) - exact).abs() < 2e-7 * exact, "2^{t} is not {power}");
        }
    }

    #[test]
    fn relative_error_is_as_documented() {
        let mut worst = 0.0f64;
        for i in 0..=870_000 {
            let x = -(i as f32) * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp_non_positive(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.5e-7, "{worst:e}");
        assert_eq!(exp_non_positive(0.0), 1.0);
        assert!(exp_non_positive(f32::NEG_INFINITY) < 2e-38);
        assert!(exp_non_positive(-1e30) < 2e-38);
    }
}
