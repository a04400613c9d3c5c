//! The weighted sum that is minimised.

use tch::{Device, Kind, Tensor};

use super::cross_entropy::{against, smoothed};
use super::fused::{self, Fused, LabelPart};
use super::kernel::{self, Done, OfLabels};
use super::mixture::Mixture;
use super::terms::Sum;
use super::{LossError, LossTerms, LossValues, Means, TargetSpace, TargetTensors, dense, ranking};
use crate::config::{LossConfig, MixtureAverage, TermWeights};
use crate::libtorch::numbers;
use crate::target::{TailHandling, Temperature};

/// A weighted sum of terms; those whose weight is never positive are not computed, and those whose weight changes are
/// at every step.
///
/// The divergences (`kl`, `reverse_kl`, `jsd`, `dkd`, `dist`) have the factor `T²`, which keeps the gradients' size when
/// `T` changes (Hinton, Vinyals & Dean, 2015).
#[derive(Debug)]
pub struct WeightedLoss {
    config: LossConfig,
    /// The largest weights of a run.
    used: TermWeights,
    now: LossValues,
    /// Knows the targets; `None` where no term needs them.
    target: Option<Mixture>,
    /// Knows them at T = 1, where a term needs that too and `target` is at another.
    at_one: Option<Mixture>,
    /// What targets are decoded with anew where the temperature changes: one for each teacher, or none.
    spaces: Vec<TargetSpace>,
    device: Device,
}

impl WeightedLoss {
    /// Prepares the terms with positive weight, at the temperature and weights that a run begins with.
    ///
    /// `spaces` describe the targets of each cache; without one the terms that need targets are left out.
    ///
    /// # Errors
    /// Those of [`KlDivergence::new`](super::KlDivergence::new) at any temperature of the run; [`LossError::NoMass`]
    /// where a target has classes without mass and a term would be infinite; [`LossError::NoLogits`],
    /// [`LossError::Label`], [`LossError::Teachers`].
    pub fn new(config: &LossConfig, spaces: &[TargetSpace], device: Device) -> Result<Self, LossError> {
        let now = LossValues::first(config);
        let used = config.weights.map(|weight| weight.largest());
        let spaces = if config.weights.of_targets() { spaces } else { &[] };
        let known = |at: f64| Mixture::new(spaces, config, Temperature::new(at)?, device);
        let (mut target, mut at_one) = (None, None);
        if !spaces.is_empty() {
            target = Some(known(now.temperature)?);
            let [_, last] = config.temperature.ends();
            if config.temperature.changes() {
                // What lies between is covered where both ends are.
                drop(known(last)?);
            }
            for space in spaces {
                config.check(space, spaces.len() > 1)?;
            }
            if used.nkd > 0.0 && (config.temperature.changes() || now.temperature != 1.0) {
                at_one = Some(known(1.0).map_err(|error| match error {
                    LossError::Temperature(not) => LossError::Label(not),
                    other => other,
                })?);
            }
        }
        let spaces = if config.temperature.changes() { spaces.to_vec() } else { Vec::new() };
        Ok(Self { config: config.clone(), used, now, target, at_one, spaces, device })
    }

    /// Goes on with the temperature and weights of another step. At another temperature the tail model is decoded
    /// anew, which takes time and memory in proportion to classes × rank.
    ///
    /// # Errors
    /// Those of [`KlDivergence::new`](super::KlDivergence::new), at temperatures other than the config's.
    pub fn set(&mut self, now: &LossValues) -> Result<(), LossError> {
        if !self.spaces.is_empty() && now.temperature != self.now.temperature {
            let temperature = Temperature::new(now.temperature)?;
            self.target = Some(Mixture::new(&self.spaces, &self.config, temperature, self.device)?);
        }
        self.now = *now;
        Ok(())
    }

    /// Whether all samples of a batch must be given at once.
    pub fn of_whole_batch(&self) -> bool {
        self.config.of_whole_batch()
    }

    fn square(&self) -> f64 {
        self.now.temperature.powi(2)
    }

