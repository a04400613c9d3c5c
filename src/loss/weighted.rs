//! The weighted sum that is minimised.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::cross_entropy::smoothed;
use super::fused::{self, LabelPart};
use super::{KlDivergence, LossError, TargetSpace, TargetTensors, dense};
use crate::config::{LossConfig, LossWeights};
use crate::target::{TailHandling, Temperature};

/// A weighted sum of terms; those of weight 0 are not computed.
///
/// The divergences (`kl`, `reverse_kl`, `jsd`, `dkd`) have the factor `T²`, which keeps the gradients' size when `T`
/// changes (Hinton, Vinyals & Dean, 2015).
#[derive(Debug)]
pub struct WeightedLoss {
    config: LossConfig,
    /// Knows the targets; `None` where no term needs them.
    target: Option<KlDivergence>,
    square: f64,
}

/// Over how many a batch's means are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Every term by the name of its weight, unweighted, detached.
    pub terms: BTreeMap<&'static str, Tensor>,
}

impl LossTerms {
    /// Adds those of another part of the same batch to `sum`, detached; the first part begins it.
    pub fn add_to(self, sum: &mut Option<Self>) {
        let Some(sum) = sum else {
            *sum = Some(self);
            return;
        };
        sum.total = sum.total.detach() + self.total.detach();
        for (name, term) in &mut sum.terms {
            if let Some(part) = self.terms.get(name) {
                *term += part;
            }
        }
    }
}

impl WeightedLoss {
    /// Prepares the terms with positive weight.
    ///
    /// `space` describes the cache's targets; without it the terms that need targets are left out.
    ///
    /// # Errors
    /// Those of [`KlDivergence::new`]; [`LossError::NoMass`] where a target has classes without mass and a term
    /// would be infinite.
    pub fn new(
        config: &LossConfig,
        temperature: Temperature,
        space: Option<&TargetSpace>,
        device: Device,
    ) -> Result<Self, LossError> {
        let target = space
            .filter(|_| config.weights.of_targets())
            .map(|space| KlDivergence::new(space, temperature, config.tail, device))
            .transpose()?;
        if let Some(space) = space {
            config.weights.check(config.tail, space)?;
        }
        Ok(Self { config: config.clone(), target, square: temperature.get().powi(2) })
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
        let weights = &self.config.weights;
        let mut sum = Sum {
            total: Tensor::zeros([], (Kind::Float, logits.device())),
            terms: BTreeMap::new(),
            positions: means.positions.max(1) as f64,
            labels: means.labels.max(1) as f64,
        };
        let fused = self.fused(&mut sum, logits, labels, targets);
        if let (Some(target), Some(targets)) = (&self.target, targets) {
            if weights.kl > 0.0 && !fused {
                sum.add("kl", weights.kl, target.per_sample(logits, targets) * self.square);
            }
            if weights.logit_mse > 0.0 {
                let student = logits.to_kind(Kind::Float).gather(-1, &targets.ids, false);
                let in_head = targets.in_head();
                let off = dense::logit_mse(&targets.values, &student, in_head.as_ref());
                sum.add("logit_mse", weights.logit_mse, off);
            }
            if weights.of_every_class() {
                self.of_every_class(&mut sum, target, logits, labels, targets);
            }
        }
        if let (true, Some(labels)) = (weights.cross_entropy > 0.0 && !fused, labels) {
            let term = smoothed(logits, labels, self.config.label_smoothing);
            sum.add_labelled("cross_entropy", weights.cross_entropy, term);
        }
        LossTerms { total: sum.total, terms: sum.terms }
    }

