//! Kullback–Leibler divergence from cached targets to the student, at any temperature.

mod closed;

use tch::{Device, Kind, Tensor};

pub(super) use closed::Probabilities;

use super::fused::{KlPart, Spread, Targets};
use super::kernel::{self, OfTargets};
use super::targets::{DecodedBatch, Decoder, float_tensor, log_weights};
use super::{LossError, TargetSpace, TargetTensors};
use crate::libtorch::numbers;
use crate::target::{TailHandling, Temperature};

/// Up to so many classes a tail spread by the prior is written out densely, which is exact to the last
/// bit that floats have; beyond, it enters through one matrix-vector product and no dense target
/// exists.
const DENSE_CLASSES: usize = 4096;
/// Values of a dense target that are worked on at once: what is computed on the way to the divergence
/// of a sample is gone before the next ones are begun.
const CHUNK_VALUES: i64 = 1 << 23;

/// `KL(p ‖ softmax(s / T))` with `p` the cached target at `T`.
///
/// With the tail spread by a prior `u ∝ exp(b_β)`, or by a shape `u ∝ exp(b_β + β D c)` with the code
/// `c` of each position, the target is a distribution over all classes, so that the divergence is
/// never negative, and 0 exactly where the student equals the target.
/// [`TailHandling::Bucket`] compares `k + 1` outcomes, the student's last one being all its mass
/// off the head. [`TailHandling::Renormalize`] compares the renormalised head with the student's
/// full softmax.
///
/// Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015 (the
/// temperature and its factor `T²`, see [`super::WeightedLoss`]).
#[derive(Debug)]
pub struct KlDivergence {
    temperature: Temperature,
    decoder: Decoder,
    tail: Tail,
    /// The same for the CPU's own path; `None` on other devices.
    spread: Option<Spread>,
    classes: i64,
    chunk_values: i64,
}

/// How the student's mass off the head is compared.
#[derive(Debug)]
enum Tail {
    /// Not at all: everything is in the head, or the handling drops the rest.
    None,
    /// By the prior or the shape, written out.
    Dense {
        /// Log-weights, of code 0 in a shape: `[classes]`.
        log_w: Tensor,
        /// β times a shape's basis: `[rank, classes]`.
        basis: Option<Tensor>,
    },
    /// By the prior, as `w · s` and a correction on the head.
    Product {
        /// The prior's probabilities: `[classes]`, float.
        w: Tensor,
        /// The same as the first of [`columns`], `[classes, columns]`.
        in_columns: Tensor,
        /// Their logarithms: `[classes]`, double.
        log_w: Tensor,
        /// The same in single precision.
        log_w_single: Tensor,
        /// `Σ_j w_j log w_j`.
        negative_entropy: f64,
    },
    /// As one outcome.
    Bucket,
}

impl KlDivergence {
    /// Prepares the divergence for targets of `space`.
    ///
    /// # Errors
    /// [`LossError::Temperature`] when the tail's mass at `temperature` is not known or targets were sampled at
    /// another,
    /// [`LossError::NoTailModel`].
    pub fn new(
        space: &TargetSpace,
        temperature: Temperature,
        tail: TailHandling,
        device: Device,
    ) -> Result<Self, LossError> {
        let dense = space.classes <= DENSE_CLASSES;
        Self::with_form(space, temperature, tail, device, dense)
    }