    /// The loss of a batch, or what a part of its positions adds to it: sums over these, divided by the numbers
    /// in `means`, which are the whole batch's.
    ///
    /// Terms whose targets are not given are left out.
    ///
    /// # Shapes
    /// `logits`: `[positions, classes]`, raw; `labels`: `[positions]`, int64, negative where there is none; `targets`:
    /// one for each of the spaces, or none at all.
    pub fn forward(
        &self,
        logits: &Tensor,
        labels: Option<&Tensor>,
        targets: &[TargetTensors],
        means: Means,
    ) -> LossTerms {
        let (used, now) = (&self.used, &self.now.weights);
        let mut sum = Sum::new(means, logits.device());
        let fused = self.fused(&mut sum, logits, labels, targets);
        if let Some(target) = self.target.as_ref().filter(|_| !targets.is_empty()) {
            if used.kl > 0.0 && !fused {
                sum.add("kl", now.kl, target.per_sample(logits, targets) * self.square());
            }
            self.of_head(&mut sum, target, logits, targets);
            if used.ranking > 0.0 {
                let top = self.config.ranking.top;
                let order = target.mean(targets, |_, targets| ranking(logits, targets, top));
                sum.add("ranking", now.ranking, order);
            }
            if self.config.weights.of_every_class() {
                self.of_every_class(&mut sum, target, logits, labels, targets);
            }
        }
        if let (true, Some(labels)) = (used.cross_entropy > 0.0 && !fused, labels) {
            let term = smoothed(logits, labels, self.config.label_smoothing);
            sum.add_labelled("cross_entropy", now.cross_entropy, term);
        }
        sum.finish()
    }

    /// `kl` and `cross_entropy` with a gradient made in the same go, where one is asked for. `false` where they are left
    /// to libtorch.
    fn fused(
        &self,
        sum: &mut Sum,
        logits: &Tensor,
        labels: Option<&Tensor>,
        targets: &[TargetTensors],
    ) -> bool {
        let (used, now) = (&self.used, &self.now.weights);
        if !logits.requires_grad() {
            return false;
        }
        if logits.device() != Device::Cpu {
            return self.by_kernel(sum, logits, labels, targets) || self.closed(sum, logits, labels, targets);
        }
        let mut kl = Vec::new();
        if let Some(target) = self.compared(targets) {
            let Some(parts) = target.parts(targets, now.kl * self.square() / sum.positions) else {
                return false;
            };
            kl = parts;
        }
        let labels = labels.filter(|_| used.cross_entropy > 0.0).map(|labels| LabelPart {
            labels: numbers(labels, Kind::Int64),
            smoothing: self.config.label_smoothing,
            factor: now.cross_entropy / sum.labels,
        });
        self.of_parts(sum, logits, &kl, labels.as_ref(), |kl, labels| {
            let Fused { gradient, kl: of_kl, cross_entropy } = fused::rows(logits, kl, labels);
            let (of_kl, of_labels) = (kl.map(|_| of_kl.into()), labels.map(|_| cross_entropy.into()));
            Some(Done { gradient, of_kl, of_labels })
        })
    }

    /// The same by the kernel of our own; `false` where there is none for it.
    fn by_kernel(
        &self,
        sum: &mut Sum,
        logits: &Tensor,
        labels: Option<&Tensor>,
        targets: &[TargetTensors],
    ) -> bool {
        let (used, now) = (&self.used, &self.now.weights);
        let mut kl = Vec::new();
        if let Some(target) = self.compared(targets) {
            let Some(parts) = target.of_targets(targets, now.kl * self.square() / sum.positions) else {
                return false;
            };
            kl = parts;
        }
        let labels = labels.filter(|_| used.cross_entropy > 0.0).map(|labels| OfLabels {
            labels,
            smoothing: self.config.label_smoothing,
            factor: now.cross_entropy / sum.labels,
        });
        self.of_parts(sum, logits, &kl, labels.as_ref(), |kl, labels| kernel::rows(logits, kl, labels))
    }

    /// What knows the targets, where `kl` is asked for and they are given.
    fn compared(&self, targets: &[TargetTensors]) -> Option<&Mixture> {
        self.target.as_ref().filter(|_| self.used.kl > 0.0 && !targets.is_empty())
    }

