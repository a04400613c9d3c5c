//! Losses that a student computes itself.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Fault, MAX_FEATURE_NAME, is_feature_name};

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
    let mut names = BTreeSet::new();
    let mut faults = Vec::new();
    for (at, ReturnedLossConfig { name, .. }) in losses.iter().enumerate() {
        let problem = if !is_feature_name(name) {
            format!("expected 1 to {MAX_FEATURE_NAME} of the letters a to z, digits and _, found {name:?}")
        } else if !names.insert(name) {
            format!("{name:?} is there twice; give each another name")
        } else {
            continue;
        };
        faults.push(Fault::new(format!("loss.returned[{at}].name"), problem));
    }
    faults
}
