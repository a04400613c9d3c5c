//! Logits and curves as multiples of a step.

use rayon::prelude::*;

use crate::target::TargetBatch;

/// So many numbers are rounded sooner than another thread is found for them.
const FEW: usize = 1 << 14;

/// Steps that no cache is written with.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum StepsError {
    /// Of logits or of curves.
    #[error("expected a step from {} to {} nats, found {found}", Steps::SMALLEST, Steps::LARGEST)]
    Step {
        /// The step.
        found: f64,
    },
    /// Of the growth of steps.
    #[error("expected a growth from 0, all steps alike, to 1 of the first step, found {found}")]
    Growth {
        /// The growth.
        found: f64,
    },
}

/// How finely logits and tail curves are kept, in nats.
///
/// Logits: s steps below the largest lies `step · (s + growth · s² / 2)`. An error of `δ_i` in each logit adds
/// about `½ Σ p_i δ_i²` to the divergence at T = 1, so that a step may grow where classes are improbable: at
/// `x` nats below the largest it is `step · √(1 + 2 · growth · x / step)`, which lies between the growths that
/// are best at T = 1 (with `e^{x/2}`) and at high temperatures (none).
///
/// A value is off by half the step at it (unless it is so far below the largest that it does not fit: 65,535
/// steps). For errors spread evenly the divergence at T = 1 grows by `(step² + 2 · growth · step · x̄) / 24`
/// nats, with `x̄ = Σ p_i x_i`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steps {
    head: f64,
    growth: f64,
    curve: f64,
}

