//! Losses that a student computes itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Fault, features};

/// A loss that a TorchScript student returns in training, beside its logits: of the balance between experts, say. It
/// is one number, the mean over the batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReturnedLossConfig {
    /// What it is called in reports, after `returned_`: small letters, digits and `_`.
    pub name: String,
    /// Its place in the tuple that the module returns, from 1 (0 are the logits).
    #[schemars(range(min = 1))]
    pub output: usize,
    /// Weight of the term.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// Faults of the list `loss.returned` of a run's config.
pub(super) fn validate(losses: &[ReturnedLossConfig]) -> Vec<Fault> {
    features::validate_names("loss.returned", losses.iter().map(|loss| loss.name.as_str()))
}