    fn with_form(
        space: &TargetSpace,
        temperature: Temperature,
        tail: TailHandling,
        device: Device,
        dense: bool,
    ) -> Result<Self, LossError> {
        if let Some(draws) = space.draws {
            draws.require(temperature)?;
        }
        if space.has_tail() && tail.reads_curve() {
            space.nodes.require(temperature)?;
        }
        let (form, spread) = match tail {
            _ if !space.has_tail() => (Tail::None, Spread::Nowhere),
            TailHandling::Renormalize => (Tail::None, Spread::Nowhere),
            TailHandling::Bucket => (Tail::Bucket, Spread::Bucket),
            TailHandling::Shape | TailHandling::Prior if space.tail_model.is_none() => {
                return Err(LossError::NoTailModel { tail });
            }
            TailHandling::Shape | TailHandling::Prior | TailHandling::Uniform => {
                let model = space.tail_model.as_ref().filter(|_| tail != TailHandling::Uniform);
                let shape = model.and_then(|model| model.shape()).filter(|_| tail == TailHandling::Shape);
                let prior = shape.map(|shape| shape.base()).or(model.map(|model| model.prior()));
                let log_w = log_weights(prior, space.classes, temperature);
                let basis = shape.map(|shape| {
                    let size = [space.classes as i64, shape.rank() as i64];
                    let basis = Tensor::from_slice(shape.basis()).view(size).to_device(device);
                    (basis * temperature.beta()).tr().contiguous()
                });
                let w: Vec<f64> = log_w.iter().map(|b| b.exp()).collect();
                let negative_entropy = w.iter().zip(&log_w).map(|(w, b)| w * b).sum();
                let spread = match &basis {
                    // Read back from no other device, which would be waited for.
                    _ if device != Device::Cpu => Spread::Nowhere,
                    Some(basis) => Spread::shape(&log_w, &numbers(basis, Kind::Float)),
                    None => Spread::prior(&w, log_w.clone(), negative_entropy),
                };
                let form = if dense || basis.is_some() {
                    Tail::Dense { log_w: float_tensor(&log_w, device), basis }
                } else {
                    let log_w_single = float_tensor(&log_w, device);
                    let log_w = Tensor::from_slice(&log_w).to_device(device);
                    let w = float_tensor(&w, device);
                    let in_columns = w.unsqueeze(-1).constant_pad_nd([0, columns(device) - 1]);
                    Tail::Product { negative_entropy, w, in_columns, log_w, log_w_single }
                };
                (form, spread)
            }
        };
        let decoder = Decoder::new(space, temperature, tail, device);
        let classes = space.classes as i64;
        let spread = (device == Device::Cpu).then_some(spread);
        Ok(Self { temperature, decoder, tail: form, spread, classes, chunk_values: CHUNK_VALUES })
    }

    /// What the CPU's own path takes of `targets`; `None` on other devices. Gradients are multiplied by `factor`.
    pub(super) fn part(&self, targets: &TargetTensors, factor: f64) -> Option<KlPart<'_>> {
        let spread = self.spread.as_ref()?;
        let targets = tch::no_grad(|| Targets::new(targets, &self.decoder.decode(targets)));
        Some(KlPart { beta: self.temperature.beta(), spread, targets, factor })
    }

    /// What a GPU's kernel takes of `targets`. Gradients are multiplied by `factor`.
    pub(super) fn of_targets<'a>(&'a self, targets: &'a TargetTensors, factor: f64) -> OfTargets<'a> {
        let spread = match (&self.tail, self.decoder.tail()) {
            (Tail::None, _) | (_, None) => kernel::Spread::Nowhere,
            (Tail::Bucket, Some(tail)) => kernel::Spread::Bucket(tail),
            (Tail::Dense { log_w, basis }, Some(tail)) => {
                kernel::Spread::Weights(tail, log_w, basis.as_ref())
            }
            (Tail::Product { log_w_single, .. }, Some(tail)) => {
                kernel::Spread::Weights(tail, log_w_single, None)
            }
        };
        OfTargets { beta: self.temperature.beta(), targets, spread, factor }
    }

    /// The temperature of target and student.
    pub fn temperature(&self) -> Temperature {
        self.temperature
    }

    /// The divergence of each sample, in nats, without the factor `T²`.
    ///
    /// # Shapes
    /// `logits`: `[batch, classes]`, raw (no temperature applied). The result is `[batch]`.
    pub fn per_sample(&self, logits: &Tensor, targets: &TargetTensors) -> Tensor {
        let target = tch::no_grad(|| self.decoder.decode(targets));
        let scaled = logits.to_kind(Kind::Float) * self.temperature.beta();
        match (&self.tail, &target.log_tail) {
            (Tail::Dense { log_w, basis }, Some(log_tail)) => {
                let rows = (self.chunk_values / scaled.size()[1].max(1)).max(1);
                in_chunks(rows, &scaled, targets, &target, log_tail, log_w, basis.as_ref())
            }
            (Tail::Product { in_columns, log_w, negative_entropy, .. }, Some(log_tail)) => {
                product(&scaled, targets, &target, log_tail, in_columns, log_w, *negative_entropy)
            }
            (Tail::Bucket, Some(log_tail)) => bucket(&scaled, targets, &target, log_tail),
            _ => {
                let log_q = scaled.log_softmax(-1, Kind::Float).gather(-1, &targets.ids, false);
                divergence(&target.log_head, &log_q)
            }
        }
    }
}

