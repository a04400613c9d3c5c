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
    /// Those with a norm of gradients.
    steps: u64,
    sums: BTreeMap<String, Tensor>,
}

/// Means of an epoch, or of a part of it.
pub(super) struct SumMeans {
    pub(super) total: Option<f64>,
    pub(super) terms: BTreeMap<String, f64>,
    pub(super) gradient_norm: Option<f64>,
}

/// Sums that were read back from the device, and what they are over, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Totals(BTreeMap<String, f64>);

/// Names of what sums are over. All counts are far below 2⁵³.
const POSITIONS: &str = "positions";
const LABELS: &str = "labels";
const STEPS: &str = "steps";

impl Totals {
    fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    pub(super) fn new(values: impl Iterator<Item = (String, f64)>) -> Self {
        Self(values.collect())
    }

    /// What is left without `other`.
    pub(super) fn less(&self, other: &Self) -> Self {
        let names = self.0.keys().chain(other.0.keys());
        Self(names.map(|name| (name.clone(), self.get(name) - other.get(name))).collect())
    }

    /// The means; none of what nothing was counted of.
    pub(super) fn means(&self) -> SumMeans {
        let mean = |name: &str| {
            let count = self.get(over(name));
            Some(self.0.get(name)? / count).filter(|_| count > 0.0)
        };
        let others = [TOTAL, GRADIENT_NORM, POSITIONS, LABELS, STEPS];
        let terms = self.0.keys().filter(|name| !others.contains(&name.as_str()));
        let terms = terms.filter_map(|name| Some((name.clone(), mean(name)?)));
        SumMeans { total: mean(TOTAL), terms: terms.collect(), gradient_norm: mean(GRADIENT_NORM) }
    }
}

/// The name of what the sum called `name` is over.
fn over(name: &str) -> &'static str {
    match name {
        GRADIENT_NORM => STEPS,
        name if LossWeights::is_of_labels(name) => LABELS,
        _ => POSITIONS,
    }
}

impl Sums {
    /// Adds a step. `gradient_norm` is left out of steps that were not taken.
    pub(super) fn add(&mut self, terms: &LossTerms, means: Means, gradient_norm: Option<&Tensor>) {
        let whole = std::iter::once((TOTAL, &terms.value));
        let named = whole.chain(terms.terms.iter().map(|(name, term)| (name.as_str(), term)));
        for (name, term) in named.chain(gradient_norm.map(|norm| (GRADIENT_NORM, norm))) {
            let count = match over(name) {
                STEPS => 1.0,
                LABELS => means.labels as f64,
                _ => means.positions as f64,
            };
            let weighted = term.detach().to_kind(Kind::Double) * count;
            let sum = match self.sums.remove(name) {
                Some(sum) => sum + weighted,
                None => weighted,
            };
            self.sums.insert(name.to_owned(), sum);
        }
        self.over.positions += means.positions;
        self.over.labels += means.labels;
        self.steps += u64::from(gradient_norm.is_some());
    }

    pub(super) fn over(&self) -> Means {
        self.over
    }

    /// Steps whose gradients' norm is known.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// The weighted sum of the means of the terms so far.
    pub(super) fn loss(&self, weights: &TermWeights) -> f64 {
        self.means().terms.iter().map(|(name, mean)| weights.of(name) * mean).sum()
    }

    /// The means so far.
    pub(super) fn means(&self) -> SumMeans {
        self.totals().means()
    }

    /// The sums so far, read back from the device.
    pub(super) fn totals(&self) -> Totals {
        let counts = [
            (POSITIONS, self.over.positions as f64),
            (LABELS, self.over.labels as f64),
            (STEPS, self.steps as f64),
        ];
        let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), count));
        let sums = self.sums.iter().map(|(name, sum)| (name.clone(), sum.double_value(&[])));
        Totals::new(sums.chain(counts))
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
        Self { over: Means { positions, labels }, steps, sums: sums.into_iter().collect() }
    }

    /// Moves what was restored to the device of the run.
    pub(super) fn move_to(&mut self, device: tch::Device) {
        self.sums.values_mut().for_each(|sum| *sum = sum.to_device(device));
    }
}
