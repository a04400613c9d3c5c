//! Sums over many numbers in sixteen lanes, for whatever vector registers the machine has.
//!
//! Lanes are added up in one order and nothing is fused here, so that results are the same to the bit on every machine,
//! whatever the width of its registers.

/// Lanes of a sum.
pub(super) const LANES: usize = 16;

/// Runs `work` compiled for the widest registers of this machine. What it calls must be inlined into it.
#[cfg(feature = "torch")]
pub(crate) fn widest<R>(work: impl FnOnce() -> R) -> R {
    with_widest(work)
}

/// Runs `work` with the vectors of the widest registers of this machine.
pub(super) fn with_widest<Work: pulp::WithSimd>(work: Work) -> Work::Output {
    pulp::Arch::new().dispatch(work)
}

/// The sum.
#[cfg(feature = "torch")]
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The sum of products of as many.
#[cfg(feature = "torch")]
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The largest, −∞ of none.
#[cfg(feature = "torch")]
#[inline(always)]
pub(crate) fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes.iter().copied().fold(rest, f32::max)
}

/// Whether no value is NaN or infinite (an exponent of all ones).
#[inline(always)]
pub(crate) fn all_finite(values: &[f32]) -> bool {
    let exponent = f32::INFINITY.to_bits();
    values.iter().fold(0, |largest: u32, v| largest.max(v.to_bits() & exponent)) != exponent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "torch")]
    fn lanes_and_what_is_left_over_are_all_there() {
        for len in [0usize, 1, 15, 16, 17, 100] {
            let a: Vec<f32> = (0..len).map(|i| i as f32).collect();
            assert_eq!(widest(|| sum(&a)), a.iter().sum::<f32>(), "{len}");
            assert_eq!(widest(|| dot(&a, &a)), a.iter().map(|a| a * a).sum::<f32>(), "{len}");
            assert_eq!(widest(|| largest(&a)), if len == 0 { f32::NEG_INFINITY } else { len as f32 - 1.0 });
        }
    }

    #[test]
    fn what_is_not_finite_is_found() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![0.0f32; 40];
            assert!(all_finite(&values));
            values[39] = bad;
            assert!(!all_finite(&values));
        }
    }
}
