//! Means over an epoch, summed up on the device.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use crate::config::{LossWeights, TermWeights};
use crate::loss::{LossTerms, Means};

/// Names of the sums that are no terms: what is minimised, and the norm of the gradients.
const TOTAL: &str = "total";
const GRADIENT_NORM: &str = "gradient_norm";

/// Sums over an epoch's positions: nothing is read back from the device before its end.
#[derive(Default)]
pub(super) struct Sums {
    over: Means,
    steps: u64,
    sums: BTreeMap<String, Tensor>,
}

/// An epoch's means.
pub(super) struct EpochMeans {
    pub(super) total: Option<f64>,
    pub(super) terms: BTreeMap<String, f64>,
    pub(super) gradient_norm: Option<f64>,
}

/// What the sum called `name` is over.
fn count(name: &str, over: Means, steps: u64) -> f64 {
    match name {
        GRADIENT_NORM => steps as f64,
        name if LossWeights::is_of_labels(name) => over.labels as f64,
        _ => over.positions as f64,
    }
}

impl Sums {
    /// Adds a step.
    pub(super) fn add(&mut self, terms: &LossTerms, means: Means, gradient_norm: Option<&Tensor>) {
        let whole = std::iter::once((TOTAL, &terms.total));
        let named = whole.chain(terms.terms.iter().map(|(name, term)| (name.as_str(), term)));
        for (name, term) in named.chain(gradient_norm.map(|norm| (GRADIENT_NORM, norm))) {
            let weighted = term.detach().to_kind(Kind::Double) * count(name, means, 1);
            let sum = match self.sums.remove(name) {
                Some(sum) => sum + weighted,
                None => weighted,
            };
            self.sums.insert(name.to_owned(), sum);
        }
        self.over.positions += means.positions;
        self.over.labels += means.labels;
        self.steps += 1;
    }

    pub(super) fn over(&self) -> Means {
        self.over
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// The weighted sum of the means of the terms so far.
    pub(super) fn loss(&self, weights: &TermWeights) -> f64 {
        self.means().terms.iter().map(|(name, mean)| weights.of(name) * mean).sum()
    }

    /// The means so far.
    pub(super) fn means(&self) -> EpochMeans {
        let mean = |name: &str| {
            let sum = self.sums.get(name)?;
            Some(sum.double_value(&[]) / count(name, self.over, self.steps).max(1.0))
        };
        let terms = self.sums.keys().filter(|name| ![TOTAL, GRADIENT_NORM].contains(&name.as_str()));
        let terms = terms.filter_map(|name| Some((name.clone(), mean(name)?)));
        EpochMeans { total: mean(TOTAL), terms: terms.collect(), gradient_norm: mean(GRADIENT_NORM) }
    }

    /// The sums by name.
    pub(super) fn tensors(&self) -> Vec<(String, Tensor)> {
        self.sums.iter().map(|(name, sum)| (name.clone(), sum.shallow_clone())).collect()
    }

    /// What [`Self::tensors`], [`Self::over`] and [`Self::steps`] gave.
    pub(super) fn restored(
        positions: usize,
        labels: usize,
        steps: u64,
        sums: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Self {
        let sums = sums.into_iter().collect();
        Self { over: Means { positions, labels }, steps, sums }
    }

    /// Moves what was restored to the device of the run.
    pub(super) fn move_to(&mut self, device: tch::Device) {
        self.sums.values_mut().for_each(|sum| *sum = sum.to_device(device));
    }
}