    /// Adds what `rows` makes of each teacher's part, with its weight, and of the labels', which go with the first; `false`
    /// where it makes nothing.
    fn of_parts<Kl, Labels>(
        &self,
        sum: &mut Sum,
        logits: &Tensor,
        kl: &[(f64, Kl)],
        labels: Option<&Labels>,
        rows: impl Fn(Option<&Kl>, Option<&Labels>) -> Option<Done>,
    ) -> bool {
        if kl.is_empty() && labels.is_none() {
            return true;
        }
        let Some(Done { mut gradient, of_kl, of_labels }) = rows(kl.first().map(|(_, part)| part), labels)
        else {
            return false;
        };
        let mut of_kl = of_kl.map(|of_kl| of_kl * kl[0].0);
        for (weight, part) in kl.iter().skip(1) {
            let Some(more) = rows(Some(part), None) else { return false };
            gradient += more.gradient;
            of_kl = of_kl.zip(more.of_kl).map(|(sum, more)| sum + more * *weight);
        }
        if let Some(of_kl) = of_kl {
            sum.add("kl", self.now.weights.kl, of_kl * self.square());
        }
        if let Some(of_labels) = of_labels {
            sum.add_labelled("cross_entropy", self.now.weights.cross_entropy, of_labels);
        }
        sum.give(logits, gradient);
        true
    }

    /// The same by libtorch's operators, on any device: with `q = softmax(β s)` the gradient of `a KL + b CE` is
    /// `a β (q − p) + b (softmax(s) − y)`, which takes a third of the operators that differentiation does.
    fn closed(
        &self,
        sum: &mut Sum,
        logits: &Tensor,
        labels: Option<&Tensor>,
        targets: &[TargetTensors],
    ) -> bool {
        let (used, now) = (&self.used, &self.now.weights);
        let target = self.compared(targets);
        let labels = labels.filter(|_| used.cross_entropy > 0.0);
        if target.is_none() && labels.is_none() {
            return true;
        }
        if target.is_some_and(|target| !target.has_closed_form()) {
            return false;
        }
        let smoothing = self.config.label_smoothing;
        let closed = tch::no_grad(|| {
            let student = logits.to_kind(Kind::Float);
            let beta = target.map_or(1.0, |target| target.temperature().beta());
            let scaled = if beta == 1.0 { student.shallow_clone() } else { &student * beta };
            let mut log_q = scaled.log_softmax(-1, Kind::Float);
            drop(scaled);
            let mut terms = Vec::new();
            // What each position's cross-entropy counts, `[positions, 1]`, and what goes with it: at T = 1 both have one
            // softmax.
            let of_labels = labels.map(|labels| {
                let own = (beta != 1.0).then(|| student.log_softmax(-1, Kind::Float));
                let term = against(own.as_ref().unwrap_or(&log_q), labels, smoothing);
                terms.push(("cross_entropy", now.cross_entropy, term));
                let factor =
                    labels.ge(0).unsqueeze(-1).to_kind(Kind::Float) * (now.cross_entropy / sum.labels);
                (labels.clamp_min(0).unsqueeze(-1), factor, own)
            });
            let factor = now.kl * self.square() * beta / sum.positions;
            let mut taken = Vec::new();
            if let Some(target) = target {
                let of_positions;
                (of_positions, taken) = target.closed(&log_q, targets)?;
                terms.push(("kl", now.kl, of_positions * self.square()));
            }
            let mut gradient = log_q.exp_();
            match (&of_labels, target) {
                (Some((_, of_label, None)), None) => gradient *= of_label,
                (Some((_, of_label, None)), Some(_)) => gradient *= of_label + factor,
                _ => gradient *= factor,
            }
            taken.iter().for_each(|(weight, p)| p.take_from(&mut gradient, weight * factor));
            if let Some((label, of_label, own)) = of_labels {
                if let Some(mut own) = own {
                    gradient = gradient.addcmul_(&own.exp_(), &of_label);
                }
                if smoothing > 0.0 {
                    gradient -= &of_label * (smoothing / student.size()[1] as f64);
                }
                gradient = gradient.scatter_add_(-1, &label, &(of_label * (smoothing - 1.0)));
            }
            Some((gradient, terms))
        });
        let Some((gradient, terms)) = closed else { return false };
        for (name, weight, term) in terms {
            match name {
                "kl" => sum.add(name, weight, term),
                _ => sum.add_labelled(name, weight, term),
            }
        }
        sum.give(logits, gradient);
        true
    }

