//! Losses that the student computes itself, as terms among the others.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::config::ReturnedLossConfig;

/// Terms that are a student's own.
///
/// Of a batch with `n` of the `N` positions that a step's means are over, a term is `(n / N) ℓ`, with `ℓ` what the
/// student returned, a mean over the batch: batches of one step together give the mean over all of them.
#[derive(Clone, Debug, Default)]
pub struct ReturnedLoss {
    configs: Vec<ReturnedLossConfig>,
}

impl ReturnedLoss {
    /// The terms of `configs`.
    pub fn new(configs: &[ReturnedLossConfig]) -> Self {
        Self { configs: configs.to_vec() }
    }

    /// The place of each in what the student returns.
    pub fn outputs(&self) -> Vec<usize> {
        self.configs.iter().map(|config| config.output).collect()
    }

    /// The weighted sum of all terms, a scalar, and each term by its name, `returned_NAME`, unweighted and detached.
    ///
    /// # Shapes
    /// `losses`: a scalar for each term. `share` is `n / N`.
    pub fn forward(
        &self,
        losses: &[Tensor],
        share: f64,
        device: Device,
    ) -> (Tensor, BTreeMap<String, Tensor>) {
        let mut total = Tensor::zeros([], (Kind::Float, device));
        let mut terms = BTreeMap::new();
        for (config, loss) in self.configs.iter().zip(losses) {
            let term = loss.to_kind(Kind::Float) * share;
            total += &term * config.weight;
            terms.insert(format!("returned_{}", config.name), term.detach());
        }
        (total, terms)
    }
}