/// Positions as whole numbers.
///
/// # Shapes
/// As in [`TargetBatch`], and in its order.
///
/// # Value space
/// `values` are steps below the largest logit (0 first, never falling), `curve`
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

    /// Steps in nats: the first of head logits, by how much of it each further one is larger, and that of
    /// tail curves.
    ///
    /// # Errors
    /// [`StepsError`].
    pub fn new(head: f64, growth: f64, curve: f64) -> Result<Self, StepsError> {
        for found in [head, curve] {
            if !(Self::SMALLEST..=Self::LARGEST).contains(&found) {
                return Err(StepsError::Step { found });
            }
        }
        if !(0.0..=1.0).contains(&growth) {
            return Err(StepsError::Growth { found: growth });
        }
        Ok(Self { head, growth, curve })
    }

    /// The step of head logits at `value`, which is relative to the largest and thus not above 0.
    pub fn head_at(&self, value: f64) -> f64 {
        self.head * self.root(-value)
    }

    /// `√(1 + 2 · growth · x / step)`: by how much the step is larger `x` nats below the largest logit.
    fn root(&self, x: f64) -> f64 {
        (1.0 + 2.0 * self.growth * x / self.head).sqrt()
    }

    /// The step of tail curves.
    pub fn curve(&self) -> f64 {
        self.curve
    }

    /// The logit, relative to the largest, of so many steps.
    pub fn value_of(&self, steps: u16) -> f32 {
        let steps = f64::from(steps);
        let grown = steps + self.growth * (steps * steps) / 2.0;
        // From 0, so that no step is 0 and not its negative.
        (0.0 - self.head * grown) as f32
    }

    /// The point of a tail curve of so many steps.
    pub fn curve_of(&self, steps: i16) -> f32 {
        (f64::from(steps) * self.curve) as f32
    }

    /// Rounds to the nearest step; what is further than there are steps becomes the last one.
    pub fn quantise(&self, batch: &TargetBatch) -> QuantisedBatch {
        // Solves for s as 2 (x / step) / (1 + root), which is exact without growth. Casts saturate.
        let value = |v: &f32| {
            let x = f64::from(-v);
            (2.0 * x / self.head / (1.0 + self.root(x))).round() as u16
        };
        let curve = |g: &f32| (f64::from(*g) / self.curve).round() as i16;
        QuantisedBatch {
            rows: batch.rows,
            k: batch.k,
            nodes: batch.nodes,
            rank: batch.rank,
            counts: batch.counts.clone(),
            ids: batch.ids.clone(),
            values: batch.values.par_iter().with_min_len(FEW).map(value).collect(),
            curve: batch.curve.par_iter().with_min_len(FEW).map(curve).collect(),
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
            assert!(Steps::new(bad, 0.0, 0.1).is_err() && Steps::new(0.1, 0.0, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn growths_out_of_reason_are_refused() {
        for bad in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(Steps::new(0.1, bad, 0.1), Err(StepsError::Growth { .. })), "{bad}");
        }
    }

    /// `expected = [0, …]` by hand: steps of ⅛, each larger by a quarter of that.
    #[test]
    fn steps_grow_by_the_same_each_time() {
        let steps = Steps::new(0.125, 0.25, 1.0).unwrap();
        let values: Vec<f32> = (0..5).map(|s| steps.value_of(s)).collect();
        assert_eq!(values, [0.0, -0.140625, -0.3125, -0.515625, -0.75]);
        let widths: Vec<f32> = values.windows(2).map(|pair| pair[0] - pair[1]).collect();
        assert_eq!(widths, [0.140625, 0.171875, 0.203125, 0.234375]);
        assert_eq!(steps.head_at(-0.75), 0.25);
    }

    proptest! {
        #[test]
        fn off_by_at_most_half_a_step(v in proptest::collection::vec(-60.0f32..0.0, 3), g in -90.0f32..20.0, step in 0.002f64..2.0, growth in 0.0f64..1.0) {
            let steps = Steps::new(step, growth, step).unwrap();
            let mut batch = TargetBatch::zeroed(1, 3, 1);
            batch.values.copy_from_slice(&v);
            batch.curve[0] = g;
            let quantised = steps.quantise(&batch);
            let off = |a: f32, b: f32, step: f64| f64::from((a - b).abs()) <= step / 2.0 * 1.0001 + 1e-5;
            for (v, q) in v.iter().zip(&quantised.values) {
                // That of the deeper of the two, which is the larger.
                let step = steps.head_at(f64::from(v.min(steps.value_of(*q))));
                prop_assert!(off(*v, steps.value_of(*q), step));
            }
            // −90 nats are further than there are steps of 0.002: saturated.
            let lowest = steps.curve_of(i16::MIN);
            prop_assert!(off(g.max(lowest), steps.curve_of(quantised.curve[0]), step));
        }

        #[test]
        fn what_was_quantised_once_stays(q: Vec<u16>, step in 0.002f64..2.0, growth in prop_oneof![Just(0.0), 0.0f64..1.0]) {
            let steps = Steps::new(step, growth, step).unwrap();
            let mut batch = TargetBatch::zeroed(1, q.len(), 0);
            batch.values = q.iter().map(|q| steps.value_of(*q)).collect();
            prop_assert_eq!(steps.quantise(&batch).values, q);
        }
    }

    #[test]
    fn the_stated_divergence_is_an_upper_bound() {
        // 40 classes with logits spread evenly over steps: errors are even within half a step.
        for (step, growth) in [(0.25, 0.0), (0.1, 0.1)] {
            stated_divergence(step, growth);
        }
    }

    fn stated_divergence(step: f64, growth: f64) {
        let steps = Steps::new(step, growth, step).unwrap();
        let (mut worst, mut stated) = (0.0, 0.0);
        for seed in 0..50u32 {
            let z: Vec<f64> =
                (0..40u32).map(|i| -f64::from((i * 7919 + seed * 104_729) % 1000) / 100.0).collect();
            let largest = z.iter().copied().fold(f64::MIN, f64::max);
            let mut batch = TargetBatch::zeroed(1, z.len(), 0);
            batch.values = z.iter().map(|z| (z - largest) as f32).collect();
            let quantised = steps.quantise(&batch).values;
            let q: Vec<f64> = quantised.iter().map(|s| f64::from(steps.value_of(*s))).collect();
            let softmax = |z: &[f64]| {
                let sum: f64 = z.iter().map(|z| z.exp()).sum();
                z.iter().map(|z| z.exp() / sum).collect::<Vec<_>>()
            };
            let (p, q) = (softmax(&z), softmax(&q));
            worst += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>() / 50.0;
            let mean_depth: f64 = p.iter().zip(&z).map(|(p, z)| p * (largest - z)).sum();
            stated += (step * step + 2.0 * growth * step * mean_depth) / 24.0 / 50.0;
        }
        assert!(worst > 0.0 && worst < stated * 1.1, "{worst}, stated {stated}");
    }
}
