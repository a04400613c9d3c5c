//! The steps of a softmax, in vectors. Slices are whole tiles.

use pulp::Simd;

use super::{ABREAST, Exp2, LANES};

/// The largest, −∞ where all are.
#[inline(always)]
pub(crate) fn largest<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let mut most = [simd.splat_f32s(f32::NEG_INFINITY); ABREAST];
    for vectors in S::as_simd_f32s(x).0.chunks_exact(ABREAST) {
        for (most, x) in most.iter_mut().zip(vectors) {
            *most = simd.max_f32s(*most, *x);
        }
    }
    let mut lanes = [f32::NEG_INFINITY; ABREAST * LANES];
    S::as_mut_simd_f32s(&mut lanes).0[..ABREAST].copy_from_slice(&most);
    lanes.iter().fold(f32::NEG_INFINITY, |most, x| if *x > most { *x } else { most })
}

/// `out = 2^(scale (x − base))`, no power being above `2^125`; with their sum.
#[inline(always)]
pub(crate) fn exponentials<S: Simd>(
    simd: S,
    exp: &Exp2<S>,
    x: &[f32],
    base: f32,
    scale: f32,
    out: &mut [f32],
) -> f32 {
    let parts = LANES / S::F32_LANES;
    let (base, scale) = (simd.splat_f32s(base), simd.splat_f32s(scale));
    let mut lanes = [0.0f32; LANES];
    let (x, out) = (S::as_simd_f32s(x).0, S::as_mut_simd_f32s(out).0);
    for (x, out) in x.chunks_exact(ABREAST * parts).zip(out.chunks_exact_mut(ABREAST * parts)) {
        for part in 0..parts {
            let mut t = [base; ABREAST];
            for (run, t) in t.iter_mut().enumerate() {
                *t = simd.mul_f32s(simd.sub_f32s(x[run * parts + part], base), scale);
            }
            let mut sum = S::as_simd_f32s(&lanes).0[part];
            for (run, e) in exp.of(simd, exp.cut(simd, t)).into_iter().enumerate() {
                out[run * parts + part] = e;
                sum = simd.add_f32s(sum, e);
            }
            S::as_mut_simd_f32s(&mut lanes).0[part] = sum;
        }
    }
    lanes.iter().sum()
}

/// `out = log_w + code · basis`, the basis being of these classes alone: `[rank, classes]`.
#[inline(always)]
pub(crate) fn log_weights<S: Simd>(simd: S, log_w: &[f32], basis: &[f32], code: &[f32], out: &mut [f32]) {
    let (log_w, out) = (S::as_simd_f32s(log_w).0, S::as_mut_simd_f32s(out).0);
    let (basis, all) = (S::as_simd_f32s(basis).0, log_w.len());
    for (at, (log_w, out)) in log_w.chunks_exact(ABREAST).zip(out.chunks_exact_mut(ABREAST)).enumerate() {
        let mut sum = [log_w[0]; ABREAST];
        sum.copy_from_slice(log_w);
        for (c, direction) in code.iter().zip(basis.chunks_exact(all)) {
            let c = simd.splat_f32s(*c);
            for (sum, d) in sum.iter_mut().zip(&direction[at * ABREAST..][..ABREAST]) {
                *sum = simd.mul_add_f32s(c, *d, *sum);
            }
        }
        out.copy_from_slice(&sum);
    }
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::permutation::Permutation;
    use crate::vectors::with_widest;

    /// Largest, log-weights, exponentials and their sum.
    struct All<'a>(&'a [f32], &'a [f32], &'a [f32]);

    impl WithSimd for All<'_> {
        type Output = (f32, Vec<f32>, Vec<f32>, f32);

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let Self(log_w, basis, code) = self;
            let (mut z, mut e) = (vec![0.0; log_w.len()], vec![0.0; log_w.len()]);
            log_weights(simd, log_w, basis, code, &mut z);
            let most = largest(simd, &z);
            let sum = exponentials(simd, &Exp2::new(simd), &z, most, 0.5, &mut e);
            (most, z, e, sum)
        }
    }

    #[test]
    fn each_step_is_its_formula_and_the_same_on_every_machine() {
        let noise = Permutation::new(1 << 20, 5, 0);
        let number = |at: usize| 8.0 * noise.at(at as u64) as f32 / (1 << 20) as f32 - 4.0;
        for (len, rank) in [(64, 0), (128, 3), (1024, 8)] {
            let log_w: Vec<f32> = (0..len).map(number).collect();
            let basis: Vec<f32> = (0..len * rank).map(|at| number(2000 + at)).collect();
            let code: Vec<f32> = (0..rank).map(|at| number(20_000 + at)).collect();
            let found = with_widest(All(&log_w, &basis, &code));
            assert_eq!(found, pulp::Scalar.vectorize(All(&log_w, &basis, &code)));
            let (most, z, e, sum) = found;
            assert_eq!(most, z.iter().copied().fold(f32::MIN, f32::max));
            let mut all = 0.0;
            for (class, (z, e)) in z.iter().zip(&e).enumerate() {
                let along: f64 =
                    (0..rank).map(|at| f64::from(code[at]) * f64::from(basis[at * len + class])).sum();
                let wanted = f64::from(log_w[class]) + along;
                assert!((f64::from(*z) - wanted).abs() < 1e-5, "{z} is not {wanted}");
                let wanted = (0.5 * (f64::from(*z) - f64::from(most))).exp2();
                assert!((f64::from(*e) / wanted - 1.0).abs() < 2e-6, "{e} is not {wanted}");
                all += wanted;
            }
            assert!((f64::from(sum) / all - 1.0).abs() < 2e-6, "{sum} is not {all}");
        }
    }
}
