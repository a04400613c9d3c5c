//! One position's target at a temperature: the meaning, in `f64`. The slow reference of the crate.

use super::{TailHandling, TailNodes, Temperature};

/// What a cache holds of one position, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct PositionTarget<'a> {
    /// Number of classes `V`.
    pub classes: usize,
    /// Class ids of the head: `[k]`.
    pub ids: &'a [u32],
    /// Logits relative to the largest: `[k]`.
    pub values: &'a [f32],
    /// The nodes of `curve`.
    pub nodes: &'a TailNodes,
    /// The tail curve in nats: `[nodes]`, empty when the head holds every class.
    pub curve: &'a [f32],
}

/// A target at one temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedTarget {
    /// Probabilities of the head's classes, in the head's order: `[k]`.
    pub probabilities: Vec<f64>,
    /// Mass of everything else, in `[0, 1]`; with the head's it sums to 1.
    pub tail_mass: f64,
}

impl PositionTarget<'_> {
    /// `g(β)` in nats at `temperature`, or `None` when there is no tail.
    pub fn tail_log_sum(&self, temperature: Temperature) -> Option<f64> {
        if self.curve.is_empty() {
            return None;
        }
        let weights = self.nodes.weights(temperature);
        // g(0) = log(V − k) is exact and therefore not stored.
        let at_zero = ((self.classes - self.ids.len()) as f64).ln();
        let nodes = self.curve.iter().zip(&weights[1..]);
        Some(weights[0] * at_zero + nodes.map(|(g, w)| f64::from(*g) * w).sum::<f64>())
    }

    /// What mass the tail may have at `temperature`, at least and at most, given that its curve is right at the
    /// nodes and that the head has the largest logits; `None` when there is no tail.
    ///
    /// `g` is convex, as every logarithm of a sum of exponentials is: between two points it lies below their
    /// chord, and outside them above. And it rises no faster than the largest logit of the tail, which is at most
    /// the smallest of the head: `g(β) ≥ g(b) + (β − b) z_k` for every node `b > β`.
    pub fn tail_mass_bounds(&self, temperature: Temperature) -> Option<(f64, f64)> {
        let beta = temperature.beta();
        let smallest = f64::from(*self.values.last()?);
        let nodes = self.nodes.as_slice().iter().copied().zip(self.curve.iter().map(|g| f64::from(*g)));
        let at_zero = ((self.classes - self.ids.len()) as f64).ln();
        let points: Vec<(f64, f64)> = std::iter::once((0.0, at_zero)).chain(nodes).collect();
        let mut bounds = (f64::NEG_INFINITY, f64::INFINITY);
        for pair in points.windows(2) {
            let ((a, at_a), (b, at_b)) = (pair[0], pair[1]);
            let line = at_a + (beta - a) / (b - a) * (at_b - at_a);
            if (a..=b).contains(&beta) {
                bounds.1 = bounds.1.min(line);
            } else {
                bounds.0 = bounds.0.max(line);
            }
            if b >= beta {
                bounds.0 = bounds.0.max(at_b + (beta - b) * smallest);
            }
        }
        let mass = |g: f64| self.normalise(temperature, Some(g)).tail_mass;
        // Rounded nodes may contradict each other by a hair.
        (!self.curve.is_empty()).then(|| (mass(bounds.0.min(bounds.1)), mass(bounds.1)))
    }

    /// The target at `temperature` with the tail's mass taken from the curve (every handling for which
    /// [`TailHandling::reads_curve`] holds).
    pub fn decode(&self, temperature: Temperature) -> DecodedTarget {
        let tail = self.tail_log_sum(temperature);
        self.normalise(temperature, tail)
    }

    /// The target at `temperature` as `handling` sees it.
    pub fn decode_as(&self, temperature: Temperature, handling: TailHandling) -> DecodedTarget {
        match handling {
            TailHandling::Shape | TailHandling::Prior | TailHandling::Uniform => self.decode(temperature),
            TailHandling::Bucket => {
                let log_leftover = self.tail_log_sum(Temperature::ONE);
                self.normalise(temperature, log_leftover.map(|g| g * temperature.beta()))
            }
            TailHandling::Renormalize => self.normalise(temperature, None),
        }
    }

    /// Every class's probability at `temperature`: `[classes]`.
    ///
    /// `log_weights` say how the tail is spread at that temperature: the prior's
    /// ([`super::TailPrior::at`]) or this position's ([`super::TailModelAt::log_weights`], which knows
    /// both). They are used by [`TailHandling::Shape`] and [`TailHandling::Prior`] only; without them
    /// the tail is even. A bucket's mass, which names no classes, is spread evenly.
    pub fn dense(
        &self,
        temperature: Temperature,
        handling: TailHandling,
        log_weights: Option<&[f64]>,
    ) -> Vec<f64> {
        let target = self.decode_as(temperature, handling);
        let weights = log_weights.filter(|_| matches!(handling, TailHandling::Shape | TailHandling::Prior));
        let mut p = match weights {
            Some(b) => b.to_vec(),
            None => vec![0.0; self.classes],
        };
        for &id in self.ids {
            p[id as usize] = f64::NEG_INFINITY;
        }
        let largest = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        for q in &mut p {
            *q = if *q == f64::NEG_INFINITY { 0.0 } else { (*q - largest).exp() };
            sum += *q;
        }
        for q in &mut p {
            *q = if sum > 0.0 { *q / sum * target.tail_mass } else { 0.0 };
        }
        for (&id, &probability) in self.ids.iter().zip(&target.probabilities) {
            p[id as usize] = probability;
        }
        p
    }

    /// Head and an outcome of log-weight `tail` as probabilities that sum to 1.
    fn normalise(&self, temperature: Temperature, tail: Option<f64>) -> DecodedTarget {
        let beta = temperature.beta();
        // The largest head value is 0 by construction, so no exponent overflows.
        let mut probabilities: Vec<f64> = self.values.iter().map(|v| (f64::from(*v) * beta).exp()).collect();
        let tail = tail.map_or(0.0, f64::exp);
        let z = probabilities.iter().sum::<f64>() + tail;
        for p in &mut probabilities {
            *p /= z;
        }
        DecodedTarget { probabilities, tail_mass: tail / z }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::target::TailPrior;

    fn softmax(z: &[f64], beta: f64) -> Vec<f64> {
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e: Vec<f64> = z.iter().map(|z| ((z - max) * beta).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.iter().map(|e| e / sum).collect()
    }

    /// Head and curve of sorted logits, by definition.
    fn compress(z: &[f64], k: usize, nodes: &TailNodes) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
        let values = z[..k].iter().map(|v| (v - z[0]) as f32).collect();
        let curve = |b: &f64| z[k..].iter().map(|v| (b * (v - z[0])).exp()).sum::<f64>().ln() as f32;
        ((0..k as u32).collect(), values, nodes.as_slice().iter().map(curve).collect())
    }

    proptest! {
        #[test]
        fn head_and_mass_are_exact_at_nodes(mut z in proptest::collection::vec(-8.0f64..8.0, 4..40), t in 0usize..5) {
            z.sort_by(|a, b| b.total_cmp(a));
            let nodes = TailNodes::default();
            let k = 3;
            let (ids, values, curve) = compress(&z, k, &nodes);
            let target = PositionTarget { classes: z.len(), ids: &ids, values: &values, nodes: &nodes, curve: &curve };
            let temperature = Temperature::new(nodes.as_slice()[t].recip()).unwrap();
            let decoded = target.decode(temperature);
            let truth = softmax(&z, temperature.beta());
            for (p, q) in decoded.probabilities.iter().zip(&truth) {
                prop_assert!((p - q).abs() < 1e-6);
            }
            prop_assert!((decoded.tail_mass - truth[k..].iter().sum::<f64>()).abs() < 1e-6);
        }

        /// Whatever is known of a curve, what the softmax has is between its bounds, and at a node is both.
        #[test]
        fn a_tails_mass_is_between_its_bounds(
            mut z in proptest::collection::vec(-8.0f64..8.0, 4..40), t in 1.0f64..20.0, few in any::<bool>(),
        ) {
            z.sort_by(|a, b| b.total_cmp(a));
            let nodes = if few { TailNodes::try_from(vec![1.0]).unwrap() } else { TailNodes::default() };
            let (ids, values, curve) = compress(&z, 3, &nodes);
            let target = PositionTarget { classes: z.len(), ids: &ids, values: &values, nodes: &nodes, curve: &curve };
            let temperature = Temperature::new(t).unwrap();
            let truth: f64 = softmax(&z, temperature.beta())[3..].iter().sum();
            let (least, most) = target.tail_mass_bounds(temperature).unwrap();
            prop_assert!(least <= truth + 1e-6 && truth <= most + 1e-6, "{least} {truth} {most}");
            let (least, most) = target.tail_mass_bounds(Temperature::ONE).unwrap();
            let truth: f64 = softmax(&z, 1.0)[3..].iter().sum();
            prop_assert!((least - truth).abs() < 1e-6 && (most - truth).abs() < 1e-6);
        }

        #[test]
        fn dense_targets_sum_to_one(mut z in proptest::collection::vec(-8.0f64..8.0, 4..40), t in 1.0f64..20.0) {
            z.sort_by(|a, b| b.total_cmp(a));
            let nodes = TailNodes::default();
            let (ids, values, curve) = compress(&z, 3, &nodes);
            let target = PositionTarget { classes: z.len(), ids: &ids, values: &values, nodes: &nodes, curve: &curve };
            let t = Temperature::new(t).unwrap();
            let prior = TailPrior::new(nodes.clone(), z.len(), (0..5 * z.len()).map(|i| (i % 7) as f32).collect()).unwrap();
            for handling in TailHandling::ALL {
                // Mass for a bucket exists as long as the curve does.
                let sum: f64 = target.dense(t, handling, Some(&prior.at(t))).iter().sum();
                prop_assert!((sum - 1.0).abs() < 1e-9, "{handling}: {sum}");
            }
        }
    }

    #[test]
    fn with_every_class_in_the_head_the_target_is_the_softmax() {
        let z = [3.0f64, 1.0, -2.0];
        let nodes = TailNodes::default();
        let values = [0.0f32, -2.0, -5.0];
        let target =
            PositionTarget { classes: 3, ids: &[0, 1, 2], values: &values, nodes: &nodes, curve: &[] };
        for t in [0.25, 1.0, 3.0] {
            let t = Temperature::new(t).unwrap();
            let decoded = target.decode(t);
            assert_eq!(decoded.tail_mass, 0.0);
            for (p, q) in decoded.probabilities.iter().zip(softmax(&z, t.beta())) {
                assert!((p - q).abs() < 1e-12);
            }
        }
    }
}
