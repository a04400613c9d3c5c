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

    /// The loss of a batch, a mean over its samples.
    ///
    /// Terms whose targets are not given are left out.
    ///
    /// # Shapes
    /// `logits`: `[batch, classes]`, raw; `labels`: `[batch]`, int64.
    pub fn forward(
        &self,
        logits: &Tensor,
        labels: Option<&Tensor>,
        targets: Option<&TargetTensors>,
    ) -> LossTerms {
        let mut total = Tensor::zeros([], (Kind::Float, logits.device()));
        let mut terms = (None, None);
        if let (Some((weight, kl)), Some(targets)) = (&self.kl, targets) {
            let square = kl.temperature().get().powi(2);
            let mean = kl.per_sample(logits, targets).mean(Kind::Float) * square;
            total += &mean * *weight;
            terms.0 = Some(mean.detach());
        }
        if let (Some(weight), Some(labels)) = (self.cross_entropy, labels) {
            let mean = cross_entropy(logits, labels).mean(Kind::Float);
            total += &mean * weight;
            terms.1 = Some(mean.detach());
        }
        LossTerms { total, kl: terms.0, cross_entropy: terms.1 }
    }
}
