//! Cached targets as tensors, and what they say at a temperature.

use tch::{Device, Kind, Tensor};

use super::kernel::Tail;
use crate::libtorch::upload;
use crate::target::{Draws, TailHandling, TailModel, TailNodes, TailPrior, TargetBatch, Temperature};

/// What all targets of a cache have in common.
#[derive(Clone, Debug)]
pub struct TargetSpace {
    /// Number of classes `V`.
    pub classes: usize,
    /// Head size.
    pub k: usize,
    /// How targets were sampled: the head is then all there is of them, at one temperature. `None` where they
    /// were not.
    pub draws: Option<Draws>,
    /// Nodes of the tail curves.
    pub nodes: TailNodes,
    /// Where the tail's mass lies; `None` when the head holds every class.
    pub tail_model: Option<TailModel>,
}

impl TargetSpace {
    /// Whether anything is known of classes outside the head.
    pub fn has_tail(&self) -> bool {
        self.k < self.classes && self.draws.is_none()
    }
}

/// The targets of a batch on a device.
#[derive(Debug)]
pub struct TargetTensors {
    /// Class ids of the heads: `[batch, k]`, int64.
    pub ids: Tensor,
    /// Logits relative to the largest: `[batch, k]`, float.
    pub values: Tensor,
    /// Tail curves in nats: `[batch, nodes]`, float; `[batch, 0]` when there is no tail.
    pub curve: Tensor,
    /// Tail codes: `[batch, rank]`, float; `[batch, 0]` in a cache of rank 0.
    pub codes: Tensor,
    /// Classes in each head: `[batch]`, float; `None` where all have k. What a head has less is filled as
    /// [`TargetBatch`] says.
    pub counts: Option<Tensor>,
}

impl TargetTensors {
    /// Moves `targets` to `device`.
    pub fn new(targets: &TargetBatch, device: Device) -> Self {
        let shape = |width: usize| [targets.rows as i64, width as i64];
        let there = |tensor: Tensor, width| upload(tensor.view(shape(width)), device);
        let ids: Vec<i64> = targets.ids.iter().map(|id| i64::from(*id)).collect();
        Self {
            ids: there(Tensor::from_slice(&ids), targets.k),
            values: there(Tensor::from_slice(&targets.values), targets.k),
            curve: there(Tensor::from_slice(&targets.curve), targets.nodes),
            // A byte each until they are on the device.
            codes: there(Tensor::from_slice(&targets.codes), targets.rank).to_kind(Kind::Float),
            counts: (!targets.counts.is_empty()).then(|| {
                let counts: Vec<f32> = targets.counts.iter().map(|count| f32::from(*count)).collect();
                upload(Tensor::from_slice(&counts), device)
            }),
        }
    }

    /// The samples `start..start + len`.
    pub fn rows(&self, start: i64, len: i64) -> Self {
        let rows = |tensor: &Tensor| tensor.narrow(0, start, len);
        Self {
            ids: rows(&self.ids),
            values: rows(&self.values),
            curve: rows(&self.curve),
            codes: rows(&self.codes),
            counts: self.counts.as_ref().map(rows),
        }
    }

    /// 1 for what is in a head, 0 for what fills it up: `[batch, k]`, double; `None` where nothing does.
    pub(super) fn in_head(&self) -> Option<Tensor> {
        let counts = self.counts.as_ref()?.unsqueeze(-1);
        let ranks = Tensor::arange(self.ids.size()[1], (Kind::Float, self.ids.device()));
        Some(ranks.unsqueeze(0).lt_tensor(&counts).to_kind(Kind::Double))
    }
}

/// Decodes heads and tail masses at one temperature as one tail handling sees them.
#[derive(Debug)]
pub(super) struct Decoder {
    beta: f64,
    classes: usize,
    tail: Option<TailCurve>,
}

/// `log_tail = at_zero · log(V − k) + curve · weights`; absent where the handling knows no tail.
#[derive(Debug)]
struct TailCurve {
    at_zero: f64,
    weights: Tensor,
}

/// A batch of targets at one temperature.
#[derive(Debug)]
pub(super) struct DecodedBatch {
    /// Log-probabilities of the head's classes: `[batch, k]`.
    pub(super) log_head: Tensor,
    /// Log of the mass of everything else: `[batch]`; `None` where there is nothing else.
    pub(super) log_tail: Option<Tensor>,
}

impl Decoder {
    /// A decoder of batches on `device`.
    pub(super) fn new(
        space: &TargetSpace,
        temperature: Temperature,
        tail: TailHandling,
        device: Device,
    ) -> Self {
        let beta = temperature.beta();
        let weights = space.has_tail().then(|| tail.curve_weights(&space.nodes, temperature)).flatten();
        let tail = weights
            .map(|weights| TailCurve { at_zero: weights[0], weights: float_tensor(&weights[1..], device) });
        Self { beta, classes: space.classes, tail }
    }

    /// How the tail's mass is read from curves; `None` where nothing is read of it.
    pub(super) fn tail(&self) -> Option<Tail<'_>> {
        self.tail.as_ref().map(|TailCurve { at_zero, weights }| Tail { at_zero: *at_zero, at_nodes: weights })
    }

    /// The head's classes and the tail's mass, as logarithms.
    pub(super) fn decode(&self, targets: &TargetTensors) -> DecodedBatch {
        let head = &targets.values * self.beta;
        let Some(TailCurve { at_zero, weights }) = &self.tail else {
            return DecodedBatch { log_head: head.log_softmax(-1, Kind::Float), log_tail: None };
        };
        let tail = targets.curve.matmul(weights).unsqueeze(-1);
        let tail = match &targets.counts {
            None => tail + at_zero * ((self.classes as i64 - targets.ids.size()[1]) as f64).ln(),
            Some(counts) => tail + (self.classes as f64 - counts).log().unsqueeze(-1) * *at_zero,
        };
        // The tail as one more class.
        let k = head.size()[1];
        let all = Tensor::cat(&[head, tail], -1).log_softmax(-1, Kind::Float);
        DecodedBatch { log_head: all.narrow(-1, 0, k), log_tail: Some(all.select(-1, k)) }
    }
}

/// The prior's log-probabilities over all classes at a temperature, uniform without a prior:
/// `[classes]`, normalised in `f64`.
pub(super) fn log_weights(prior: Option<&TailPrior>, classes: usize, temperature: Temperature) -> Vec<f64> {
    let mut b = prior.map_or_else(|| vec![0.0; classes], |prior| prior.at(temperature));
    let largest = b.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = largest + b.iter().map(|b| (b - largest).exp()).sum::<f64>().ln();
    for b in &mut b {
        *b -= log_sum;
    }
    b
}

/// `[n]` as a float tensor on `device`.
pub(super) fn float_tensor(values: &[f64], device: Device) -> Tensor {
    Tensor::from_slice(values).to_kind(Kind::Float).to_device(device)
}
