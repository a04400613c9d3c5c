//! The weighted sum that is minimised.

use tch::{Device, Kind, Tensor};

use super::{KlDivergence, LossError, TargetSpace, TargetTensors, cross_entropy};
use crate::config::LossWeights;
use crate::target::{TailHandling, Temperature};

/// `kl · T² · mean KL + cross_entropy · mean cross-entropy`; terms of weight 0 are not computed.
///
/// The factor `T²` keeps the gradients' size when `T` changes (Hinton, Vinyals & Dean, 2015).
#[derive(Debug)]
pub struct WeightedLoss {
    kl: Option<(f64, KlDivergence)>,
    cross_entropy: Option<f64>,
}

/// Over how many a batch's means are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// Positions of the batch.
    pub positions: usize,
    /// Those of them that have a label.
    pub labels: usize,
}

/// A batch's loss and its parts, each a scalar tensor on the device.
#[derive(Debug)]
pub struct LossTerms {
    /// What is minimised.
    pub total: Tensor,
    /// `T² · mean KL`, unweighted, detached.
    pub kl: Option<Tensor>,
    /// Mean cross-entropy, unweighted, detached.
    pub cross_entropy: Option<Tensor>,
}

impl LossTerms {
    /// Adds those of another part of the same batch, detached.
    pub fn add(&mut self, part: &Self) {
        let sum = |a: &mut Option<Tensor>, b: &Option<Tensor>| {
            if let (Some(a), Some(b)) = (a, b) {
                *a += b;
            }
        };
        self.total = self.total.detach() + part.total.detach();
        sum(&mut self.kl, &part.kl);
        sum(&mut self.cross_entropy, &part.cross_entropy);
    }
}

impl WeightedLoss {
    /// Prepares the terms with positive weight.
    ///
    /// `space` describes the cache's targets; without it the `kl` term is left out.
    ///
    /// # Errors
    /// Those of [`KlDivergence::new`].
    pub fn new(
        weights: &LossWeights,
        temperature: Temperature,
        tail: TailHandling,
        space: Option<&TargetSpace>,
        device: Device,
    ) -> Result<Self, LossError> {
        let kl = space
            .filter(|_| weights.kl > 0.0)
            .map(|space| KlDivergence::new(space, temperature, tail, device).map(|kl| (weights.kl, kl)))
            .transpose()?;
        Ok(Self { kl, cross_entropy: Some(weights.cross_entropy).filter(|weight| *weight > 0.0) })
    }

    /// The loss of a batch, or what a part of its positions adds to it: sums over these, divided by the numbers
    /// in `means`, which are the whole batch's.
    ///
    /// Terms whose targets are not given are left out.
    ///
    /// # Shapes
    /// `logits`: `[positions, classes]`, raw; `labels`: `[positions]`, int64, negative where there is none.
    pub fn forward(
        &self,
        logits: &Tensor,
        labels: Option<&Tensor>,
        targets: Option<&TargetTensors>,
        means: Means,
    ) -> LossTerms {
        let mut total = Tensor::zeros([], (Kind::Float, logits.device()));
        let mut terms = (None, None);
        if let (Some((weight, kl)), Some(targets)) = (&self.kl, targets) {
            let factor = kl.temperature().get().powi(2) / means.positions.max(1) as f64;
            let mean = kl.per_sample(logits, targets).sum(Kind::Float) * factor;
            total += &mean * *weight;
            terms.0 = Some(mean.detach());
        }
        if let (Some(weight), Some(labels)) = (self.cross_entropy, labels) {
            let mean = cross_entropy(logits, labels).sum(Kind::Float) / means.labels.max(1) as f64;
            total += &mean * weight;
            terms.1 = Some(mean.detach());
        }
        LossTerms { total, kl: terms.0, cross_entropy: terms.1 }
    }
}