impl KlDivergence {
    /// Whether a target says what every class's probability is: not that of a bucket.
    pub fn is_of_every_class(&self) -> bool {
        !matches!(self.tail, Tail::Bucket)
    }

    /// `Σ_j min(p_j, q_j)` of each position, `q` being `softmax(logits / T)`: how often a draw from the student is
    /// accepted in speculative decoding by a teacher that says what the target says (Leviathan, Kalman &
    /// Matias, 2023, equation 2), and 1 − the total variation. `None` for a bucket, which is of no class.
    ///
    /// # Shapes
    /// As in [`Self::per_sample`].
    pub fn overlap(&self, logits: &Tensor, targets: &TargetTensors) -> Option<Tensor> {
        let log_p = self.log_target(targets)?;
        let log_q = (logits.to_kind(Kind::Float) * self.temperature.beta()).log_softmax(-1, Kind::Float);
        Some(log_p.minimum(&log_q).exp().sum_dim_intlist(-1, false, Kind::Float))
    }

    /// Every class's log-probability in the target, −∞ where it has none; `None` for a bucket.
    ///
    /// # Shapes
    /// The result is `[positions, classes]`, float.
    pub fn log_target(&self, targets: &TargetTensors) -> Option<Tensor> {
        let target = self.decoder.decode(targets);
        let size = [targets.ids.size()[0], self.classes];
        match (&self.tail, &target.log_tail) {
            (Tail::Bucket, Some(_)) => None,
            (Tail::Dense { log_w, basis }, Some(tail)) => {
                Some(log_target(&size, targets, &target.log_head, tail, log_w, basis.as_ref()))
            }
            (Tail::Product { log_w, .. }, Some(tail)) => {
                let log_w = log_w.to_kind(Kind::Float);
                Some(log_target(&size, targets, &target.log_head, tail, &log_w, None))
            }
            _ => {
                let none = Tensor::full(size, f64::NEG_INFINITY, (Kind::Float, targets.ids.device()));
                Some(none.scatter(-1, &targets.ids, &filled(targets, &target.log_head)))
            }
        }
    }
}

/// `Σ p (log p − log q)` over the last dimension.
pub(super) fn divergence(log_p: &Tensor, log_q: &Tensor) -> Tensor {
    (log_p.exp() * (log_p - log_q)).sum_dim_intlist(-1, false, Kind::Float)
}

/// [`dense`], `chunk` samples at a time.
fn in_chunks(
    chunk: i64,
    scaled: &Tensor,
    targets: &TargetTensors,
    target: &DecodedBatch,
    log_tail: &Tensor,
    log_w: &Tensor,
    basis: Option<&Tensor>,
) -> Tensor {
    let rows = scaled.size()[0];
    if rows <= chunk {
        return dense(scaled, targets, &target.log_head, log_tail, log_w, basis);
    }
    let parts: Vec<Tensor> = (0..rows)
        .step_by(chunk as usize)
        .map(|start| {
            let len = chunk.min(rows - start);
            let part = |tensor: &Tensor| tensor.narrow(0, start, len);
            let (scaled, log_head, log_tail) = (part(scaled), part(&target.log_head), part(log_tail));
            dense(&scaled, &targets.rows(start, len), &log_head, &log_tail, log_w, basis)
        })
        .collect();
    Tensor::cat(&parts, 0)
}

/// The target written out over all classes.
fn dense(
    scaled: &Tensor,
    targets: &TargetTensors,
    log_head: &Tensor,
    log_tail: &Tensor,
    log_w: &Tensor,
    basis: Option<&Tensor>,
) -> Tensor {
    let log_p = log_target(&scaled.size(), targets, log_head, log_tail, log_w, basis);
    divergence(&log_p, &scaled.log_softmax(-1, Kind::Float))
}

