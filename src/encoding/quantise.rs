//! Logits and curves as multiples of a step.

use crate::target::TargetBatch;

/// A step that no cache is written with.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("expected a step from {} to {} nats, found {found}", Steps::SMALLEST, Steps::LARGEST)]
pub struct StepsError {
    /// The step.
    pub found: f64,
}

/// How finely logits and tail curves are kept, in nats.
///
/// A value is off by at most half a step (unless it is so far below the largest that it does not fit:
/// 65,535 steps). The divergence this adds at T = 1 is about `½ Σ p_i δ_i²`, so for errors spread evenly
/// at most `step² / 24` nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steps {
    head: f64,
    curve: f64,
}

/// Positions as whole numbers.
///
/// # Shapes
/// As in [`TargetBatch`], and in its order.
///
/// # Value space
/// `values` are multiples of the head's step below the largest logit (0 first, never falling), `curve`
/// multiples of the curve's step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantisedBatch {
    /// Number of positions.
    pub rows: usize,
    /// Head size.
    pub k: usize,
    /// Nodes per tail curve.
    pub nodes: usize,
    /// Numbers per tail code.
    pub rank: usize,
    /// Classes in each head, where heads differ; empty where all have `k`.
    pub counts: Vec<u16>,
    /// Class ids: `[rows, k]`.
    pub ids: Vec<u32>,
    /// Steps below the largest logit: `[rows, k]`.
    pub values: Vec<u16>,
    /// Tail curves in steps: `[rows, nodes]`.
    pub curve: Vec<i16>,
    /// Tail codes: `[rows, rank]`.
    pub codes: Vec<i8>,
}

impl Steps {
    /// The finest step: at it, 65,535 steps reach 131 nats.
    pub const SMALLEST: f64 = 0.002;
    /// The coarsest step.
    pub const LARGEST: f64 = 2.0;

    /// Steps in nats, of head logits and of tail curves.
    ///
    /// # Errors
    /// [`StepsError`].
    pub fn new(head: f64, curve: f64) -> Result<Self, StepsError> {
        for found in [head, curve] {
            if !(Self::SMALLEST..=Self::LARGEST).contains(&found) {
                return Err(StepsError { found });
            }
        }
        Ok(Self { head, curve })
    }

    /// The step of head logits.
    pub fn head(&self) -> f64 {
        self.head
    }

    /// The step of tail curves.
    pub fn curve(&self) -> f64 {
        self.curve
    }

    /// The logit, relative to the largest, of so many steps.
    pub fn value_of(&self, steps: u16) -> f32 {
        // From 0, so that no step is 0 and not its negative.
        (0.0 - f64::from(steps) * self.head) as f32
    }

    /// The point of a tail curve of so many steps.
    pub fn curve_of(&self, steps: i16) -> f32 {
        (f64::from(steps) * self.curve) as f32
    }

    /// Rounds to the nearest step; what is further than there are steps becomes the last one.
    pub fn quantise(&self, batch: &TargetBatch) -> QuantisedBatch {
        // Casts saturate.
        let value = |v: &f32| (f64::from(-v) / self.head).round() as u16;
        let curve = |g: &f32| (f64::from(*g) / self.curve).round() as i16;
        QuantisedBatch {
            rows: batch.rows,
            k: batch.k,
            nodes: batch.nodes,
            rank: batch.rank,
            counts: batch.counts.clone(),
            ids: batch.ids.clone(),
            values: batch.values.iter().map(value).collect(),
            curve: batch.curve.iter().map(curve).collect(),
            codes: batch.codes.clone(),
        }
    }
}

impl QuantisedBatch {
    /// Classes in a position's head.
    pub fn count(&self, row: usize) -> usize {
        self.counts.get(row).map_or(self.k, |count| usize::from(*count))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn steps_out_of_reason_are_refused() {
        for bad in [0.0, -0.1, 0.001, 3.0, f64::NAN, f64::INFINITY] {
            assert!(Steps::new(bad, 0.1).is_err() && Steps::new(0.1, bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn off_by_at_most_half_a_step(v in proptest::collection::vec(-60.0f32..0.0, 3), g in -90.0f32..20.0, step in 0.002f64..2.0) {
            let steps = Steps::new(step, step).unwrap();
            let mut batch = TargetBatch::zeroed(1, 3, 1);
            batch.values.copy_from_slice(&v);
            batch.curve[0] = g;
            let quantised = steps.quantise(&batch);
            let off = |a: f32, b: f32| f64::from((a - b).abs()) <= step / 2.0 * 1.0001 + 1e-5;
            for (v, q) in v.iter().zip(&quantised.values) {
                prop_assert!(off(*v, steps.value_of(*q)));
            }
            // −90 nats are further than there are steps of 0.002: saturated.
            let lowest = steps.curve_of(i16::MIN);
            prop_assert!(off(g.max(lowest), steps.curve_of(quantised.curve[0])));
        }

        #[test]
        fn what_was_quantised_once_stays(q: Vec<u16>, step in 0.002f64..2.0) {
            let steps = Steps::new(step, step).unwrap();
            let mut batch = TargetBatch::zeroed(1, q.len(), 0);
            batch.values = q.iter().map(|q| steps.value_of(*q)).collect();
            prop_assert_eq!(steps.quantise(&batch).values, q);
        }
    }

    #[test]
    fn the_stated_divergence_is_an_upper_bound() {
        // 40 classes with logits spread evenly over steps: errors are even within half a step.
        let step = 0.25;
        let steps = Steps::new(step, step).unwrap();
        let mut worst: f64 = 0.0;
        for seed in 0..50u32 {
            let z: Vec<f64> =
                (0..40u32).map(|i| -f64::from((i * 7919 + seed * 104_729) % 1000) / 100.0).collect();
            let largest = z.iter().copied().fold(f64::MIN, f64::max);
            let q: Vec<f64> =
                z.iter().map(|z| f64::from(steps.value_of(((largest - z) / step).round() as u16))).collect();
            let softmax = |z: &[f64]| {
                let sum: f64 = z.iter().map(|z| z.exp()).sum();
                z.iter().map(|z| z.exp() / sum).collect::<Vec<_>>()
            };
            let (p, q) = (softmax(&z), softmax(&q));
            worst += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>() / 50.0;
        }
        assert!(worst > 0.0 && worst < step * step / 24.0 * 1.1, "{worst}");
    }
}
