//! An entry as a head and the tail's mass at T = 1.

/// What a tail is said to have where an entry leaves it less, rounding included: single precision knows a sum
/// near 1 no better.
pub const MIN_TAIL_MASS: f64 = 1e-7;

/// By how much an entry's probabilities may be more than 1 together: codecs of logits approximate them.
const SUM_TOLERANCE: f64 = 0.05;
/// By how much a log-probability may be above 0.
const LOGPROB_TOLERANCE: f32 = 1e-3;

/// The k most probable classes of an entry, and what it leaves to the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// Classes and log-probabilities at T = 1, falling; ties by rising class.
    entry: Vec<(u32, f32)>,
    mass: f64,
    classes: usize,
}

impl Head {
    /// Takes an entry, in any order, apart; −∞ is no entry. The memory is kept.
    ///
    /// # Errors
    /// What is wrong with it, in words: a class that is none of `classes` or comes twice, a log-probability that
    /// is none, probabilities that are more than 1 together, or less than the least of them allows for.
    pub fn take(&mut self, classes: usize, ids: &[u32], logprobs: &[f32]) -> Result<(), String> {
        self.entry.clear();
        for (id, logprob) in ids.iter().copied().zip(logprobs.iter().copied()) {
            if id as usize >= classes {
                return Err(format!(
                    "expected a class below {classes}, found {id}; is the vocabulary another?"
                ));
            }
            if logprob.is_nan() || logprob > LOGPROB_TOLERANCE {
                return Err(format!(
                    "expected a log-probability of at most 0 for class {id}, found {logprob}; raw logits cannot be \
                     imported, because the mass of the other classes is not known"
                ));
            }
            if logprob.is_finite() {
                self.entry.push((id, logprob.min(0.0)));
            }
        }
        self.entry.sort_unstable_by_key(|(id, _)| *id);
        if let Some(twice) = self.entry.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("class {} comes twice", twice[0].0));
        }
        self.entry.sort_by(|a, b| b.1.total_cmp(&a.1));
        let Some((_, least)) = self.entry.last() else {
            return Err("no class has a log-probability".into());
        };
        let held: f64 = self.entry.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
        if held > 1.0 + SUM_TOLERANCE {
            return Err(format!("the probabilities of {} classes sum to {held:.4}", self.entry.len()));
        }
        let most = (classes - self.entry.len()) as f64 * f64::from(*least).exp();
        if 1.0 - held > most * (1.0 + SUM_TOLERANCE) + SUM_TOLERANCE {
            return Err(format!(
                "{} classes have {held:.4} together, and the other {} at most {most:.4}, for none of them is more \
                 probable than the least of these; expected the most probable classes of a softmax at T = 1",
                self.entry.len(),
                classes - self.entry.len()
            ));
        }
        (self.mass, self.classes) = (held, classes);
        Ok(())
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.entry.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entry.is_empty()
    }

    /// What the classes have together at T = 1.
    pub fn mass(&self) -> f64 {
        self.mass
    }

    /// The less probable half of the classes, and their probabilities: of all that is known the likest to the
    /// tail.
    pub fn near_tail(&self) -> impl Iterator<Item = (u32, f64)> {
        let half = &self.entry[self.entry.len() / 2..];
        half.iter().map(|(id, logprob)| (*id, f64::from(*logprob).exp()))
    }

    /// Writes the first `ids.len()` classes and their logits relative to the largest, and gives g(1), the
    /// logarithm of what the others have on the same scale, rounding apart: −∞ where there are no others.
    ///
    /// # Panics
    /// When `ids` has more than [`Self::len`] elements, or `values` another number.
    pub fn put(&self, ids: &mut [u32], values: &mut [f32]) -> f32 {
        assert!(ids.len() <= self.entry.len() && ids.len() == values.len(), "more classes than there are");
        let largest = self.entry[0].1;
        let mut held = 0.0;
        for ((id, value), (class, logprob)) in ids.iter_mut().zip(values.iter_mut()).zip(&self.entry) {
            (*id, *value) = (*class, logprob - largest);
            held += f64::from(*logprob).exp();
        }
        // None of the others is more probable than the least that is kept.
        let others = (self.classes - ids.len()) as f64;
        let most = others * f64::from(values.last().map_or(0.0, |value| value + largest)).exp();
        ((1.0 - held).max(MIN_TAIL_MASS).min(most).ln() - f64::from(largest)) as f32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(classes: usize, ids: &[u32], logprobs: &[f32]) -> Result<Head, String> {
        let mut head = Head::default();
        head.take(classes, ids, logprobs).map(|()| head)
    }

    #[test]
    fn what_is_no_top_k_of_a_softmax_is_refused() {
        let wrong = |ids: &[u32], logprobs: &[f32]| take(10, ids, logprobs).unwrap_err();
        assert!(wrong(&[3, 10], &[-1.0, -2.0]).contains("below 10, found 10"));
        assert!(wrong(&[3, 4], &[2.0, 1.0]).contains("raw logits cannot be imported"));
        assert!(wrong(&[3, 4], &[f32::NAN, -1.0]).contains("found NaN"));
        assert!(wrong(&[3, 3], &[-1.0, -2.0]).contains("class 3 comes twice"));
        assert!(wrong(&[3, 4], &[-0.1, -0.1]).contains("sum to 1.80"));
        assert!(wrong(&[3, 4], &[-3.0, -9.0]).contains("expected the most probable"));
        assert!(wrong(&[3], &[f32::NEG_INFINITY]).contains("no class"));
    }

    proptest! {
        /// The definition, from a whole softmax: logits relative to the largest, and the rest's mass.
        #[test]
        fn an_entry_is_a_head_and_what_the_softmax_leaves(
            logits in prop::collection::vec(-8.0f32..8.0, 6..40), k in 1usize..5, seed in 0usize..1000,
        ) {
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            let z: f64 = logits.iter().map(|z| f64::from(z - largest).exp()).sum();
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
            // One class more than is kept, and in another order.
            let mut given: Vec<usize> = order[..k + 1].to_vec();
            given.rotate_left(seed % (k + 1));
            let ids: Vec<u32> = given.iter().map(|at| *at as u32).collect();
            let logprobs: Vec<f32> =
                given.iter().map(|at| (f64::from(logits[*at] - largest) - z.ln()) as f32).collect();
            let head = take(logits.len(), &ids, &logprobs).unwrap();
            let (mut ids, mut values) = (vec![0; k], vec![0.0; k]);
            let curve = head.put(&mut ids, &mut values);
            let tail: f64 = order[k..].iter().map(|at| f64::from(logits[*at] - largest).exp()).sum();
            prop_assert_eq!(ids, order[..k].iter().map(|at| *at as u32).collect::<Vec<_>>());
            for (value, at) in values.iter().zip(&order) {
                prop_assert!((value - (logits[*at] - largest)).abs() < 1e-5);
            }
            prop_assert!((f64::from(curve) - tail.ln()).abs() < 1e-4 / (tail / z).min(1.0), "{} {}", curve, tail.ln());
        }
    }
}
