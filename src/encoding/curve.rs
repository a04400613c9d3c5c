//! What is left of a tail curve once its other nodes are known.
//!
//! From the largest β down, each node is foretold by the polynomial through β = 0, where the curve is
//! `log(V − k)`, and the nodes above. A curve is smooth, so little is left to write.

use crate::target::TailNodes;

/// Foretells nodes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CurvePredictor {
    /// For node i: the weight of β = 0, then those of the nodes above it, in order.
    weights: Vec<Vec<f64>>,
}

impl CurvePredictor {
    pub(super) fn new(nodes: &TailNodes) -> Self {
        let nodes = nodes.as_slice();
        let weights = (0..nodes.len()).map(|at| {
            let known: Vec<f64> = std::iter::once(0.0).chain(nodes[at + 1..].iter().copied()).collect();
            // Lagrange's polynomials at the node.
            known
                .iter()
                .enumerate()
                .map(|(i, x)| {
                    let others = known.iter().enumerate().filter(|(j, _)| *j != i);
                    others.map(|(_, other)| (nodes[at] - other) / (x - other)).product()
                })
                .collect()
        });
        Self { weights: weights.collect() }
    }

    /// Steps foretold for node `at` of `curve`, of which the nodes above are known; `at_zero` is
    /// `log(V − k)` in whole steps.
    ///
    /// Everything that enters is a whole number or follows from the nodes by IEEE arithmetic alone, in a
    /// fixed order, so that every reader foretells the same.
    pub(super) fn predict(&self, at: usize, at_zero: f64, curve: &[i16]) -> i16 {
        let weights = &self.weights[at];
        let above = weights[1..].iter().zip(&curve[at + 1..]);
        let sum = above.fold(weights[0] * at_zero, |sum, (w, q)| sum + w * f64::from(*q));
        // Saturates.
        (sum + 0.5).floor() as i16
    }
}

/// Differences with either sign as numbers from 0: 0, −1, 1, −2, 2, …
pub(super) fn zigzag(difference: i32) -> u32 {
    ((difference << 1) ^ (difference >> 31)) as u32
}

/// The inverse of [`zigzag`].
pub(super) fn unzigzag(number: u32) -> i32 {
    (number >> 1) as i32 ^ -((number & 1) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zigzag_goes_both_ways() {
        assert_eq!([0, -1, 1, -2, 2].map(zigzag), [0, 1, 2, 3, 4]);
        for n in [0, 5, -5, 65_535, -65_535] {
            assert_eq!(unzigzag(zigzag(n)), n);
        }
    }

    #[test]
    fn a_polynomial_is_foretold() {
        let nodes = TailNodes::default();
        let predictor = CurvePredictor::new(&nodes);
        // The lowest node knows five points: 3 − 40 β + 8 β² in steps of 1/100.
        let at = |b: f64| (3.0 - 40.0 * b + 8.0 * b * b) * 100.0;
        let curve: Vec<i16> = nodes.as_slice().iter().map(|b| at(*b).round() as i16).collect();
        for node in 0..3 {
            let predicted = predictor.predict(node, at(0.0), &curve);
            assert!((predicted - curve[node]).abs() <= 3, "node {node}: {predicted} of {}", curve[node]);
        }
    }
}
