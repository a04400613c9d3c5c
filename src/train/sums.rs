//! Means over an epoch, summed up on the device.

use tch::{Kind, Tensor};

use crate::loss::{LossTerms, Means};

/// Names of the sums: what is minimised, its parts, and the norm of the gradients.
const NAMES: [&str; 4] = ["total", "kl", "cross_entropy", "gradient_norm"];

/// Sums over an epoch's positions: nothing is read back from the device before its end.
pub(super) struct Sums {
    over: Means,
    steps: u64,
    terms: [Option<Tensor>; 4],
}

/// An epoch's means.
pub(super) struct EpochMeans {
    pub(super) total: Option<f64>,
    pub(super) kl: Option<f64>,
    pub(super) cross_entropy: Option<f64>,
    pub(super) gradient_norm: Option<f64>,
}

impl Default for Sums {
    fn default() -> Self {
        Self { over: Means { positions: 0, labels: 0 }, steps: 0, terms: [None, None, None, None] }
    }
}

impl Sums {
    /// Adds a step.
    pub(super) fn add(&mut self, terms: &LossTerms, means: Means, gradient_norm: Option<&Tensor>) {
        let given = [Some(&terms.total), terms.kl.as_ref(), terms.cross_entropy.as_ref(), gradient_norm];
        let step = Self::each(means, 1);
        self.over.positions += means.positions;
        self.over.labels += means.labels;
        self.steps += 1;
        for ((sum, term), count) in self.terms.iter_mut().zip(given).zip(step) {
            if let Some(term) = term {
                let weighted = term.detach().to_kind(Kind::Double) * count as f64;
                *sum = Some(match sum.take() {
                    Some(sum) => sum + weighted,
                    None => weighted,
                });
            }
        }
    }

    /// What each sum is over.
    fn each(means: Means, steps: u64) -> [u64; 4] {
        [means.positions as u64, means.positions as u64, means.labels as u64, steps]
    }

    pub(super) fn over(&self) -> Means {
        self.over
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// The means so far.
    pub(super) fn means(&self) -> EpochMeans {
        let counts = Self::each(self.over, self.steps);
        let mean = |at: usize| {
            let sum = self.terms[at].as_ref()?;
            Some(sum.double_value(&[]) / counts[at].max(1) as f64)
        };
        EpochMeans { total: mean(0), kl: mean(1), cross_entropy: mean(2), gradient_norm: mean(3) }
    }

    /// The sums by name.
    pub(super) fn tensors(&self) -> Vec<(&'static str, Tensor)> {
        let named = NAMES.into_iter().zip(&self.terms);
        named.filter_map(|(name, sum)| Some((name, sum.as_ref()?.shallow_clone()))).collect()
    }

    /// What [`Self::tensors`], [`Self::over`] and [`Self::steps`] gave.
    pub(super) fn restored(
        positions: usize,
        labels: usize,
        steps: u64,
        sum: impl Fn(&str) -> Option<Tensor>,
    ) -> Self {
        Self { over: Means { positions, labels }, steps, terms: NAMES.map(sum) }
    }

    /// Moves what was restored to the device of the run.
    pub(super) fn to_device(&mut self, device: tch::Device) {
        self.terms.iter_mut().flatten().for_each(|sum| *sum = sum.to_device(device));
    }
}
