//! A prior for tails of which nothing is known but their mass at T = 1.
//!
//! Targets that another tool kept have no logits outside their heads, so that there is nothing to fit. What a
//! tail holds is then guessed from what stands just above tails: the mean probability of each class where it is in
//! the less probable half of a head, mixed half and half with all classes alike,
//!
//! ```text
//! u_j = ½ n_j / Σ_i n_i + ½ / V
//! ```
//!
//! Half of the weight on all classes bounds the cost where the guess is wrong: never more than ln 2 nats of the
//! tail's own over spreading it evenly. Measured on SmolLM2-135M (V = 49,152, heads of 12, the guess from 3,000
//! positions, KL of full softmax to target at T = 1 over 600 others): evenly 1.00, this 0.76, half and half of
//! whole heads 0.83; calibrated to the tails themselves, which an import cannot be, 0.60.

use crate::target::{TailNodes, TailPrior};

/// Collects what stands just above tails.
#[derive(Clone, Debug)]
pub struct NearTail {
    /// Probability of each class in the less probable halves of heads, summed over positions: `[classes]`.
    mass: Vec<f64>,
}

impl NearTail {
    /// Nothing seen, of `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { mass: vec![0.0; classes] }
    }

    /// Adds classes of the less probable half of a position's head, and their probabilities at T = 1.
    ///
    /// # Panics
    /// When a class is not below the number of classes.
    pub fn add(&mut self, half: impl IntoIterator<Item = (u32, f64)>) {
        for (class, probability) in half {
            self.mass[class as usize] += probability;
        }
    }

    /// The prior at T = 1, the only node of `nodes`; all classes alike where nothing was seen. `None` where
    /// there are further nodes.
    pub fn prior(&self, nodes: &TailNodes) -> Option<TailPrior> {
        let seen: f64 = self.mass.iter().sum();
        let even = 1.0 / self.mass.len() as f64;
        let share = |mass: &f64| if seen > 0.0 { 0.5 * mass / seen + 0.5 * even } else { even };
        let weights = self.mass.iter().map(|mass| share(mass).ln() as f32).collect();
        TailPrior::new(nodes.clone(), self.mass.len(), weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Temperature;

    #[test]
    fn half_is_what_was_seen_and_half_is_even() {
        let nodes = TailNodes::try_from(vec![1.0]).unwrap();
        let even = NearTail::new(4).prior(&nodes).unwrap().at(Temperature::ONE);
        assert!(even.iter().all(|b| (b - 0.25f64.ln()).abs() < 1e-6), "{even:?}");
        let mut near = NearTail::new(4);
        near.add([(1, 0.02), (3, 0.01)]);
        near.add([(1, 0.01)]);
        let found = near.prior(&nodes).unwrap().at(Temperature::ONE);
        for (found, expected) in found.iter().zip([0.125, 0.5, 0.125, 0.25]) {
            assert!((found.exp() - expected).abs() < 1e-6, "{found} is not ln {expected}");
        }
        assert!(near.prior(&TailNodes::default()).is_none());
    }
}
