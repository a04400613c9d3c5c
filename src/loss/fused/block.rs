//! What is done to a block of a row, in vectors, while it is in the first-level cache.
//!
//! Slices are whole tiles. Sums have sixteen lanes, whatever the registers.

use pulp::Simd;

use crate::vectors::{ABREAST, Exp2, LANES};

/// Sums over the weights `e` that the tail's exponentials are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weighted {
    /// `Σ e`.
    pub(super) sum: f32,
    /// `Σ e log₂ e`.
    pub(super) log: f32,
    /// `Σ e (x − base)`.
    pub(super) mean: f32,
}

/// `z` becomes `e = exp(z − most)`, none being above `most`.
#[inline(always)]
pub(super) fn weigh<S: Simd>(
    simd: S,
    exp: &Exp2<S>,
    z: &mut [f32],
    most: f32,
    x: &[f32],
    base: f32,
) -> Weighted {
    let parts = LANES / S::F32_LANES;
    let (most, base) = (simd.splat_f32s(most), simd.splat_f32s(base));
    let scale = simd.splat_f32s(std::f32::consts::LOG2_E);
    let mut lanes = [[0.0f32; LANES]; 3];
    let (x, z) = (S::as_simd_f32s(x).0, S::as_mut_simd_f32s(z).0);
    for (x, z) in x.chunks_exact(ABREAST * parts).zip(z.chunks_exact_mut(ABREAST * parts)) {
        for part in 0..parts {
            let mut t = [most; ABREAST];
            for (run, t) in t.iter_mut().enumerate() {
                *t = simd.mul_f32s(simd.sub_f32s(z[run * parts + part], most), scale);
            }
            let t = exp.cut(simd, t);
            let [mut sum, mut log, mut mean] = [most; 3];
            for (vector, lanes) in [&mut sum, &mut log, &mut mean].into_iter().zip(&lanes) {
                *vector = S::as_simd_f32s(lanes).0[part];
            }
            for (run, (e, t)) in exp.of(simd, t).into_iter().zip(t).enumerate() {
                let at = run * parts + part;
                z[at] = e;
                sum = simd.add_f32s(sum, e);
                log = simd.mul_add_f32s(e, t, log);
                mean = simd.mul_add_f32s(e, simd.sub_f32s(x[at], base), mean);
            }
            for (vector, lanes) in [sum, log, mean].into_iter().zip(&mut lanes) {
                S::as_mut_simd_f32s(lanes).0[part] = vector;
            }
        }
    }
    let [sum, log, mean] = lanes.map(|lanes| lanes.iter().sum());
    Weighted { sum, log, mean }
}

/// `Σ w (x − base)`.
#[inline(always)]
pub(super) fn mean<S: Simd>(simd: S, w: &[f32], x: &[f32], base: f32) -> f32 {
    let parts = LANES / S::F32_LANES;
    let base = simd.splat_f32s(base);
    let mut lanes = [0.0f32; LANES];
    let (w, x) = (S::as_simd_f32s(w).0, S::as_simd_f32s(x).0);
    for (w, x) in w.chunks_exact(ABREAST * parts).zip(x.chunks_exact(ABREAST * parts)) {
        for part in 0..parts {
            let mut sum = S::as_simd_f32s(&lanes).0[part];
            for run in 0..ABREAST {
                let at = run * parts + part;
                sum = simd.mul_add_f32s(w[at], simd.sub_f32s(x[at], base), sum);
            }
            S::as_mut_simd_f32s(&mut lanes).0[part] = sum;
        }
    }
    lanes.iter().sum()
}

/// `g = a g`.
#[inline(always)]
pub(super) fn scale(g: &mut [f32], a: f64) {
    let a = a as f32;
    for g in g {
        *g *= a;
    }
}

/// `g = a g + b t`.
#[inline(always)]
pub(super) fn combine(g: &mut [f32], a: f64, t: &[f32], b: f64) {
    let (a, b) = (a as f32, b as f32);
    for (g, t) in g.iter_mut().zip(t) {
        *g = a * *g + b * *t;
    }
}

/// `g = g + c`.
#[inline(always)]
pub(super) fn shift(g: &mut [f32], c: f64) {
    let c = c as f32;
    for g in g {
        *g += c;
    }
}
