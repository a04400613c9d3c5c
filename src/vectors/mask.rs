//! Which lanes of a comparison hold.

use pulp::{Simd, bytemuck};

/// A bit for each lane in which `mask` is set, the first lane's lowest.
///
/// (`Simd::first_true_m32s` goes through memory, lane by lane, on a machine with AVX2.)
#[inline(always)]
pub(crate) fn lanes_of<S: Simd>(simd: S, mask: S::m32s) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = (&simd as &dyn std::any::Any).downcast_ref::<pulp::x86::V3>() {
        return avx2.avx._mm256_movemask_ps(bytemuck::cast(mask)).cast_unsigned();
    }
    if size_of::<S::m32s>() == size_of::<u16>() {
        // AVX-512 has it as bits.
        return u32::from(bytemuck::cast::<S::m32s, u16>(mask));
    }
    let ones = simd.select_u32s(mask, simd.splat_u32s(1), simd.splat_u32s(0));
    let ones: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&ones));
    ones.iter().rev().fold(0, |bits, one| bits << 1 | one)
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::vectors::{LANES, with_widest};

    struct AtLeast<'a>(&'a [f32; LANES], f32);

    impl WithSimd for AtLeast<'_> {
        type Output = u32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> u32 {
            let limit = simd.splat_f32s(self.1);
            let vectors = S::as_simd_f32s(self.0).0.iter();
            (0..).step_by(S::F32_LANES).zip(vectors).fold(0, |all, (start, z)| {
                all | lanes_of(simd, simd.greater_than_or_equal_f32s(*z, limit)) << start
            })
        }
    }

    #[test]
    fn each_lane_is_a_bit_on_every_machine() {
        let all: [f32; LANES] = std::array::from_fn(|at| (at * 7 % LANES) as f32);
        for limit in 0..=LANES {
            let limit = limit as f32;
            let expected = (0..LANES).filter(|at| all[*at] >= limit).fold(0, |bits, at| bits | 1 << at);
            assert_eq!(with_widest(AtLeast(&all, limit)), expected);
            assert_eq!(pulp::Scalar.vectorize(AtLeast(&all, limit)), expected);
            #[cfg(target_arch = "x86_64")]
            for found in [
                pulp::x86::V2::try_new().map(|simd| Simd::vectorize(simd, AtLeast(&all, limit))),
                pulp::x86::V3::try_new().map(|simd| Simd::vectorize(simd, AtLeast(&all, limit))),
                pulp::x86::V4::try_new().map(|simd| Simd::vectorize(simd, AtLeast(&all, limit))),
            ] {
                assert!(found.is_none_or(|found| found == expected));
            }
        }
    }
}
