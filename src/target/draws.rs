//! Numbers of draws: what is kept of a target that was sampled.

use super::{NotCovered, Temperature};

/// How targets were sampled: so many draws with replacement from the softmax at a temperature.
///
/// A class drawn c times has probability c / N, which in a head is the logit `T · ln(c / c₁)` relative to
/// the most frequent: its softmax at T gives c / N back, and at no other temperature anything that means
/// something. Source: Anshumann et al., "Sparse Logit Sampling", ACL 2025.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draws {
    number: u16,
    temperature: Temperature,
}

/// Numbers of draws that are none.
#[derive(Debug, PartialEq, Eq)]
pub struct UnsoundDraws {
    /// What holds of all.
    pub expected: String,
    /// What was found.
    pub found: String,
}

impl Draws {
    /// `number` draws at `temperature`; `None` unless there is one and the temperature is positive.
    pub fn new(number: u16, temperature: f64) -> Option<Self> {
        let temperature = Temperature::new(temperature).ok()?;
        (number > 0).then_some(Self { number, temperature })
    }

    /// Draws of a position.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Refuses every temperature but that of the draws.
    ///
    /// # Errors
    /// [`NotCovered::Draws`].
    pub fn require(&self, temperature: Temperature) -> Result<(), NotCovered> {
        match temperature == self.temperature {
            true => Ok(()),
            false => Err(NotCovered::Draws { temperature: temperature.get(), drawn: self.temperature.get() }),
        }
    }

    /// The temperature of the softmax they are of.
    pub fn temperature(&self) -> Temperature {
        self.temperature
    }

    /// Writes the logits, relative to the largest, of classes that were drawn so often, which must fall,
    /// be positive and sum to all draws.
    ///
    /// # Errors
    /// [`UnsoundDraws`].
    pub fn logits(
        &self,
        counts: impl Iterator<Item = u16> + Clone,
        out: &mut [f32],
    ) -> Result<(), UnsoundDraws> {
        let sum: u64 = counts.clone().map(u64::from).sum();
        let falls = counts.clone().zip(counts.clone().skip(1)).all(|(count, next)| count >= next);
        if sum != u64::from(self.number) || !falls || counts.clone().any(|count| count == 0) {
            return Err(UnsoundDraws {
                expected: format!("{} draws, of no class fewer than of the next, of none 0", self.number),
                found: format!("{:?}", counts.collect::<Vec<u16>>()),
            });
        }
        let first = counts.clone().next().map_or(1.0, f64::from);
        for (out, count) in out.iter_mut().zip(counts) {
            // From 0, so that nothing is minus zero.
            *out = (0.0 + self.temperature.get() * (f64::from(count) / first).ln()) as f32;
        }
        Ok(())
    }

    /// How often each class of a head was drawn, from its logits; exact, because single precision tells
    /// logarithms of whole numbers below 2¹⁶ apart.
    pub fn counts(&self, logits: &[f32]) -> impl Iterator<Item = u16> + Clone {
        let weight = |logit: f32| (f64::from(logit) * self.temperature.beta()).exp();
        let all: f64 = logits.iter().map(|logit| weight(*logit)).sum();
        let first = (f64::from(self.number) / all).round();
        // Casts saturate.
        logits.iter().map(move |logit| (first * weight(*logit)).round() as u16)
    }

    /// The counts that lie so far below the first, which follows from their sum.
    ///
    /// # Errors
    /// [`UnsoundDraws`].
    pub fn counts_below(&self, falls: &[u16]) -> Result<impl Iterator<Item = u16> + Clone, UnsoundDraws> {
        let sum = u64::from(self.number) + falls.iter().map(|fall| u64::from(*fall)).sum::<u64>();
        let classes = falls.len().max(1) as u64;
        let first = u16::try_from(sum / classes).ok().filter(|_| sum.is_multiple_of(classes));
        let reaches = |first: &u16| !falls.is_empty() && falls.iter().all(|fall| fall < first);
        let first = first.filter(reaches).ok_or_else(|| UnsoundDraws {
            expected: format!("differences of positive numbers that sum to {}", self.number),
            found: format!("{falls:?}"),
        })?;
        Ok(falls.iter().map(move |fall| first - fall))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Counts that fall, and their sum.
    fn counts() -> impl Strategy<Value = Vec<u16>> {
        proptest::collection::vec(1u16..2000, 1..30).prop_map(|mut counts| {
            counts.sort_unstable_by(|a, b| b.cmp(a));
            counts
        })
    }

    proptest! {
        #[test]
        fn counts_come_back_from_logits_and_from_falls(counts in counts(), t in 0.25f64..8.0) {
            let draws = Draws::new(counts.iter().sum(), t).unwrap();
            let mut logits = vec![0.0; counts.len()];
            draws.logits(counts.iter().copied(), &mut logits).unwrap();
            prop_assert_eq!(logits[0].to_bits(), 0);
            prop_assert_eq!(draws.counts(&logits).collect::<Vec<_>>(), counts.clone());
            let falls: Vec<u16> = counts.iter().map(|count| counts[0] - count).collect();
            prop_assert_eq!(draws.counts_below(&falls).unwrap().collect::<Vec<_>>(), counts.clone());
            // What a softmax at T makes of them.
            let e: Vec<f64> = logits.iter().map(|v| (f64::from(*v) / t).exp()).collect();
            let z: f64 = e.iter().sum();
            for (e, count) in e.iter().zip(&counts) {
                prop_assert!((e / z - f64::from(*count) / f64::from(draws.number())).abs() < 1e-6);
            }
        }

        #[test]
        fn whatever_is_read_is_told_apart(falls: Vec<u16>, number in 1u16.., counts: Vec<u16>) {
            let draws = Draws::new(number, 1.0).unwrap();
            if let Ok(counts) = draws.counts_below(&falls) {
                prop_assert_eq!(counts.map(u64::from).sum::<u64>(), u64::from(number));
            }
            let mut out = vec![0.0; counts.len()];
            if draws.logits(counts.iter().copied(), &mut out).is_ok() {
                prop_assert!(out.iter().all(|v| v.is_finite() && *v <= 0.0));
            }
        }
    }

    #[test]
    fn the_largest_number_of_draws_is_exact() {
        let draws = Draws::new(u16::MAX, 1.0).unwrap();
        for counts in [vec![u16::MAX - 1, 1], vec![32768, 32767], vec![21846, 21845, 21844]] {
            let mut logits = vec![0.0; counts.len()];
            draws.logits(counts.iter().copied(), &mut logits).unwrap();
            assert_eq!(draws.counts(&logits).collect::<Vec<_>>(), counts);
        }
    }

    #[test]
    fn draws_that_cannot_be_are_refused() {
        assert!(Draws::new(0, 1.0).is_none() && Draws::new(5, 0.0).is_none());
        let draws = Draws::new(10, 1.0).unwrap();
        for counts in [vec![9], vec![5, 6], vec![10, 0], vec![3, 3, 3]] {
            assert!(draws.logits(counts.iter().copied(), &mut [0.0; 3]).is_err(), "{counts:?}");
        }
        for falls in [vec![0, 1], vec![0, 20], vec![]] {
            assert!(draws.counts_below(&falls).is_err(), "{falls:?}");
        }
    }
}