    /// The terms of the head's logits, as they are.
    fn of_head(&self, sum: &mut Sum, target: &Mixture, logits: &Tensor, targets: &[TargetTensors]) {
        type OfHead = fn(&Tensor, &Tensor, Option<&Tensor>) -> Tensor;
        let terms: [(&'static str, OfHead); 2] =
            [("logit_mse", dense::logit_mse), ("logit_cosine", dense::logit_cosine)];
        for (name, of) in terms.into_iter().filter(|(name, _)| self.used.of(name) > 0.0) {
            let student = logits.to_kind(Kind::Float);
            let term = target.mean(targets, |_, targets| {
                let student = student.gather(-1, &targets.ids, false);
                of(&targets.values, &student, targets.in_head().as_ref())
            });
            sum.add(name, self.now.weights.of(name), term);
        }
    }

    /// The terms of targets that are written out over all classes.
    fn of_every_class(
        &self,
        sum: &mut Sum,
        target: &Mixture,
        logits: &Tensor,
        labels: Option<&Tensor>,
        targets: &[TargetTensors],
    ) {
        let Some(log_p) = tch::no_grad(|| target.log_target(targets)) else { return };
        let logits = logits.to_kind(Kind::Float);
        let log_q = (&logits * target.temperature().beta()).log_softmax(-1, Kind::Float);
        let LossConfig { jsd_beta, dkd, dist, nkd, .. } = &self.config;
        let (used, now, square) = (&self.used, &self.now.weights, self.square());
        if used.reverse_kl > 0.0 {
            sum.add("reverse_kl", now.reverse_kl, dense::reverse_kl(&log_p, &log_q) * square);
        }
        if used.jsd > 0.0 {
            sum.add("jsd", now.jsd, dense::jsd(&log_p, &log_q, *jsd_beta) * square);
        }
        if used.total_variation > 0.0 {
            sum.add("total_variation", now.total_variation, dense::total_variation(&log_p, &log_q));
        }
        if used.mse > 0.0 {
            sum.add("mse", now.mse, dense::mse(&log_p, &log_q));
        }
        if used.cosine > 0.0 {
            sum.add("cosine", now.cosine, dense::cosine(&log_p, &log_q));
        }
        if used.dist > 0.0 {
            let mut term = dense::dist_inter(&log_p, &log_q) * (square * dist.beta);
            if dist.gamma > 0.0 {
                // The batch's share of each of its samples.
                term += dense::dist_intra(&log_p, &log_q) * (square * dist.gamma);
            }
            sum.add("dist", now.dist, term);
        }
        let Some(labels) = labels else { return };
        if used.dkd > 0.0 {
            let term = dense::dkd(&log_p, &log_q, labels, dkd.alpha, dkd.beta);
            sum.add_labelled("dkd", now.dkd, term * square);
        }
        if used.nkd > 0.0 {
            let one = self.at_one.as_ref().map(|target| {
                let log_p = tch::no_grad(|| target.log_target(targets));
                log_p.map(|log_p| (log_p, logits.log_softmax(-1, Kind::Float)))
            });
            let at_t = (&log_p, &log_q);
            let at_one = one.as_ref().map_or(Some(at_t), |one| one.as_ref().map(|(p, q)| (p, q)));
            let Some(at_one) = at_one else { return };
            sum.add_labelled("nkd", now.nkd, dense::nkd(at_one, at_t, labels, square * nkd.gamma));
        }
    }
}

impl LossConfig {
    /// Refuses what would be infinite, or has nothing to be compared with, of targets of `space`, alone or among
    /// `several`.
    fn check(&self, space: &TargetSpace, several: bool) -> Result<(), LossError> {
        let Self { weights, tail, mixture, .. } = self;
        let whole = space.k == space.classes && space.draws.is_none();
        if !weights.of_targets() || whole {
            return Ok(());
        }
        // A bucket names no classes, and what is renormalised or sampled leaves classes without mass.
        let bucket = *tail == TailHandling::Bucket && space.has_tail();
        let bare = !space.has_tail() || *tail == TailHandling::Renormalize;
        let no_mass = |what| Err(LossError::NoMass { what, tail: *tail });
        if bucket && weights.of_every_class() {
            return no_mass("loss.weights: any term but kl, logit_mse, logit_cosine and ranking");
        }
        if several && mixture.average == MixtureAverage::Logits && (bucket || bare) {
            return no_mass("loss.mixture.average = \"logits\"");
        }
        let of_logits = [("logit_mse", &weights.logit_mse), ("logit_cosine", &weights.logit_cosine)];
        let compared = of_logits.into_iter().find(|(_, weight)| weight.largest() > 0.0);
        if let (Some(_), Some((term, _))) = (space.draws, compared) {
            return Err(LossError::NoLogits { term });
        }
        if bare && weights.reverse_kl.largest() > 0.0 {
            return no_mass("loss.weights.reverse_kl");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