/// Columns of a matrix that stands for one vector. Products of many rows and a vector as long as these are slow on a GPU, and
/// those with eight columns as quick as reading the rows.
fn columns(device: Device) -> i64 {
    if device == Device::Cpu { 1 } else { 8 }
}

/// The target's log-probabilities of all classes, of shape `size`.
fn log_target(
    size: &[i64],
    targets: &TargetTensors,
    log_head: &Tensor,
    log_tail: &Tensor,
    log_w: &Tensor,
    basis: Option<&Tensor>,
) -> Tensor {
    tch::no_grad(|| {
        let off_head = match basis {
            Some(basis) => {
                log_w.addmm(&targets.codes, basis).scatter_value_(-1, &targets.ids, f64::NEG_INFINITY)
            }
            None => log_w.expand(size, false).scatter_value(-1, &targets.ids, f64::NEG_INFINITY),
        };
        let mut shape = off_head.log_softmax(-1, Kind::Float);
        shape += log_tail.unsqueeze(-1);
        shape.scatter_(-1, &targets.ids, &filled(targets, log_head))
    })
}

/// What is written to the places of the head's classes: what fills a head up has its first id, and must have its
/// value too.
fn filled(targets: &TargetTensors, log_head: &Tensor) -> Tensor {
    match targets.in_head() {
        None => log_head.shallow_clone(),
        Some(in_head) => {
            let first = log_head.narrow(-1, 0, 1).expand_as(log_head);
            log_head.where_self(&in_head.to_kind(Kind::Bool), &first)
        }
    }
}

/// The same without a dense target. With `u_j = w_j / (1 − W)`, `W = Σ_H w`, off the head:
/// `Σ_j u_j log softmax(s)_j = (w · s − Σ_H w s) / (1 − W) − logsumexp(s)`, and likewise for
/// the prior's own entropy. Sums over the head are taken in `f64`, because `1 − W` may be small.
fn product(
    scaled: &Tensor,
    targets: &TargetTensors,
    target: &DecodedBatch,
    log_tail: &Tensor,
    in_columns: &Tensor,
    log_w: &Tensor,
    negative_entropy: f64,
) -> Tensor {
    let log_sum = scaled.logsumexp([-1], true);
    let on_head = scaled.gather(-1, &targets.ids, false);
    let head = divergence(&target.log_head, &(&on_head - &log_sum));
    let (head_w, kept, entropy) = tch::no_grad(|| {
        let log_w = log_w.index_select(0, &targets.ids.reshape([-1])).view_as(&targets.ids);
        let head_w = match targets.in_head() {
            None => log_w.exp(),
            Some(in_head) => log_w.exp() * in_head,
        };
        let kept: Tensor = 1.0 - head_w.sum_dim_intlist(-1, false, Kind::Double);
        let kept = kept.clamp_min(f64::MIN_POSITIVE);
        let on_head = (&head_w * log_w).sum_dim_intlist(-1, false, Kind::Double);
        let entropy = (negative_entropy - on_head) / &kept - kept.log();
        (head_w, kept, entropy)
    });
    let mean = scaled.matmul(in_columns).select(-1, 0).to_kind(Kind::Double)
        - (head_w * on_head.to_kind(Kind::Double)).sum_dim_intlist(-1, false, Kind::Double);
    let log_q = mean / kept - log_sum.squeeze_dim(-1).to_kind(Kind::Double);
    let log_tail = log_tail.to_kind(Kind::Double);
    let tail = log_tail.exp() * (log_tail + entropy - log_q);
    head + tail.to_kind(Kind::Float)
}

/// The head's classes, and everything else as one outcome.
fn bucket(scaled: &Tensor, targets: &TargetTensors, target: &DecodedBatch, log_tail: &Tensor) -> Tensor {
    let log_q = scaled.log_softmax(-1, Kind::Float);
    let head = divergence(&target.log_head, &log_q.gather(-1, &targets.ids, false));
    let rest = log_q.scatter_value(-1, &targets.ids, f64::NEG_INFINITY).logsumexp([-1], false);
    head + log_tail.exp() * (log_tail - rest)
}

#[cfg(test)]
pub(super) mod tests;
