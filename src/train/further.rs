//! What a step minimises beside the loss of the logits.

use std::collections::BTreeMap;

use tch::Tensor;

use super::upload::DeviceBatch;
use crate::loss::{FeatureLoss, Means, ReturnedLoss};
use crate::student::{Answer, Wanted};

/// Terms on the teacher's features, and those that the student computes itself.
pub(super) struct Further {
    pub(super) features: FeatureLoss,
    returned: ReturnedLoss,
    wanted: Wanted,
}

impl Further {
    pub(super) fn new(features: FeatureLoss, returned: ReturnedLoss) -> Self {
        let wanted = Wanted { layers: features.layers(), losses: returned.outputs() };
        Self { features, returned, wanted }
    }

    /// What is asked of the student for it.
    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The weighted sum of all terms, a scalar, and each term by its name, unweighted and detached.
    pub(super) fn forward(
        &self,
        answer: &Answer,
        batch: &DeviceBatch,
        means: Means,
    ) -> (Tensor, BTreeMap<String, Tensor>) {
        let (of_features, mut terms) =
            self.features.forward(&answer.layers, &batch.features, means.positions);
        let share = answer.features.size()[0] as f64 / means.positions.max(1) as f64;
        let (returned, named) = self.returned.forward(&answer.losses, share, answer.features.device());
        terms.extend(named);
        (of_features + returned, terms)
    }
}