    /// `kl` and `cross_entropy` with a gradient made in the same go: on the CPU, where one is asked for. `false`
    /// where they are left to libtorch.
    fn fused(
        &self,
        sum: &mut Sum,
        logits: &Tensor,
        labels: Option<&Tensor>,
        targets: Option<&TargetTensors>,
    ) -> bool {
        let LossConfig { weights, label_smoothing, .. } = &self.config;
        if logits.device() != Device::Cpu || !logits.requires_grad() {
            return false;
        }
        let of_targets = self.target.as_ref().zip(targets).filter(|_| weights.kl > 0.0);
        let kl = of_targets
            .and_then(|(target, targets)| target.part(targets, weights.kl * self.square / sum.positions));
        let labels = labels.filter(|_| weights.cross_entropy > 0.0).map(|labels| LabelPart {
            labels: fused::numbers(labels, Kind::Int64),
            smoothing: *label_smoothing,
            factor: weights.cross_entropy / sum.labels,
        });
        if kl.is_none() && labels.is_none() {
            return true;
        }
        let done = fused::rows(logits, kl.as_ref(), labels.as_ref());
        if kl.is_some() {
            sum.add("kl", weights.kl, Tensor::from(done.kl * self.square));
        }
        if labels.is_some() {
            sum.add_labelled("cross_entropy", weights.cross_entropy, Tensor::from(done.cross_entropy));
        }
        // Of no value, and with the gradient that is known.
        let product = logits.to_kind(Kind::Float).reshape([-1]).dot(&done.gradient.reshape([-1]));
        sum.total += &product - product.detach();
        true
    }

    /// The terms of targets that are written out over all classes.
    fn of_every_class(
        &self,
        sum: &mut Sum,
        target: &KlDivergence,
        logits: &Tensor,
        labels: Option<&Tensor>,
        targets: &TargetTensors,
    ) {
        let Some(log_p) = tch::no_grad(|| target.log_target(targets)) else { return };
        let log_q = (logits.to_kind(Kind::Float) * target.temperature().beta()).log_softmax(-1, Kind::Float);
        let LossConfig { weights, jsd_beta, dkd, .. } = &self.config;
        if weights.reverse_kl > 0.0 {
            sum.add("reverse_kl", weights.reverse_kl, dense::reverse_kl(&log_p, &log_q) * self.square);
        }
        if weights.jsd > 0.0 {
            sum.add("jsd", weights.jsd, dense::jsd(&log_p, &log_q, *jsd_beta) * self.square);
        }
        if weights.total_variation > 0.0 {
            let term = dense::total_variation(&log_p, &log_q);
            sum.add("total_variation", weights.total_variation, term);
        }
        if weights.mse > 0.0 {
            sum.add("mse", weights.mse, dense::mse(&log_p, &log_q));
        }
        if weights.cosine > 0.0 {
            sum.add("cosine", weights.cosine, dense::cosine(&log_p, &log_q));
        }
        if let (true, Some(labels)) = (weights.dkd > 0.0, labels) {
            let term = dense::dkd(&log_p, &log_q, labels, dkd.alpha, dkd.beta);
            sum.add_labelled("dkd", weights.dkd, term * self.square);
        }
    }
}

impl LossWeights {
    /// Refuses what would be infinite, or has nothing to be compared with.
    fn check(&self, tail: TailHandling, space: &TargetSpace) -> Result<(), LossError> {
        let whole = space.k == space.classes && space.draws.is_none();
        if !self.of_targets() || whole {
            return Ok(());
        }
        // A bucket names no classes, and what is renormalised or sampled leaves classes without mass.
        let bucket = tail == TailHandling::Bucket && space.has_tail();
        let bare = !space.has_tail() || tail == TailHandling::Renormalize;
        if bucket && self.of_every_class() {
            return Err(LossError::NoMass { what: "terms other than kl and logit_mse", tail });
        }
        if space.draws.is_some() && self.logit_mse > 0.0 {
            return Err(LossError::NoLogits);
        }
        if bare && self.reverse_kl > 0.0 {
            return Err(LossError::NoMass { what: "reverse_kl", tail });
        }
        Ok(())
    }
}

/// A weighted sum on its way.
struct Sum {
    total: Tensor,
    terms: BTreeMap<&'static str, Tensor>,
    positions: f64,
    labels: f64,
}

impl Sum {
    fn add(&mut self, name: &'static str, weight: f64, of_positions: Tensor) {
        self.add_mean(name, weight, of_positions.sum(Kind::Float) / self.positions);
    }

    fn add_labelled(&mut self, name: &'static str, weight: f64, of_positions: Tensor) {
        self.add_mean(name, weight, of_positions.sum(Kind::Float) / self.labels);
    }

    fn add_mean(&mut self, name: &'static str, weight: f64, mean: Tensor) {
        self.total += &mean * weight;
        self.terms.insert(name, mean.detach());
    }
}
