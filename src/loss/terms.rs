//! A batch's loss: the terms that were added up, and the way from it to the gradients.

use std::collections::BTreeMap;

use tch::{Device, Kind, TchError, Tensor};

use crate::libtorch;

/// Over how many a batch's means are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Means {
    /// Positions of the batch.
    pub positions: usize,
    /// Those of them that have a label.
    pub labels: usize,
}

/// A batch's loss and its parts, each a scalar tensor on the device, and what its gradients are made of.
#[derive(Debug)]
pub struct LossTerms {
    /// What is minimised, detached.
    pub value: Tensor,
    /// Every term by the name of its weight, unweighted, detached.
    pub terms: BTreeMap<String, Tensor>,
    /// Where its gradients begin.
    roots: Vec<Root>,
}

/// Where gradients of a loss begin.
#[derive(Debug)]
enum Root {
    /// A scalar that is part of the loss, with a graph behind it.
    Of(Tensor),
    /// What has a graph behind it, and the gradient of a part of the loss by it.
    Given { tensor: Tensor, gradient: Tensor },
}

impl LossTerms {
    /// A loss, a scalar with or without a graph behind it, and its terms.
    pub fn new(total: Tensor, terms: BTreeMap<String, Tensor>) -> Self {
        let value = total.detach();
        Self { value, terms, roots: Vec::from_iter(total.requires_grad().then_some(Root::Of(total))) }
    }

    /// Adds a further part, a scalar, and its terms.
    pub fn add(&mut self, total: Tensor, terms: BTreeMap<String, Tensor>) {
        self.value = &self.value + total.detach();
        self.terms.extend(terms);
        if total.requires_grad() {
            self.roots.push(Root::Of(total));
        }
    }

    /// Has the gradients go on from `tensor` too, by which the loss has a further `gradient` of the same shape.
    pub fn give(&mut self, tensor: Tensor, gradient: Tensor) {
        self.roots.push(Root::Given { tensor, gradient });
    }

    /// Adds those of another part of the same batch to `sum`, without what its gradients are made of; the first part
    /// begins it.
    pub fn add_to(mut self, sum: &mut Option<Self>) {
        self.roots.clear();
        let Some(sum) = sum else {
            *sum = Some(self);
            return;
        };
        sum.value = &sum.value + self.value;
        for (name, term) in &mut sum.terms {
            if let Some(part) = self.terms.get(name) {
                *term += part;
            }
        }
    }

    /// Whether anything of it has a gradient.
    pub fn has_gradient(&self) -> bool {
        !self.roots.is_empty()
    }

    /// Adds the gradients of `scale` times the loss to those of all variables that it was made of, and lets go of what they are
    /// made of. Nothing is done where nothing has a gradient.
    ///
    /// # Errors
    /// What libtorch says, memory above all.
    pub fn backward(&mut self, scale: f64) -> Result<(), TchError> {
        let roots = std::mem::take(&mut self.roots);
        if roots.is_empty() {
            return Ok(());
        }
        libtorch::backward(roots.into_iter().map(|root| match root {
            Root::Of(total) => {
                let whole = total.full_like(scale);
                (total, whole)
            }
            Root::Given { tensor, mut gradient } => {
                if scale != 1.0 {
                    gradient *= scale;
                }
                (tensor, gradient)
            }
        }))
    }
}

/// A weighted sum on its way.
pub(super) struct Sum {
    pub(super) total: Tensor,
    /// Logits, and the gradients by them of what has no graph in the total.
    given: Vec<(Tensor, Tensor)>,
    pub(super) terms: BTreeMap<String, Tensor>,
    pub(super) positions: f64,
    pub(super) labels: f64,
}

impl Sum {
    pub(super) fn new(means: Means, device: Device) -> Self {
        Self {
            total: Tensor::zeros([], (Kind::Float, device)),
            given: Vec::new(),
            terms: BTreeMap::new(),
            positions: means.positions.max(1) as f64,
            labels: means.labels.max(1) as f64,
        }
    }

    pub(super) fn finish(self) -> LossTerms {
        let mut terms = LossTerms::new(self.total, self.terms);
        self.given.into_iter().for_each(|(logits, gradient)| terms.give(logits, gradient));
        terms
    }

    /// Goes backward from `gradient` of `logits` too.
    pub(super) fn give(&mut self, logits: &Tensor, gradient: Tensor) {
        self.given.push((logits.shallow_clone(), gradient));
    }

    pub(super) fn add(&mut self, name: &'static str, weight: f64, of_positions: Tensor) {
        self.add_mean(name, weight, of_positions.sum(Kind::Float) / self.positions);
    }

    pub(super) fn add_labelled(&mut self, name: &'static str, weight: f64, of_positions: Tensor) {
        self.add_mean(name, weight, of_positions.sum(Kind::Float) / self.labels);
    }

    fn add_mean(&mut self, name: &'static str, weight: f64, mean: Tensor) {
        self.total += &mean * weight;
        self.terms.insert(name.to_owned(), mean.detach());
    }
}
